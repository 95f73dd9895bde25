"""`rrg data`: the table, the JSON and the wrong usages."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_sources import item, r2gen, run_import
from rrg.cli import data as cli
from rrg.data.importing import import_collection
from rrg.data.study import SPLITS
from rrg.errors import UsageError


def run_cli(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add(parser.add_subparsers())
    args = parser.parse_args(["data", *map(str, arguments)])
    return int(args.run(args))


def test_cli_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = r2gen(tmp_path / "src", [item(1, report="There is a fracture."), item(2), item(3, report="")])
    assert run_cli("import", "iu-xray", src, tmp_path / "d", "--skip-bad") == 0
    out = capsys.readouterr().out
    for expected in (
        "R2Gen's annotation.json",
        "CC BY-NC-ND 4.0",
        "labels   chexpert",
        "Left out: 1 problem (1 no findings)",
    ):
        assert expected in out
    assert next(line for line in out.splitlines() if line.startswith("studies")).split() == ["studies", "2", "0", "0"]
    assert next(line for line in out.splitlines() if line.startswith("Fracture")).split()[1] == "50.0%"


def test_cli_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = r2gen(tmp_path / "src", [item(1), item(2, report="")])
    assert run_cli("import", "iu-xray", src, tmp_path / "d", "--skip-bad", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"train": 1, "val": 0, "test": 0, "films": 2, "patients": 1}
    assert found["problems"] == [
        {"where": "annotation.json train[1]", "kind": "no findings", "text": "study CXR2_IM-0002 has an empty report"}
    ]
    assert found["form"].startswith("R2Gen's annotation.json")


def test_cli_draws_phantoms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("phantom", tmp_path / "d", "--studies", 11, "--workers", 1, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["counts"][split] for split in SPLITS) == 11
    assert found["labels"] == "exact"


@pytest.mark.parametrize("arguments", [["import", "mimic", "a", "b"], ["phantom", "d", "--studies", "0"], []])
def test_cli_refuses_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_cli(*arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_cli_module_is_light() -> None:
    code = "import sys, rrg.cli.data; print(*({'numpy', 'torch', 'pydantic', 'PIL', 'tqdm'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("way", ["file", "link"])
def test_what_stands_where_films_are_collected_stays(tmp_path: Path, way: str) -> None:
    src, stands = r2gen(tmp_path / "src", [item(1)]), tmp_path / ".d.importing"
    if way == "file":
        stands.write_text("mine")
    else:
        stands.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"\.d\.importing: .*remove it, or name another DEST"):
        run_import(src, tmp_path / "d")
    assert stands.is_symlink() or stands.read_text() == "mine"
    assert not (tmp_path / "d").exists()


def test_labels_that_a_collection_does_not_have_are_refused(tmp_path: Path) -> None:
    src = r2gen(tmp_path / "src", [item(1)])
    with pytest.raises(UsageError, match="given:negbio: IU X-Ray has no labels of its own"):
        import_collection("iu-xray", src, tmp_path / "d", labeler="given:negbio", progress=False)
    assert list(tmp_path.iterdir()) == [src]


@pytest.mark.parametrize("collection", ["mimic-cxr", "chexpert-plus"])
def test_a_file_in_place_of_a_folder_is_called_one(tmp_path: Path, collection: str) -> None:
    (tmp_path / "src.zip").write_bytes(b"PK")
    with pytest.raises(UsageError, match="a file, not a folder"):
        import_collection(collection, tmp_path / "src.zip", tmp_path / "d", progress=False)
