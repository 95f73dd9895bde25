"""The cases of `rrg bench`: the gated fusion, the selective scan, and the models that stand on them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from runner import Case, Measurement, kept_bytes
from torch import Tensor
from torch.nn import functional as F

from rrg.ops.gated_fusion import gated_fusion, naive
from rrg.ops.selective_scan import BACKENDS, choice, selective_scan

Call = Callable[[], object]
# VMamba-T[s1l8] at 224 x 224: channels of the four directions together, and length, by stage.
STAGES = [(384, 3136), (768, 784), (1536, 196), (3072, 49)]


def gated(device: str, quick: bool) -> Iterator[Measurement]:
    """LEAD's gate: forward, forward and backward, and one decoded token, over the bare product h · W_h."""
    for host in (256,) if quick else (1024, 2048):
        for dtype in (torch.float32, torch.bfloat16):
            made = _gate(8, 256, host, device, dtype)
            name = f"host {host}, {str(dtype).removeprefix('torch.')}"
            with torch.inference_mode():
                yield Measurement(f"{name}, forward", made["forward"], "bare product", "as printed")
            both, kept = made["both"], {row: kept_bytes(call) for row, call in made["graph"].items()}
            yield Measurement(f"{name}, forward and backward", both, "bare product", "as printed", kept)
            with torch.inference_mode():
                yield Measurement(f"{name}, one token", made["token"], "bare product", "as printed")


def _gate(batch: int, text: int, host: int, device: str, dtype: torch.dtype) -> dict[str, dict[str, Call]]:
    torch.manual_seed(0)
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    hidden = torch.randn(batch, text, host, **options, requires_grad=True)
    expert = torch.randn(batch, host, **options, requires_grad=True)
    weight, of_expert = (torch.randn(host, host, **options).mul_(host**-0.5).requires_grad_() for _ in range(2))
    bias = torch.zeros(host, **options, requires_grad=True)
    whole = torch.cat([weight, of_expert], dim=1).detach().requires_grad_()
    upstream = torch.randn(batch, text, host, **options)

    def split(h: Tensor) -> Tensor:
        gate = torch.sigmoid(F.linear(h, weight) + F.linear(expert, of_expert, bias).unsqueeze(1))
        return torch.lerp(h, expert.unsqueeze(1), gate)

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "bare product": lambda h: F.linear(h, weight),
        "as printed": lambda h: naive.gated_fusion(h, expert, whole, bias),
        "split": split,
        "rrg": lambda h: gated_fusion(h, expert, F.linear(expert, of_expert, bias), weight),
    }
    token, half = hidden[:, -1:].detach(), F.linear(expert, of_expert, bias).detach()
    cached = {**ways, "rrg": lambda h: gated_fusion(h, expert, half, weight)}
    return {
        "forward": {name: lambda way=way: way(hidden) for name, way in ways.items()},
        "graph": {name: lambda way=way: way(hidden) for name, way in ways.items()},
        "both": {name: lambda way=way: way(hidden).backward(upstream) for name, way in ways.items()},
        "token": {name: lambda way=way: way(token) for name, way in cached.items()},
    }


def scan(device: str, quick: bool) -> Iterator[Measurement]:
    """VMamba-T's scans at batch 1; the loop over time is the reference, run at lengths below 1,000 alone."""
    for number, (channels, length) in reversed(list(enumerate(STAGES, start=1))):
        if quick and number < 4:
            return
        loop = ("naive",) if length < 1000 else ()
        names = [*loop, "chunked", *(name for name in BACKENDS if name not in ("naive", "chunked"))]
        reference = names[0]
        tensors = _scan_inputs(channels, length, device)
        for what, grad in (("forward", False), ("forward and backward", True)):
            rows = {name: _scan(tensors, name, grad) for name in names}
            yield Measurement(f"stage {number}, L {length}, {what}", rows, choice(tensors["u"]), reference)


def _scan_inputs(channels: int, length: int, device: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    # As SS2D hands them over: channels lie side by side.
    u, delta = (draw(1, length, channels).transpose(1, 2).requires_grad_() for _ in range(2))
    B, C = (draw(1, length, 4, 1).permute(0, 2, 3, 1).requires_grad_() for _ in range(2))
    A = (-draw(channels, 1).exp()).requires_grad_()
    D, bias = (draw(channels).requires_grad_() for _ in range(2))
    return {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": bias}


def _scan(tensors: dict[str, Tensor], backend: Any, grad: bool) -> Call:
    def call() -> object:
        with torch.set_grad_enabled(grad):
            y = selective_scan(**tensors, backend=backend)  # type: ignore[arg-type]
            return y.sum().backward() if grad else y

    return call


def vmamba(device: str, quick: bool) -> Iterator[Measurement]:
    """VMamba-T on a film of 224 x 224; the floor is the network without its scan."""
    import rrg_dast.vmamba as module

    torch.manual_seed(0)
    dims, depths, _ = module.SIZES["tiny"]
    network = module.VSSM(*((16, [1, 1, 1, 1]) if quick else (dims, depths)), 0.0).to(device)
    films = torch.randn(2, 3, 64 if quick else 224, 64 if quick else 224, device=device)

    def way(scan: Callable[..., Tensor], grad: bool) -> Call:
        def call() -> object:
            module.selective_scan, before = scan, module.selective_scan
            try:
                with torch.set_grad_enabled(grad):
                    y = network(films)
                    return y.sum().backward() if grad else y
            finally:
                module.selective_scan = before

        return call

    scans: dict[str, Callable[..., Tensor]] = {"without scan": lambda u, *rest, **options: u}
    for name in (n for n in BACKENDS if n != "naive"):
        scans[name] = lambda *tensors, name=name, **options: selective_scan(*tensors, **options, backend=name)
    for what, grad in (("forward", False), ("forward and backward", True)):
        rows = {name: way(scan, grad) for name, scan in scans.items()}
        yield Measurement(f"batch 2, {what}", rows, "without scan", "chunked")


def decoding(device: str, quick: bool) -> Iterator[Measurement]:
    """Greedy decoding of 60 tokens on SmolLM2-135M's architecture: the bare host, the gates' own products, LEAD."""
    import rrg._torchvision  # noqa: F401  before transformers
    from rrg.composition import compose
    from rrg.config import GenerationConfig
    from rrg.model import build
    from rrg.testing.data import batch_of, items

    host = "tiny" if quick else "smollm2-135m"
    tokens = 8 if quick else 60
    settings = {"image.size": 32, "host.source": "", "host.vocab_size": 1024}
    made = {}
    for name in ("core.train", "lead"):
        recipe = compose(name, host=host, settings=settings)
        made[name] = build(recipe, weights=False, tokenizer=_tokenizer()).to(device).eval()
    widths = made["lead"].host.width, len(made["lead"].host.layers)
    weights = [torch.randn(widths[0], widths[0], device=device) for _ in range(widths[1])]
    token = torch.randn(1, widths[0], device=device)
    generation = GenerationConfig.model_validate({"max_new_tokens": tokens})

    def write(name: str) -> Call:
        batch = {k: v.to(device) for k, v in batch_of(made[name], items([1]), learn=False).items()}
        return lambda: made[name].generate(dict(batch), generation, min_new_tokens=tokens)

    @torch.inference_mode()
    def products() -> None:
        for _ in range(tokens):
            for weight in weights:
                F.linear(token, weight)

    bare = write("core.train")
    rows = {"bare host": bare, "bare host and the gates' products": lambda: (bare(), products()), "lead": write("lead")}
    yield Measurement(f"{host}, {tokens} tokens", rows, "bare host and the gates' products", "bare host")


def _tokenizer() -> Any:
    from rrg.hosts.build import learn_tokenizer
    from rrg.testing.data import FINDINGS

    return learn_tokenizer(FINDINGS * 5, 320)


CASES = {
    case.name: case
    for case in (
        Case("gated-fusion", gated.__doc__ or "", ("test_gated_fusion.py",), gated),
        Case("selective-scan", scan.__doc__ or "", ("test_scan.py",), scan),
        Case("vmamba", vmamba.__doc__ or "", ("test_scan.py", "test_vmamba.py"), vmamba),
        Case("decoding", decoding.__doc__ or "", ("test_gated_fusion.py", "test_lead.py"), decoding),
    )
}
