#!/usr/bin/env bash
# datasets 5.2.0: the types that a local folder's README.md gives under dataset_info.features.
# Expected: they type the columns, of a folder of films with metadata.jsonl as of a folder of JSON lines.
# Happens: a folder of JSON lines opened by its path obeys them; a folder of films does not: its builder puts the
# inferred types over them, and a column that holds only nulls so far is of type null. load_dataset("imagefolder",
# data_dir=...) reads no types from the README at all. Only features under configs, with load_dataset(FOLDER), or
# features=... in the call, are obeyed. No warning says so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.4.6

HF_HUB_OFFLINE=1 HF_HOME="$tmp/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$tmp/venv/bin/python" -W error::UserWarning - "$tmp" <<'PY'
import json
import pathlib
import sys

import datasets
from datasets import Features, Value, load_dataset
from PIL import Image

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
GIVEN = {"study": Value("string"), "findings": Value("string")}
INFERRED = {"study": Value("int64"), "findings": Value("null")}
FILM = "  - name: image\n    dtype: image\n"
TEXT = "  - name: study\n    dtype: string\n  - name: findings\n    dtype: string\n"
INFO = "dataset_info:\n  features:\n"
CONFIGS = "configs:\n- config_name: default\n  data_files: '*'\n  features:\n"


def folder(name, header, films):
    path = pathlib.Path(sys.argv[1]) / name
    path.mkdir()
    (path / "README.md").write_text(f"---\n{header}---\n# Films\n")
    rows = [{"study": i, "findings": None} for i in range(4)]  # read, not yet reported
    if films:
        for i, row in enumerate(rows):
            row["file_name"] = f"{i}.png"
            Image.new("L", (8, 8), i).save(path / row["file_name"])
    lines = path / ("metadata.jsonl" if films else "rows.jsonl")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def check(what, expected, *args, **kwargs):
    features = load_dataset(*args, split="train", **kwargs).features
    seen = {name: features[name] for name in GIVEN}
    print(f"{what:58} {'obeyed' if seen == GIVEN else 'ignored'}: {seen}")
    assert seen == expected, expected


rows = folder("rows", INFO + TEXT, films=False)
info = folder("info", INFO + FILM + TEXT, films=True)
configs = folder("configs", CONFIGS + FILM + TEXT, films=True)
check("dataset_info, JSON lines, load_dataset(FOLDER)", GIVEN, rows)
check("dataset_info, films, load_dataset(FOLDER)", INFERRED, info)
check('dataset_info, films, load_dataset("imagefolder")', INFERRED, "imagefolder", data_dir=info)
check("configs, films, load_dataset(FOLDER)", GIVEN, configs)
check('configs, films, load_dataset("imagefolder")', INFERRED, "imagefolder", data_dir=configs)
asked = Features({"image": datasets.Image(), **GIVEN})
check('features=..., films, load_dataset("imagefolder")', GIVEN, "imagefolder", data_dir=info, features=asked)
PY
