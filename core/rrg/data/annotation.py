"""R2Gen's annotation file (Chen et al., EMNLP 2020) in the spellings that are passed around, and the films it names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rrg.data.splits import ANNOTATION
from rrg.data.study import SPLITS, Split
from rrg.errors import DataError

MAX_BYTES = 1 << 30
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FIELDS = {"report": ("findings", "text", "caption"), "image_path": ("image_paths", "images", "image")}
"""Other names of an item's fields, taken where the plain one is not there and only one of them is."""


def find(src: Path) -> Path | None:
    """The annotation file of a folder: annotation.json, else the one file of such a name, as iu_annotation.json.

    Raises DataError where there are several.
    """
    if (src / ANNOTATION).is_file():
        return src / ANNOTATION
    found = [path for path in sorted(src.glob("*.json")) if "annotation" in path.name.lower() and path.is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{src}: several annotation files ({names}); name the one that counts {ANNOTATION}")
    return found[0] if found else None


def listed(path: Path, notes: list[str] | None = None) -> Iterator[tuple[str, Split, Any]]:
    """(where, split, raw item) of an annotation file: an object of lists by split, or a list of items that say theirs.

    An item that is an object comes with `report`, a list `image_path` of POSIX paths, and its `split` as we spell it.
    notes: gets what was taken for what.

    Raises DataError where the file as a whole is none of it.
    """
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES >> 30} GiB, which is refused")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    said: dict[str, None] = {}
    lists = _by_split(path, content, said)
    for split in SPLITS:
        for where, raw in lists.get(split, []):
            yield f"{path.name} {where}", split, _plain(raw, said)
    if notes is not None and said:
        notes.append(f"in {path.name}, {', '.join(said)}")


def split_of(name: Any) -> Split | None:
    return _SPLITS.get(name.strip().lower()) if isinstance(name, str) else None


def _by_split(path: Path, content: Any, said: dict[str, None]) -> dict[Split, list[tuple[str, Any]]]:
    found: dict[Split, list[tuple[str, Any]]] = {}
    if isinstance(content, list):
        for number, item in enumerate(content):
            split = split_of(item.get("split")) if isinstance(item, dict) else None
            if split is None:
                raise DataError(f"{path}: item {number} of the list says no split; expected {_expected()}")
            found.setdefault(split, []).append((f"[{number}]", item))
        said |= {"the split = what each item says": None} if content else {}
    elif isinstance(content, dict):
        for name, items in content.items():
            split = split_of(name)
            if isinstance(items, list) and split is None and any(isinstance(item, dict) for item in items):
                raise DataError(f"{path}: the list {name!r} is of no split; expected {_expected()}")
            if isinstance(items, list) and split is not None:
                if split in found:
                    raise DataError(f"{path}: {name!r} is a second list of {split}; give one for each split")
                found[split] = [(f"{name}[{number}]", item) for number, item in enumerate(items)]
                said |= {f"{name!r} = {split}": None} if name != split else {}
        if absent := [split for split in SPLITS if split not in found]:
            said |= {f"no list of {' and '.join(absent)}": None}
    if not found:
        raise DataError(f"{path}: expected {_expected()}")
    return found


def _expected() -> str:
    return f"an object with the lists {', '.join(SPLITS)}, as R2Gen writes it, or some of them"


def _plain(raw: Any, said: dict[str, None]) -> Any:
    """The item with its fields as R2Gen names and shapes them; what fits nothing stays as it is."""
    if not isinstance(raw, dict):
        return raw
    item = dict(raw)
    for field, others in _FIELDS.items():
        there = [name for name in others if name in item]
        if field not in item and len(there) == 1:
            item[field] = item.pop(there[0])
            said |= {f"{there[0]!r} = {field}": None}
    paths = item.get("image_path")
    if isinstance(paths, str):
        paths = [paths]
    if isinstance(paths, list):
        item["image_path"] = [_posix(path) if isinstance(path, str) else path for path in paths]
    if (split := split_of(item.get("split"))) is not None:
        item["split"] = split
    return item


def _posix(path: str) -> str:
    """With slashes, and without steps that go nowhere, as in ./a or a//b."""
    path = path.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" * path.startswith("/") + "/".join(parts)


def below(path: str, folder: str, named: re.Pattern[str]) -> list[str]:
    """What a film's path may be below `folder` (such as "images"), the likeliest first.

    As it is; what follows a part of that name; of a path of another machine whatever follows one of its parts, its name
    alone only where it is like `named`, an id of the collection.
    """
    parts = path.split("/")
    found = [path]
    found += ["/".join(parts[n + 1 :]) for n, part in enumerate(parts[:-1]) if part == folder]
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
        found = found[1:] + ["/".join(parts[n:]) for n in range(1, len(parts) - 1)]
        found += [parts[-1]] * bool(named.fullmatch(parts[-1]))
    return list(dict.fromkeys(found)) or [path]
