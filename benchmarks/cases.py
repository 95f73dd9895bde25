"""The cases of `rrg bench`: the gated fusion, the selective scan, the models that stand on them, language metrics,
films and imports.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from films import films
from floors import CPU_FLOOR, GPU_FLOOR, floor_rows
from importing import importing
from runner import Case, Measurement
from torch import Tensor
from torch.nn import functional as F

import rrg._torchvision  # noqa: F401  before transformers
from rrg.composing.composition import compose
from rrg.config import GenerationConfig
from rrg.model.hosts.build import learn_tokenizer
from rrg.model.model import build
from rrg.ops.gated_fusion import expert_half, gated_fusion, naive
from rrg.ops.selective_scan import MAMBA_SSM, ORDERED, choice, selective_scan, selective_scan_2d
from rrg.testing.data import FINDINGS, batch_of, items

Call = Callable[[], object]
# VMamba-T[s1l8] at 224 x 224: channels of the four directions together, and length, by stage.
STAGES = [(384, 3136), (768, 784), (1536, 196), (3072, 49)]


def gated(device: str, quick: bool) -> Iterator[Measurement]:
    """LEAD's gate: forward, forward and backward, and one decoded token, over the bare product h · W_h.

    Without instructions for bfloat16 a CPU takes a minute for its backward products at 2,048, which are left out.
    """
    for host in (256,) if quick else (1024, 2048):
        for dtype in (torch.float32, torch.bfloat16):
            made = _gate(8, 256, host, device, dtype)
            name = f"host {host}, {str(dtype).removeprefix('torch.')}"
            with torch.inference_mode():
                yield Measurement(f"{name}, forward", made["forward"], "bare product", "as printed")
                yield Measurement(f"{name}, one token", made["token"], "bare product", "as printed")
            if (
                device == "cpu"
                and dtype == torch.bfloat16
                and host > 1024
                and not torch.cpu._is_avx512_bf16_supported()
            ):
                continue
            yield Measurement(f"{name}, forward and backward", made["both"], "bare product", "as printed", memory=True)


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
        "rrg": lambda h: gated_fusion(h, expert, expert_half(expert, of_expert, bias), weight),
    }
    token, half = hidden[:, -1:].detach(), expert_half(expert, of_expert, bias).detach()
    cached = {**ways, "rrg": lambda h: gated_fusion(h, expert, half, weight)}
    return {
        "forward": {name: lambda way=way: way(hidden) for name, way in ways.items()},
        "both": {name: lambda way=way: way(hidden).backward(upstream) for name, way in ways.items()},
        "token": {name: lambda way=way: way(token) for name, way in cached.items()},
    }


def scan(device: str, quick: bool) -> Iterator[Measurement]:
    """VMamba-T's scans at batch 1; the loop over time is the reference, apart where it takes seconds. The floor is what
    takes longer: the exponentials, the quicker of torch's and the kernels' own, or the bytes read and written once.
    """
    floor = CPU_FLOOR if device == "cpu" else GPU_FLOOR
    for number, (channels, length) in reversed(list(enumerate(STAGES, start=1))):
        if quick and number < 4:
            return
        tensors = _scan_inputs(channels, length, device)
        short = {  # a network's parameters stay float32
            name: tensor.detach().bfloat16().requires_grad_() if name in ("u", "delta", "B", "C") else tensor
            for name, tensor in tensors.items()
        }
        best = choice(tensors["u"])
        for what, grad in (("forward", False), ("forward and backward", True)):
            loop = {"naive": _scan(tensors, "naive", grad)}
            names = [*(loop if length < 1000 or not grad else []), *_here(device)]
            rows = {name: _scan(tensors, name, grad) for name in names}
            rows[f"{best}, bfloat16"] = _scan(short, best, grad)
            if find_spec("mambapy"):
                rows["mamba.py"] = _mamba_py(tensors, grad)
            rows |= floor_rows(tensors, grad)
            yield Measurement(f"stage {number}, L {length}, {what}", rows, floor, names[0])
            if "naive" not in names:  # its backward pass takes time as the square of the length
                rows = loop | {best: rows[best]} | floor_rows(tensors, grad)
                yield Measurement(f"stage {number}, L {length}, {what}, the loop", rows, floor, "naive")


def _here(device: str) -> list[str]:
    """The scan's backends on a device, but for the loop."""
    if device == "cpu":
        return ["chunked", "cpu"]
    return ["chunked", "triton", *(["mamba-ssm"] if MAMBA_SSM else [])]


def _mamba_py(tensors: dict[str, Tensor], grad: bool) -> Call:
    """The same scan by mamba.py's parallel scan, in plain PyTorch."""
    from mambapy.pscan import pscan

    def scan(*, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
        step = F.softplus((delta + delta_bias[:, None]).transpose(1, 2)).unflatten(2, (B.shape[1], -1))
        x = u.transpose(1, 2).unflatten(2, step.shape[2:])
        B, C = (each.permute(0, 3, 1, 2).unsqueeze(3) for each in (B, C))  # (batch length groups 1 N)
        decay = (step.unsqueeze(-1) * A.unflatten(0, step.shape[2:])).exp()
        added = (step * x).unsqueeze(-1) * B
        h = pscan(decay.flatten(2, 3), added.flatten(2, 3)).unflatten(2, step.shape[2:])
        return ((h * C).sum(-1) + D.unflatten(0, step.shape[2:]) * x).flatten(2).transpose(1, 2)

    return _call(scan, tensors, grad)


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
    return _call(partial(selective_scan, backend=backend), tensors, grad)


def _call(scan: Callable[..., Tensor], tensors: dict[str, Tensor], grad: bool) -> Call:
    """The scan, or it and the gradient of every tensor, as of a step that finds no gradients there."""
    upstream = torch.randn_like(tensors["u"])  # laid out as u is

    def call() -> object:
        with torch.set_grad_enabled(grad):
            y = scan(**tensors)
            return torch.autograd.grad(y, list(tensors.values()), upstream) if grad else y

    return call


def vmamba(device: str, quick: bool) -> Iterator[Measurement]:
    """VMamba-T on films of 224 x 224. The floor reads its maps in four orders and adds them up, without a scan between;
    the last row leaves the orders out too.
    """
    import rrg_dast.vmamba as module

    torch.manual_seed(0)
    dims, depths, _ = module.SIZES["tiny"]
    network = module.VSSM(*((16, [1, 1, 1, 1]) if quick else (dims, depths)), 0.0).to(device)
    films = torch.randn(2, 3, 64 if quick else 224, 64 if quick else 224, device=device)

    def way(scan: Callable[..., Tensor], grad: bool) -> Call:
        def call() -> object:
            module.selective_scan_2d, before = scan, module.selective_scan_2d
            try:
                with torch.set_grad_enabled(grad):
                    y = network(films)
                    return y.sum().backward() if grad else y
            finally:
                module.selective_scan_2d = before

        return call

    scans: dict[str, Callable[..., Tensor]] = {"identity scan": _orders}
    for name in _here(device):
        if name in ORDERED or name == "chunked":
            scans[name] = lambda *tensors, name=name, **options: selective_scan_2d(*tensors, **options, backend=name)
    scans["no scan"] = lambda u, *rest, **options: u
    for what, grad in (("forward", False), ("forward and backward", True)):
        rows = {name: way(scan, grad) for name, scan in scans.items()}
        yield Measurement(f"batch 2, {what}", rows, "identity scan", "chunked")


def _orders(u: Tensor, *rest: object, **options: object) -> Tensor:
    """A map read in four orders into memory of its own, and put back together."""
    x = u.permute(0, 2, 3, 1)
    by_row, by_column = x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)
    reads = torch.stack([by_row, by_column, by_row.flip(1), by_column.flip(1)], dim=2)
    by_row, by_column = (reads[:, :, :2] + reads[:, :, 2:].flip(1)).unbind(2)
    y = by_row.unflatten(1, x.shape[1:3]) + by_column.unflatten(1, x.shape[2:0:-1]).transpose(1, 2)
    return y.permute(0, 3, 1, 2)


def retrieval(device: str, quick: bool) -> Iterator[Measurement]:
    """32 queries, 4 answers each, among 480,000 keys of 782 numbers: exact search, and faiss where it is installed."""
    from rrg.ops.nearest import IVF, Nearest

    count, width = (20_000, 48) if quick else (480_000, 782)
    generator = torch.Generator().manual_seed(0)
    for kind in ("as encoders give them", "alike in all directions"):
        keys = torch.randn(count, width, generator=generator)
        if kind == "as encoders give them":
            # The spectrum of mean patch vectors of chest films: the first direction, common to all films, holds 86 %
            # of their squared length, eight hold 98 %, 64 hold 99.5 %.
            keys *= torch.arange(1, width + 1).float().pow(-1.1)
            keys[:, 0] = 2.7 * keys.norm(dim=1)
        keys = F.normalize(keys, dim=1)
        near = keys[torch.randint(count, (32,), generator=generator)]
        queries = F.normalize(near + 0.01 * torch.randn(near.shape, generator=generator) * keys.std(dim=0), dim=1)
        ours = Nearest(keys)
        rows: dict[str, Call] = {
            "product": lambda q=queries, k=keys: q @ k.T,
            "product, top 4": lambda q=queries, k=keys: (q @ k.T).topk(4),
            "rrg, exact": lambda q=queries, ours=ours: ours.search(q, 4),
        }
        found = ours.search(queries, 4)[1]
        exact = (queries.double() @ keys.double().T if quick else queries @ keys.T).topk(4).indices
        what = f"{count:,} keys {kind}, recall {_recall(found, exact):.3f}, {_megabytes(ours)}"
        if find_spec("faiss"):
            cells = IVF.of(keys)
            rows["faiss IVF"] = lambda q=queries, cells=cells: cells.search(q, 4)
            what += f", of faiss {_recall(cells.search(queries, 4)[1], exact):.3f}"
        yield Measurement(what, rows, "product", "product, top 4")


def _recall(found: Tensor, exact: Tensor) -> float:
    return sum(len({*a} & {*b}) for a, b in zip(found.tolist(), exact.tolist(), strict=True)) / exact.numel()


def _megabytes(nearest: Any) -> str:
    table = nearest.table.rows.nbytes if nearest.table else 0
    return f"{nearest.keys.nbytes / 2**20:,.0f} MiB of keys and {table / 2**20:,.0f} MiB of a table"


def training_step(device: str, quick: bool) -> Iterator[Measurement]:
    """A step of 2 studies on SmolLM2-135M's architecture, trained by adapters: the bare host, and LEAD."""
    made, _ = _models(device, quick)
    rows: dict[str, Call] = {}
    for name, model in made.items():
        model.begin("lead.train")
        batch = {k: v.to(device) for k, v in batch_of(model, items([1, 2])).items()}
        rows[name] = lambda model=model, batch=batch: model(**batch)["loss"].backward()
    yield Measurement("2 studies, forward and backward", rows, "bare host", "bare host")


def decoding(device: str, quick: bool) -> Iterator[Measurement]:
    """Greedy decoding of 60 tokens on SmolLM2-135M's architecture: the bare host, the gates' own products, LEAD."""
    tokens = 8 if quick else 60
    made, host = _models(device, quick)
    layers, width = made["bare host"].host.layers, made["bare host"].host.width
    weights = [torch.randn(width, width, device=device) for _ in layers]
    generation = GenerationConfig.model_validate({"max_new_tokens": tokens})

    def write(name: str) -> Call:
        batch = {k: v.to(device) for k, v in batch_of(made[name], items([1]), learn=False).items()}
        return lambda: made[name].generate(dict(batch), generation, min_new_tokens=tokens)

    bare = write("bare host")

    def multiply(weight: Tensor, layer: Any, given: Any, hidden: Tensor) -> None:
        F.linear(hidden, weight)

    def products() -> None:
        """Each where its gate stands: in a loop of their own they would find their weights in the cache."""
        hooks = [
            layer.register_forward_hook(partial(multiply, weight))
            for layer, weight in zip(layers, weights, strict=True)
        ]
        bare()
        for hook in hooks:
            hook.remove()

    rows = {"bare host": bare, "bare host and the gates' products": products, "lead": write("lead")}
    yield Measurement(f"{host}, {tokens} tokens", rows, "bare host and the gates' products", "bare host")


def _models(device: str, quick: bool) -> tuple[dict[str, Any], str]:
    """The bare host and LEAD by its name, with random weights, and the host's name."""
    host = "tiny" if quick else "smollm2-135m"
    settings = {"image.size": 32, "host.source": "", "host.vocab_size": 1024}
    left_out = {"bare host": ["lead.experts", "lead.gate", "lead.bce"], "lead": []}  # both have the stage's adapters
    recipes = {name: compose("lead", host=host, drop=drop, settings=settings) for name, drop in left_out.items()}
    made = {name: build(recipe, weights=False, tokenizer=_tokenizer()) for name, recipe in recipes.items()}
    return {name: model.to(device).eval() for name, model in made.items()}, host


def language(device: str, quick: bool) -> Iterator[Measurement]:
    """BLEU, ROUGE-L and CIDEr of 12,000 reports, each against another one: pycocoevalcap's scorers and ours. The floor
    splits the texts into words. Real reports where RRG_IU_XRAY names IU X-Ray's folder.
    """
    import numpy as np
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    from rrg.evaluate.language import language_scores
    from rrg.evaluate.protocol import RULES, clean

    def peer(made: Sequence[str], given: Sequence[str]) -> None:
        hypotheses, references = ({i: [text] for i, text in enumerate(texts)} for texts in (made, given))
        Bleu(4).compute_score(references, hypotheses, verbose=0)
        Rouge().compute_score(references, hypotheses)
        Cider().compute_score(references, hypotheses)

    rng = np.random.default_rng(0)
    for name, reports in _reports(rng).items():
        texts = [
            clean(reports[i], RULES["iu"]) for i in rng.integers(len(reports), size=2 * (100 if quick else 12_000))
        ]
        made, given = texts[::2], texts[1::2]
        rows: dict[str, Call] = {
            "split into words": lambda texts=texts: [text.split() for text in texts],
            "pycocoevalcap": lambda made=made, given=given: peer(made, given),
            "rrg": lambda made=made, given=given: language_scores(made, given),
        }
        words = np.mean([len(text.split()) for text in texts])
        what = f"{len(made):,} pairs of {name} reports, {words:.0f} words each"
        yield Measurement(what, rows, "split into words", "pycocoevalcap")


def _reports(rng: Any) -> dict[str, list[str]]:
    """Findings texts by source."""
    from rrg.data.phantom.findings import sample_findings
    from rrg.data.phantom.reports import write_report

    made = {"phantom": [write_report(sample_findings(rng), rng).findings for _ in range(3000)]}
    if folder := os.environ.get("RRG_IU_XRAY"):
        splits = json.loads((Path(folder) / "annotation.json").read_text(encoding="utf-8"))
        made["IU X-Ray"] = [item["report"] for items in splits.values() for item in items]
    return made


def _tokenizer() -> Any:
    return learn_tokenizer(FINDINGS * 5, 320)


CASES = {
    case.name: case
    for case in (
        Case("gated-fusion", gated.__doc__ or "", ("test_gated_fusion.py",), gated),
        Case("selective-scan", scan.__doc__ or "", ("test_scan.py", "test_scan_cpu.py", "test_triton.py"), scan),
        Case("vmamba", vmamba.__doc__ or "", ("test_scan_2d.py", "test_vmamba.py"), vmamba),
        Case("retrieval", retrieval.__doc__ or "", ("test_nearest.py", "test_retrieval.py"), retrieval),
        Case("training-step", training_step.__doc__ or "", ("test_gated_fusion.py", "test_lead.py"), training_step),
        Case("language", language.__doc__ or "", ("test_evaluate_language.py",), language),
        Case("import", importing.__doc__ or "", ("test_data_store.py",), importing),
        Case("films", films.__doc__ or "", ("test_batch.py", "test_stream.py", "test_data_films.py"), films),
        Case("decoding", decoding.__doc__ or "", ("test_gated_fusion.py", "test_lead.py"), decoding),
    )
}
