"""New data folders, all or nothing: a folder appears under its name only when it is whole."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rrg.data.study import CARD, METADATA, Study, count
from rrg.errors import RRGError, UsageError
from rrg.observations import OBSERVATIONS

README = "README.md"
_LISTS = ("file_names", "views", "positions", "phrases")


@contextmanager
def new_folder(dest: Path) -> Iterator[Path]:
    """Give a temporary folder beside `dest` to write into; it becomes `dest` when the block ends well.

    On an error or Ctrl-C it is removed and `dest` stays as it was. After a kill that runs no cleanup, a hidden
    `.NAME.*.partial` may remain beside `dest`, and no `dest`.

    Raises: UsageError, before anything is written, where `dest` is a file or a folder that holds something; RRGError
    where the disk refuses (full, not writable).
    """
    temporary: Path | None = None
    try:
        dest = Path(dest).absolute()
        refuse_occupied(dest)
        dest.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", suffix=".partial", dir=dest.parent))
        _open_to_others(temporary)
        yield temporary
        os.replace(temporary, dest)
    except OSError as error:
        raise RRGError(f"{dest}: could not be made: {error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_occupied(dest: Path) -> None:
    """Raise UsageError where `dest` is a file, a link, or a folder that holds something."""
    if os.path.lexists(dest) and (dest.is_symlink() or not dest.is_dir() or any(dest.iterdir())):
        raise UsageError(f"{dest}: already exists and is no empty folder; name a new one, or remove this first")


def write_metadata(folder: Path, studies: Iterable[Study], card: Mapping[str, Any]) -> None:
    """Write `metadata.jsonl`, `dataset.json` and `README.md` into `folder`, adding the counts; one study at a time.

    `card` needs "name", "labels" ("exact", or the labeler's name), "source" and "licence"; more keys are kept.
    """
    with (folder / METADATA).open("w", encoding="utf-8") as file:
        counts = count(_written(studies, file))
    text = json.dumps({**card, "counts": counts}, indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")
    (folder / README).write_text(_readme(), encoding="utf-8")


def _readme() -> str:
    """Hugging Face's card, which tells `datasets.load_dataset(FOLDER)` the type of every field of `Study`.

    Otherwise it takes them from the first 10 MB: a field that is null there, such as a date, must stay so.
    """
    features: list[dict[str, Any]] = []
    for name in Study.model_fields:
        if name in _LISTS:
            items = {"name": "images", "list": "image"} if name == "file_names" else {"name": name, "list": "string"}
            features.append(items)
        elif name == "labels":
            features.append({"name": name, "struct": [{"name": each, "dtype": "float64"} for each in OBSERVATIONS]})
        else:
            features.append({"name": name, "dtype": "timestamp[s]" if name == "date" else "string"})
    files = [{"split": "train", "path": [METADATA, "images/**"]}]
    configs = [{"config_name": "default", "data_files": files, "features": features}]
    return (
        f"---\nconfigs: {json.dumps(configs)}\n---\n"  # JSON is YAML
        f"A data folder of rrg: one study a line of {METADATA}; {CARD} has source, licence and counts. "
        "`datasets.load_dataset(FOLDER)` opens it as one split, in which `split` is a column.\n"
    )


def _written(studies: Iterable[Study], file: TextIO) -> Iterator[Study]:
    for study in studies:
        file.write(study.model_dump_json() + "\n")
        yield study


def _open_to_others(folder: Path) -> None:
    """Give the permissions that mkdir would have given: mkdtemp's are for the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
