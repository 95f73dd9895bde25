"""`rrg ablate`: tables of registry.toml that compose, run, resume and say how sure their means are."""

import json
import math
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from rrg.cli import main
from rrg.composing.composition import compose
from rrg.composing.options import composition_of
from rrg.composing.recipe import Recipe
from rrg.data.study import StudyFolder
from rrg.errors import UsageError
from rrg.evaluate.meteor import MeteorUnavailable
from rrg.plan.counting import plan
from rrg.testing.data import noise_folder
from rrg.train.ablate import commands, interval, markdown, recipe_of, slug, table_of, tables

DOCS = Path(__file__).parent.parent / "docs"
ROWS = [(name, row) for name, table in tables().items() for row in table.rows]
SMALL = (
    "image.size=64 image.views=1 stages.batch_size=2 text.report=16 generation.max_new_tokens=4 "
    "host.config.hidden_size=32 host.config.intermediate_size=32 host.config.num_hidden_layers=1"
)


def test_the_page_is_current(generate: ModuleType) -> None:
    current = generate.ABLATIONS.read_text(encoding="utf-8") == generate.ablations_page()
    assert current, "docs/ablations.md is older than registry.toml; renew it with: make docs-pages"


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_every_row_composes_and_differs_from_the_others(table: str, row: str) -> None:
    rows = table_of(table).rows
    recipe = recipe_of(rows[row])
    others = {recipe_of(text).hash for other, text in rows.items() if other != row}
    assert recipe.hash not in others
    [command] = [command for name, command in commands(table_of(table)) if name == row]
    assert command == f"rrg run {rows[row]} --data DATA --out runs/{table}/{slug(row)}"


@pytest.mark.parametrize(
    ("row", "host"),
    [
        ("lead --set lead.gate.projection=shared", "qwen3-vl-8b"),
        ("s2d-align --stages s2d-align.joint", "vicuna-7b"),
        ("vdgen --set vdgen.train.llm=frozen", "llama2-7b"),
        ("dast --drop dast.dmsr --set dast.stage-2.exemplars=false", "phi-4"),
    ],
)
def test_rows_are_planned_on_the_papers_hosts(row: str, host: str) -> None:
    assert plan(compose(**composition_of(row), host=host)).total_parameters > 2e9


def test_steps_are_shared_among_the_stages_by_their_epochs() -> None:
    for steps in (3, 7, 100, 200, 301):
        recipe = recipe_of("s2d-align", steps=steps)
        found = [recipe.pieces[stage]["max_steps"] for stage in recipe.stages]
        epochs = [recipe.pieces[stage]["epochs"] for stage in recipe.stages]
        assert sum(found) == steps
        assert found == pytest.approx([steps * e / sum(epochs) for e in epochs], abs=1.5)
        assert min(found) >= 1
    with pytest.raises(UsageError, match="has 3 stages; give one step for each"):
        recipe_of("s2d-align", steps=2)


def test_an_interval_by_hand() -> None:
    mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(2.7764 * math.sqrt(2.5) / math.sqrt(5), rel=1e-4)
    assert math.isnan(interval([2.0])[1])


def test_a_table_runs_resumes_and_prints_means_with_intervals(
    folder: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_java(tables: object) -> None:  # its start takes longer than all the rest
        raise MeteorUnavailable("no java")

    monkeypatch.setattr("rrg.evaluate.evaluation.meteor_statistics", no_java)
    small = [word for setting in SMALL.split() for word in ("--set", setting)]
    out = tmp_path / "vdgen-2"
    command = ["ablate", "vdgen-2", "--data", str(folder.path), "--out", str(out), "--steps", "2", *small]
    assert main([*command, "--seeds", "0"]) == 0
    first = capsys.readouterr().out
    assert "[4/4] without LoRA, seed 0" in first
    times = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    assert len(times) == 4
    assert main([*command, "--seeds", "0", "1"]) == 0
    said = capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert "n = 5, 2 seeds, 2 optimizer steps a row" in said
    assert "Protocol `r2gen|clean:iu" in said
    assert "| *best constant* |" in said
    found = json.loads((out / "table.json").read_text())
    assert said.rstrip().endswith(markdown(found))
    for row in table_of("vdgen-2").rows:
        assert f"| {row} |" in said
        assert " ± " in next(line for line in said.splitlines() if line.startswith(f"| {row} |"))
        for seed in (0, 1):
            assert Recipe.open(out / slug(row) / f"seed-{seed}" / "recipe.toml").seed == seed
    assert main([*command, "--set", "vdgen.train.lr=0.5", "--seeds", "0"]) == 2
    assert "holds another recipe" in capsys.readouterr().err
    other = noise_folder(tmp_path / "other", {"train": 4, "val": 1, "test": 2}, seed=1)
    command[3] = str(other.path)
    assert main([*command, "--seeds", "0"]) == 2
    assert "was trained on other studies" in capsys.readouterr().err
    changed = json.loads((out / "vdgen" / "seed-0" / "metrics.json").read_text())
    (out / "vdgen" / "seed-0" / "metrics.json").write_text(json.dumps({**changed, "n": 2}))
    command[3] = str(folder.path)
    assert main([*command, "--seeds", "0"]) == 1
    assert "n is 5, elsewhere 2" in capsys.readouterr().err


def test_the_list_and_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: StudyFolder) -> None:
    assert main(["ablate"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}  " in said for name in tables())
    assert main(["ablate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == tables().keys()
    data = ["--data", str(folder.path), "--out", str(tmp_path / "x")]
    for words, hint in (
        (["ablate", "lead-5"], "no table lead-5; did you mean lead-4?"),
        (["ablate", "lead-4"], "give --data and --out"),
        (["ablate", "lead-4", *data, "--steps", "0"], "1 or more steps"),
        (["ablate", "lead-4", *data, "--seeds", "1", "1"], "each seed once"),
        (["ablate", "lead-4", *data, "--seeds", "-1"], "seed: "),
        (["ablate", "lead-4", *data, "--set", "seed=3"], "a table runs over --seeds"),
        (["ablate", "lead-4", *data, "--steps", "7", "--host", "no-such"], "lead-4, row baseline: "),
        (["ablate", "lead-4", *data, "--set", "lead.gate.no=1"], "lead.gate has no setting no"),
        (["ablate", "lead-4", *data, "--set", "dast.dvaf.heads=1"], "no row of lead-4 has such a piece"),
    ):
        assert main(words) == 2
        assert hint in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").write_text("a file")
    assert main(["ablate", "lead-4", *data]) == 1
    assert "Not a directory" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no table"):
        table_of("x")
    assert shlex.split(commands(table_of("lead-4"))[0][1])[:2] == ["rrg", "run"]
