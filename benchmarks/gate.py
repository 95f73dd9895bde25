"""Time LEAD's gate against its equations as printed, and against the bare matrix product h·W, its floor.

    python benchmarks/gate.py [--json] [--device cuda] [--quick]

Runs the gate's tests first and measures nothing if one fails. Rows of a block are interleaved in one run; figures are
ratios to the floor, from the minimum of the repeats.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rrg.axes import Axes
from rrg_lead.gate import Gate, GateConfig

SHAPES = [(8, 256, 256), (8, 256, 1024), (8, 256, 2048)]  # batch, text, host
TESTS = Path(__file__).parent.parent / "tests" / "test_lead.py"


def as_printed(gate: Gate, hidden: Tensor, embedding: Tensor) -> Tensor:
    """Eq. 1 and 2 word for word: concatenate, one linear layer, sigmoid, interpolate."""
    expanded = embedding.unsqueeze(1).expand_as(hidden)
    weight = torch.cat([gate.gate_hidden.weight, gate.gate_expert.weight], dim=1)
    g = torch.sigmoid(torch.nn.functional.linear(torch.cat([hidden, expanded], dim=-1), weight, gate.gate_bias))
    return (1 - g) * hidden + g * expanded


def measure(rows: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Seconds of each row, the minimum of interleaved repeats."""
    best = dict.fromkeys(rows, float("inf"))
    for repeat in range(repeats + 1):  # the first warms up
        for name, run in rows.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def case(batch: int, text: int, host: int, device: str, repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    gate = Gate(GateConfig(), Axes(host=host, layers=1, image=224), layer=0, first=None).to(device)
    hidden, expert = torch.randn(batch, text, host, device=device), torch.randn(batch, host, device=device)
    token = hidden[:, -1:]
    with torch.inference_mode():
        prepared = gate.prepare(expert)
        embedding = prepared.layer_embedding
        rows: dict[str, Callable[[], object]] = {
            "floor": lambda: gate.gate_hidden(hidden),
            "as printed": lambda: as_printed(gate, hidden, embedding),
            "rrg": lambda: gate(hidden, *prepared),
            "floor, one token": lambda: gate.gate_hidden(token),
            "as printed, one token": lambda: as_printed(gate, token, gate.project(expert)),
            "rrg, one token": lambda: gate(token, *prepared),
        }
        seconds = measure(rows, repeats, device)
    floors = {name: "floor, one token" if name.endswith("token") else "floor" for name in rows}
    return {name: seconds[name] / seconds[floors[name]] for name in rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="the smallest shape, three repeats")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if subprocess.run([sys.executable, "-m", "pytest", "-q", str(TESTS)], stdout=sys.stderr, check=False).returncode:
        print("the gate's tests fail: nothing was measured", file=sys.stderr)
        return 1
    shapes, repeats = (SHAPES[:1], 3) if args.quick else (SHAPES, 20)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    results = {f"{b}x{t}x{h}": case(b, t, h, args.device, repeats) for b, t, h in shapes}
    header = {"machine": machine, "threads": torch.get_num_threads(), "torch": torch.__version__, "dtype": "float32"}
    if args.json:
        print(json.dumps({**header, "ratio to the floor": results}, indent=2))
        return 0
    print(", ".join(f"{key} {value}" for key, value in header.items()))
    for shape, row in results.items():
        print(f"\n{shape}, time over the bare product")
        for name, ratio in row.items():
            print(f"  {name:<22} {ratio:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
