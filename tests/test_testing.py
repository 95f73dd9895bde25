"""`rrg test`: ten bugs in copies of LEAD and DMSR are caught, known failures, selections, exit codes."""

# ruff: noqa: F811  (the fixture `install` is imported)

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rrg_dast.dmsr
import rrg_lead.experts
import rrg_lead.gate
from fake_distributions import Install, install, piece  # noqa: F401
from rrg.cli import main
from rrg.retrieve.index import Index
from rrg.testing import CHECKS, due, select

# What is copied, what is changed in it, and the check that must say so.
BUGS = {
    "wrong axis": (rrg_lead.experts, "self.third(feature).squeeze(-1)", "self.third(feature)", "shapes"),
    "ignored mask": (rrg_lead.experts, "masked_mean(tokens, mask)", "tokens.mean(dim=1)", "masked"),
    "gate off by one layer": (
        rrg_lead.gate,
        "embedding = self.project(expert_embedding)\n",
        "own = Gate.of_layer[self.layer] = self.project(expert_embedding)\n"
        "        before = Gate.of_layer.get(self.layer - 1, own)\n"
        "        embedding = before if before.shape == own.shape else own\n",
        "layers",
    ),
    "embedding of another row": (
        rrg_lead.gate, "layer_embedding, expert_half, self", "layer_embedding.roll(1, 0), expert_half, self", "rows",
    ),
    "cache not cleared between requests": (
        rrg_lead.gate,
        "embedding = self.project(expert_embedding)\n",
        "self.kept = embedding = getattr(self, 'kept', self.project(expert_embedding))\n",
        "requests",
    ),
    "in-place write": (
        rrg_lead.gate, "return gated_fusion(hidden, layer_embedding, expert_half, self.gate_hidden.weight, self._up)",
        "return hidden.copy_(gated_fusion(hidden, layer_embedding, expert_half, self.gate_hidden.weight, self._up))",
        "inputs_kept",
    ),
    "unnormalised score": (
        rrg_dast.dmsr, "F.normalize(visual_mean.float(), dim=-1)", "visual_mean.float()", "unit_keys",
    ),
    "dropout left on": (
        rrg_lead.experts, "weighted = torch.sigmoid(logits)",
        "weighted = F.dropout(torch.sigmoid(logits), 0.5, training=True)", "deterministic",
    ),
    "wrong dtype in bfloat16": (
        rrg_lead.gate, "gated_fusion(hidden, layer_embedding, expert_half, self.gate_hidden.weight, self._up)",
        "gated_fusion(hidden, layer_embedding, expert_half, self.gate_hidden.weight, self._up).float()", "dtypes",
    ),
}  # fmt: skip
KINDS = {
    rrg_lead.experts: ("rrg_encoders", "Experts"),
    rrg_lead.gate: ("rrg_injectors", "Gate"),
    rrg_dast.dmsr: ("rrg_retrievers", "DMSR"),
}
SIZES = r"(batch=\d+ .*host=\d+|batch=2 text=5 host=24)"


def install_copy(install: Install, module: object, old: str = "", new: str = "") -> None:
    """The plugin `mine` with a copy of one module of ours, one passage changed."""
    source = inspect.getsource(module)  # type: ignore[arg-type]
    assert not old or source.count(old) == 1
    # For the gate that is off by one layer.
    source = source.replace("        self.fusion =", "        self.layer = layer\n        self.fusion =")
    source = source.replace("    def prepare(", "    of_layer: dict = {}\n\n    def prepare(")
    hook, cls = KINDS[module]
    install("mine", piece(hook, "mine.piece", f"mine_copy:{cls}"), mine_copy=source.replace(old, new))


def lines(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main(["test", *words])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_caught(bug: str, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    module, old, new, check = BUGS[bug]
    install_copy(install, module, old, new)
    code, out = lines(["mine"], capsys)
    assert code == 1
    found = [line for line in out if line.startswith("  mine.piece: ")]
    assert any(line.startswith(f"  mine.piece: {check}: ") for line in found), out
    assert all(re.search(SIZES, line) for line in found), out


def test_a_retrieval_that_leaks_is_caught(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = inspect.getsource(Index.search).replace(" if place not in mine", "")
    assert source != inspect.getsource(Index.search)
    space = dict(vars(sys.modules["rrg.retrieve.index"]))
    exec(inspect.cleandoc("\n" + source), space)
    monkeypatch.setattr(Index, "search", space["search"])
    install_copy(install, rrg_dast.dmsr)
    code, out = lines(["mine"], capsys)
    assert code == 1
    assert re.match(rf"  mine\.piece: leaks: s0 is answered with itself .*{SIZES}", out[1]), out


@pytest.mark.parametrize("module", KINDS)
def test_the_copies_without_a_bug_pass(module: object, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install_copy(install, module)
    code, out = lines(["mine"], capsys)
    assert (code, len(out)) == (0, 1), out


@pytest.mark.parametrize("plugin", ["core", "lead", "s2d-align", "vdgen", "dast"])
def test_our_own_plugins_pass(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = lines([plugin, "--examples", "4"], capsys)
    assert (code, len(out)) == (0, len(select([plugin]))), out


@pytest.mark.parametrize("words", [["nobody"], ["lead", "nobody"]])
def test_a_name_that_means_nothing_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *words]) == 2
    assert "nobody: no such plugin or piece" in capsys.readouterr().err


def test_a_broken_plugin_is_named_with_its_reason(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("mine", "raise ImportError('no such thing')")
    assert main(["test", "mine"]) == 2
    assert "its plugin is broken: mine cannot be imported: ImportError: no such thing" in capsys.readouterr().err


def test_no_examples_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "dmsr", "--examples", "0"]) == 2
    assert "give 1 or more" in capsys.readouterr().err


def test_a_known_failure_passes_and_a_stale_one_fails(
    tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    module, old, new, check = BUGS["unnormalised score"]
    install_copy(install, module, old, new)
    known = tmp_path / "known.txt"
    known.write_text(f"# not normalised yet\nmine.piece {check}\n", encoding="utf-8")
    code, out = lines(["mine", "--xfail", str(known)], capsys)
    assert (code, out[1].startswith(f"  known: mine.piece: {check}: ")) == (0, True)
    known.write_text(f"mine.piece {check}\nmine.piece rows\n", encoding="utf-8")
    code, out = lines(["mine", "--xfail", str(known)], capsys)
    assert code == 1
    assert out[-1].startswith("stale: mine.piece rows: ")


@pytest.mark.parametrize("content", ["one two three\n", "alone\n"])
def test_an_xfail_file_that_cannot_be_read(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "known.txt"
    assert main(["test", "dmsr", "--xfail", str(path)]) == 2
    path.write_text(content, encoding="utf-8")
    assert main(["test", "dmsr", "--xfail", str(path)]) == 2
    assert "expected `PIECE CHECK` a line" in capsys.readouterr().err


def test_json_holds_every_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "dmsr", "--examples", "2", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {row["piece"] for row in content["results"]} == {"dast.dmsr"}
    assert {row["check"] for row in content["results"]} == {n for n, c in CHECKS.items() if "retriever" in c.kinds} - {
        "masked",
        "all_masked",
    }
    assert all(row["message"] is None and row["skipped"] is None for row in content["results"])


def test_pytest_runs_the_same_suite(tmp_path: Path) -> None:
    words = ["--pyargs", "rrg.testing.suite", "--rrg-plugin", "dmsr", "--rrg-examples", "2", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [case] = select(["dmsr"])
    assert re.search(rf"\b{len(due(case))} passed", done.stdout)


def test_pytest_with_nothing_selected_is_a_usage_error(tmp_path: Path) -> None:
    words = ["--pyargs", "rrg.testing.suite", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert "nothing to test" in done.stdout + done.stderr


@pytest.mark.parametrize("device", ["nonsense", "meta"])
def test_a_device_that_is_not_there_is_a_usage_error(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "dmsr", "--device", device]) == 2
    assert f"device '{device}': not on this machine" in capsys.readouterr().err


def test_what_a_piece_prints_stays_out_of_the_json(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    old = "visual = F.normalize("
    install_copy(install, rrg_dast.dmsr, old, f"print('here')\n        {old}")
    assert main(["test", "mine", "--examples", "1", "--json"]) == 0
    assert {row["piece"] for row in json.loads(capsys.readouterr().out)["results"]} == {"mine.piece"}


def test_a_piece_that_cannot_be_read_fails_one_check_and_the_others_still_run(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install_copy(install, rrg_dast.dmsr, 'disease_logits: Float[Tensor, "batch diseases"],', "disease_logits,")
    code, out = lines(["mine", "core.pool", "--examples", "1"], capsys)
    assert code == 1
    assert [line for line in out if line.startswith("  ")] == [
        "  mine.piece: contract: argument disease_logits of forward has no annotation"
    ]
    assert any(line.startswith("core.pool ") for line in out)


def test_a_known_failure_that_was_not_run_is_not_stale(
    tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    module, old, new, _ = BUGS["dropout left on"]
    install_copy(install, module, old, new)
    known = tmp_path / "known.txt"
    known.write_text("mine.piece deterministic\nmine.piece rows\n", encoding="utf-8")
    assert main(["test", "mine", "--examples", "3", "--xfail", str(known)]) == 0
    capsys.readouterr()
