"""Checks of every module: encoders, connectors, injectors, losses, retrievers."""

import copy
import json
import tempfile
import tomllib
from pathlib import Path

import tomli_w
import torch
from beartype.door import is_bearable
from jaxtyping import jaxtyped
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rrg.composing.contract import Port
from rrg.errors import RRGError
from rrg.testing.case import Case, Example, copied, differs
from rrg.testing.checks import MODULES, REPEATS, RUNS, broken, check, declared

BY_ROW = ("encoder", "connector", "injector", "retriever")


@check(*MODULES, "stage", needs=())
def contract(case: Case) -> None:
    """has annotations and default settings that can be read"""
    try:
        _ = case.contract
    except RRGError as error:
        broken(error.message.removeprefix(f"piece {case.name}: "))


@check(*MODULES, needs=())
def builds(case: Case) -> None:
    """builds with default settings, on the CPU and on the meta device"""

    def body(example: Example) -> None:
        case.build(case.axes(example))
        with torch.device("meta"):
            module = case.build(case.axes(example))
        real = [name for name, parameter in module.named_parameters() if not parameter.is_meta]
        broken(f"on the meta device {real[0]} holds real values" if real else None)

    case.forall(body, ordinary=True)


@check(*MODULES, needs=("builds",))
def shapes(case: Case) -> None:
    """gives the annotated types and axes for tensors of the annotated types and axes"""

    def body(example: Example) -> None:
        tensors, module = case.tensors(example), case.fresh(example)
        with torch.no_grad():
            given = case.call(module, tensors)
        for signal, attribute in (("patch_tokens", "vision"), ("report_tokens", "language")):
            if signal in given and getattr(module, attribute, None) != given[signal].shape[-1]:
                broken(f"an attribute `{attribute}` must say the width of its {signal}")
        with jaxtyped("context"):
            for axis in ("host", "diseases", "layers"):  # known sizes are bound first, then those of the arguments
                is_bearable(torch.empty(example.sizes[axis]), case.hint(Port(axis, axis, axis, "Float")))
            for port in (p for p in case.reads if p.argument in tensors):
                is_bearable(tensors[port.argument], case.hint(port))
            for port in (p for p in case.gives if p.argument in given):
                value = given[port.argument]
                if not is_bearable(value, case.hint(port)):
                    shape = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                    broken(f'{port.argument} is annotated {port.dtype}[Tensor, "{port.axes}"] and is {shape}')

    case.forall(body)


@check("encoder", "connector")
def planned(case: Case) -> None:
    """runs on the meta device, whose tensors have shapes and no values"""

    def body(example: Example) -> None:
        tensors = {name: tensor.to("meta") for name, tensor in case.tensors(example).items()}
        with torch.device("meta"), torch.no_grad():
            case.call(case.build(case.axes(example)).eval(), tensors)

    case.forall(body, ordinary=True)


@check(*MODULES)
def dtypes(case: Case) -> None:
    """keeps float32 and, moved to bfloat16, bfloat16; a loss or a key may be float32 always"""

    def body(example: Example) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            module = case.fresh(example).to(dtype)
            with torch.no_grad():
                given = case.call(module, case.tensors(example, dtype))
            allowed = {dtype, torch.float32} if case.kind in ("loss", "retriever") else {dtype}
            for name, value in given.items():
                wrong = value.is_floating_point() and value.dtype not in allowed
                broken(f"{name} is {value.dtype} for {dtype} inputs" if wrong else None)

    case.forall(body, ordinary=True)


@check(*MODULES)
def finite(case: Case) -> None:
    """gives finite values for finite inputs, small and large"""

    def body(example: Example) -> None:
        with torch.no_grad():
            given = case.call(case.fresh(example), case.tensors(example))
        bad = [name for name, value in given.items() if not value.isfinite().all()]
        broken(f"{bad[0]} is not finite" if bad else None)

    case.forall(body, batch=(2, 3) if case.kind == "loss" else (1, 2, 3))  # a loss of one study has its own check


@check(*MODULES)
def inputs_kept(case: Case) -> None:
    """writes into none of its inputs"""

    def body(example: Example) -> None:
        tensors = case.tensors(example)
        before = copied(tensors)
        with torch.no_grad():
            case.call(case.fresh(example), tensors)
        changed = [n for n, t in tensors.items() if not torch.equal(t.nan_to_num(7.0), before[n].nan_to_num(7.0))]
        broken(f"{changed[0]} was written into" if changed else None)

    case.forall(body)


@check(*MODULES)
def deterministic(case: Case) -> None:
    """gives the same twice in evaluation mode"""

    def body(example: Example) -> None:
        module, tensors = case.fresh(example), case.tensors(example)
        with torch.no_grad():
            change = differs(case.call(module, tensors), case.call(module, tensors), exact=True)
        broken(f"two calls differ: {change}" if change else None)

    case.forall(body, ordinary=True)


@check(*MODULES, needs=(*RUNS, "deterministic"))
def requests(case: Case) -> None:
    """remembers nothing of the request before"""

    def body(example: Example) -> None:
        used, fresh = case.fresh(example), case.fresh(example)
        tensors = case.tensors(example)
        with torch.no_grad():
            case.call(used, case.tensors(Example(example.sizes, example.seed + 1)))
            change = differs(case.call(used, tensors), case.call(fresh, tensors), exact=True)
        broken(f"a second request differs from the same request alone: {change}" if change else None)

    case.forall(body, ordinary=True)


@check(*BY_ROW, needs=REPEATS)
def rows(case: Case) -> None:
    """gives a study the same alone and in a batch"""

    def body(example: Example) -> None:
        module, tensors = case.module(example), case.tensors(example)
        with torch.no_grad():
            whole = case.call(module, tensors)
            for row in range(example.sizes["batch"]):
                alone = case.call(module, {name: t[row : row + 1] for name, t in tensors.items()})
                change = differs({n: v[row : row + 1] for n, v in whole.items()}, alone)
                broken(f"study {row} in the batch differs from itself alone: {change}" if change else None)

    case.forall(body, ordinary=True, batch=(2, 3))


@check(*BY_ROW, "loss", applies=lambda case: bool(case.masks()), needs=REPEATS)
def masked(case: Case) -> None:
    """looks at nothing that a mask leaves out, whatever stands there"""

    def body(example: Example) -> None:
        module, tensors = case.module(example), case.tensors(example)
        with torch.no_grad():
            clean = case.call(module, tensors)
            for fill in (1e4, torch.inf, torch.nan):
                spoilt = copied(tensors)
                for mask, others in case.masks():
                    for port in (port for port in others if port.argument in spoilt and mask.argument in spoilt):
                        spoilt[port.argument][~spoilt[mask.argument]] = fill
                change = differs(clean, case.call(module, spoilt))
                broken(f"{fill} in masked places changes {change}" if change else None)

    case.forall(body, ordinary=True, patches=(2, 5), slots=(2, 5), report=(2, 5), views=(2, 3))


@check(*BY_ROW, "loss", applies=lambda case: any(mask.signal != "view_mask" for mask, _ in case.masks()))
def all_masked(case: Case) -> None:
    """stays finite for a study of which a mask leaves nothing"""

    def body(example: Example) -> None:
        tensors = case.tensors(example)
        for mask, _ in case.masks():
            if mask.signal != "view_mask" and mask.argument in tensors:  # a study has a film
                tensors[mask.argument][0] = False
        with torch.no_grad():
            given = case.call(case.fresh(example), tensors)
        bad = [name for name, value in given.items() if not value.isfinite().all()]
        broken(f"{bad[0]} is not finite" if bad else None)

    case.forall(body, ordinary=True)


@check(*MODULES)
def gradients(case: Case) -> None:
    """sends a gradient to every parameter that asks for one, and to no other"""
    reached: dict[str, bool] = {}

    def body(example: Example) -> None:
        module = case.fresh(example).train()
        given = case.call(module, case.tensors(example))
        values = [value.float() for value in given.values() if value.requires_grad]
        if values:
            torch.manual_seed(example.seed)
            torch.stack([(value * torch.randn_like(value)).sum() for value in values]).sum().backward()
        for name, parameter in module.named_parameters():
            moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            broken(f"{name} is frozen and gets a gradient" if moved and not parameter.requires_grad else None)
            if parameter.requires_grad:
                reached[name] = reached.get(name, False) or moved

    case.forall(body, ordinary=True, batch=(3,), patches=(2, 5), slots=(2, 5), report=(2, 5), text=(2, 5))
    idle = [name for name, moved in reached.items() if not moved]
    broken(f"no gradient reaches {', '.join(idle)}; delete it, or set requires_grad=False" if idle else None)


@check(*MODULES)
def no_0d(case: Case) -> None:
    """has no parameter without an axis, which FSDP2 refuses"""

    def body(example: Example) -> None:
        flat = [name for name, parameter in case.module(example).named_parameters() if parameter.ndim == 0]
        broken(f"{flat[0]} has no axis; give it the shape (1,)" if flat else None)

    case.forall(body, ordinary=True)


@check(*MODULES, needs=REPEATS)
def saved(case: Case) -> None:
    """is the same after its parameters and buffers went through safetensors"""

    def body(example: Example) -> None:
        module, tensors = case.module(example), case.tensors(example)
        twin = case.fresh(example, seed=1)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / "piece.safetensors"
            own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            save_file({name: tensor.detach().clone() for name, tensor in own.items()}, path)
            loaded = load_file(path)
            for name, tensor in {**dict(twin.named_parameters()), **dict(twin.named_buffers())}.items():
                tensor.copy_(loaded[name])
            change = differs(case.call(module, tensors), case.call(twin, tensors), exact=True)
        broken(f"loaded, it differs: {change}" if change else None)

    case.forall(body, ordinary=True)


@check(*MODULES, needs=REPEATS)
def copies(case: Case) -> None:
    """can be deep-copied; the copy gives the same, and training it leaves the original alone"""

    def body(example: Example) -> None:
        module, tensors = case.module(example), case.tensors(example)
        twin = copy.deepcopy(module)
        with torch.no_grad():
            before = case.call(module, tensors)
            change = differs(before, case.call(twin, tensors), exact=True)
            broken(f"the copy differs: {change}" if change else None)
            for parameter in twin.parameters():
                parameter.add_(1.0)
            change = differs(before, case.call(module, tensors), exact=True)
        broken(f"changing the copy changes the original: {change}" if change else None)

    case.forall(body, ordinary=True)


@check(*MODULES, "stage", needs=())
def config_toml(case: Case) -> None:
    """reads its default settings back from TOML as they are"""
    config = case.contract.config()
    written = tomllib.loads(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    back = case.contract.config.model_validate_json(json.dumps(written))
    before, after = vars(config), vars(back)
    lost = [name for name in before if after[name] != before[name]]
    broken(f"{lost[0]} is {after[lost[0]]!r} after TOML, {before[lost[0]]!r} before" if lost else None)


@check(*MODULES, "stage", needs=())
def unknown_setting(case: Case) -> None:
    """refuses a setting that it doesn't have"""
    try:
        case.contract.config.model_validate({"no_such_setting": 1})
    except ValidationError:
        return
    broken("no_such_setting=1 was taken")


@check("encoder", applies=lambda case: any(port.signal == "pixel_values" for port in case.contract.reads))
def films(case: Case) -> None:
    """reads one film and several, of every size that it declares"""

    def body(example: Example) -> None:
        with torch.no_grad():
            given = case.call(case.module(example), case.tensors(example))
        empty = [name for name, value in given.items() if 0 in value.shape]
        broken(f"{empty[0]} is empty" if empty else None)

    for size in case.declares("image_sizes") or (32,):
        for views in (1, 2, 4):
            case.forall(body, ordinary=True, views=(views,), height=(size,))


@check("encoder", "connector")
def frozen(case: Case) -> None:
    """changes no parameter or buffer in evaluation mode with everything frozen"""

    def body(example: Example) -> None:
        module = case.fresh(example).requires_grad_(False)
        before = {name: t.clone() for name, t in (*module.named_parameters(), *module.named_buffers())}
        case.call(module, case.tensors(example))
        after = dict((*module.named_parameters(), *module.named_buffers()))
        moved = [name for name, t in before.items() if not torch.equal(after[name], t)]
        broken(f"{moved[0]} changed" if moved else None)

    case.forall(body, ordinary=True)


@check("loss")
def one_study(case: Case) -> None:
    """is a finite scalar for a batch of one, and sends back a finite gradient"""

    def body(example: Example) -> None:
        tensors = case.tensors(example)
        leaves = [t.requires_grad_() for n, t in tensors.items() if t.is_floating_point() and n != "disease_labels"]
        [loss] = case.call(case.fresh(example), tensors).values()
        broken(f"the loss is {loss}" if loss.shape != () or not loss.isfinite() else None)
        broken(None if loss.requires_grad else "no gradient leaves it")
        loss.backward()
        bad = any(leaf.grad is not None and not leaf.grad.isfinite().all() for leaf in leaves)
        broken("a gradient is not finite" if bad else None)

    case.forall(body, ordinary=True, batch=(1,))


@check("loss", applies=declared("order_invariant"), needs=REPEATS)
def order_of_batch(case: Case) -> None:
    """doesn't depend on the order of the batch, as it declares"""

    def body(example: Example) -> None:
        module, tensors = case.module(example), case.tensors(example)
        with torch.no_grad():
            change = differs(case.call(module, tensors), case.call(module, {n: t.flip(0) for n, t in tensors.items()}))
        broken(f"the batch turned round gives another loss: {change}" if change else None)

    case.forall(body, ordinary=True, batch=(2, 3))
