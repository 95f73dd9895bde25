"""`rrg data`: make a data folder, by importing a collection or by drawing phantoms, and check it."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrg.cli import _data_check

if TYPE_CHECKING:
    from rrg.data.importing import Problem
    from rrg.data.study import StudyFolder

SHOWN = 20


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `rrg data import`, `rrg data phantom`, `rrg data phrases` and `rrg data check`."""
    parser = commands.add_parser(
        "data",
        help="make a data folder: import a collection, or draw phantoms; attach key phrases; check it",
        description="Make a data folder: metadata.jsonl (Hugging Face imagefolder), dataset.json and the films.",
        epilog="example: rrg data import iu-xray ~/iu_xray data/iu-xray",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    collection = kinds.add_parser(
        "import",
        help="import a collection of studies",
        description="Import a collection: decode every film once, label the findings. iu-xray takes R2Gen's folder "
        "(annotation.json and images/), NLM's XML reports and films, and Kaggle's CSV files, unpacked or as archives; "
        "chexpert-plus the folder with df_chexpert_plus_*.csv; mimic-cxr a folder with the films, reports and tables "
        "of PhysioNet. Which form SRC is, is said. An import that was stopped goes on from there when the command is "
        "given again: until DEST is whole, its films lie beside it in .NAME.importing.",
        epilog="example: rrg data import iu-xray ~/iu_xray data/iu-xray --size 512 --fit pad --skip-bad",
    )
    collection.add_argument("collection", choices=["chexpert-plus", "iu-xray", "mimic-cxr"], help="the collection")
    collection.add_argument("src", metavar="SRC", type=Path, help="folder to import")
    collection.add_argument("dest", metavar="DEST", type=Path, help="data folder to make; must not exist yet")
    collection.add_argument(
        "--size",
        type=_positive,
        metavar="N",
        help="store films as JPEG of N x N pixels (default: JPEG and PNG unchanged, DICOM decoded at full size)",
    )
    collection.add_argument(
        "--fit",
        choices=["squash", "pad"],
        default="squash",
        help="how films become square: squash (default; as published work does), or pad with black, aspect ratio kept",
    )
    collection.add_argument("--skip-bad", action="store_true", help="leave out studies with problems, and count them")
    collection.add_argument(
        "--labeler",
        default="given",
        metavar="NAME",
        help="whose labels: given (default; the collection's own, chexpert where it has none), given:NAME, or "
        "a labeler of rrg, which reads the findings: chexpert, strict",
    )
    collection.add_argument(
        "--seed", type=int, default=0, help="draws the split where the source has none (default: 0)"
    )
    _common(collection)
    collection.set_defaults(run=run, make=_import)

    phantom = kinds.add_parser(
        "phantom",
        help="draw phantom studies with exact labels",
        description="Draw phantom chest films and write their reports; the labels are known by construction.",
        epilog="example: rrg data phantom data/phantom --studies 500 --seed 1",
    )
    phantom.add_argument("dest", metavar="DEST", type=Path, help="data folder to make; must not exist yet")
    phantom.add_argument("--studies", type=_positive, default=2000, metavar="N", help="how many (default: 2000)")
    phantom.add_argument("--seed", type=int, default=0, help="same seed, same folder (default: 0)")
    _common(phantom)
    phantom.set_defaults(run=run, make=_phantom)

    phrases = kinds.add_parser(
        "phrases",
        help="attach key phrases to a data folder's studies",
        description="Write each study's key phrases, what its report says is present, into metadata.jsonl: from a "
        "RadGraph file, else by rule. Training stages that show phrases read them; without this they go by rule.",
        epilog="example: rrg data phrases data/iu-xray",
    )
    phrases.add_argument("folder", metavar="DIR", type=Path, help="data folder")
    phrases.add_argument("--radgraph", type=Path, metavar="FILE", help="RadGraph annotations (JSON) by study id")
    phrases.add_argument("--refine", metavar="HOST", help="let a language model reword them: a hub id or folder")
    phrases.add_argument("--show", type=int, default=3, metavar="N", help="print N studies' phrases (default: 3)")
    phrases.add_argument("--json", action="store_true", help="print a JSON object instead of the table")
    phrases.set_defaults(run=_phrases)
    _data_check.add(kinds)


def run(args: argparse.Namespace) -> int:
    """Make the folder and print what is in it: a table, or with --json one object."""
    from rrg.data.study import count

    folder, extra, problems = args.make(args)
    if args.json:
        found = {
            "path": str(folder.path),
            **folder.card,
            **extra,
            "counts": count(folder.studies),
            "prevalence": _prevalence(folder),
            "warnings": folder.warnings,
            "problems": [vars(problem) for problem in problems],
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_table(folder, extra, problems)))
    return 0


def _import(args: argparse.Namespace) -> tuple["StudyFolder", dict[str, Any], list["Problem"]]:
    from rrg.data.importing import import_collection

    done = import_collection(
        args.collection,
        args.src,
        args.dest,
        labeler=args.labeler,
        skip_bad=args.skip_bad,
        seed=args.seed,
        workers=args.workers,
        size=args.size,
        fit=args.fit,
    )
    return done.folder, {"form": done.form, "split": done.split, "notes": "; ".join(done.notes)}, done.problems


def _phantom(args: argparse.Namespace) -> tuple["StudyFolder", dict[str, Any], list["Problem"]]:
    from rrg.data.phantom import make_phantom

    return make_phantom(args.dest, studies=args.studies, seed=args.seed, workers=args.workers), {}, []


def _phrases(args: argparse.Namespace) -> int:
    from rrg.cli._data import open_folder
    from rrg.data.attach import attach_phrases
    from rrg.data.study import StudyFolder

    folder = open_folder(args.folder)
    refine = None
    if args.refine:
        from rrg.generate.refine import host_refiner

        refine = host_refiner(args.refine)
    counts = attach_phrases(folder, annotations=args.radgraph, refine=refine, by=args.refine or "")
    if args.json:
        print(json.dumps({"path": str(folder.path), **counts}, indent=2))
        return 0
    for study in StudyFolder.open(args.folder).studies[: max(args.show, 0)]:
        print(f"{study.id}: {study.findings}")
        print("".join(f"  - {phrase}\n" for phrase in study.phrases or ()), end="")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return 0


def _table(folder: "StudyFolder", extra: dict[str, Any], problems: list["Problem"]) -> list[str]:
    from rrg.data.importing import summary
    from rrg.data.study import SPLITS, count

    counts = count(folder.studies)
    lines = [f"{folder.card['name']} → {folder.path}", ""]
    lines += [f"{key:<8} {value}" for key, value in extra.items() if value]
    lines += [f"{'labels':<8} {folder.card['labels']}", f"{'licence':<8} {folder.card['licence']}", ""]
    lines += [f"{'':<28}" + "".join(f"{split:>8}" for split in SPLITS)]
    lines += [f"{'studies':<28}" + "".join(f"{counts[split]:>8,}" for split in SPLITS)]
    films = {split: sum(len(study.file_names) for study in folder.split(split)) for split in SPLITS}
    lines += [f"{'films':<28}" + "".join(f"{films[split]:>8,}" for split in SPLITS)]
    for name, shares in _prevalence(folder).items():
        lines += [f"{name:<28}" + "".join(f"{shares[split]:>8.1%}" for split in SPLITS)]
    lines += ["", "Observations: share of the split's studies labelled present."]
    lines += [f"Check it: rrg data check {folder.path}"]
    lines += [f"warning: {warning}" for warning in folder.warnings]
    if problems:
        lines += ["", f"Left out: {summary(problems)}"]
        lines += [f"  - {problem}" for problem in problems[:SHOWN]]
        lines += [f"  … and {len(problems) - SHOWN} more: see --json"] if len(problems) > SHOWN else []
    return lines


def _prevalence(folder: "StudyFolder") -> dict[str, dict[str, float]]:
    """Observation → split → share of the studies labelled present (0 for an empty split)."""
    from rrg.data.study import SPLITS
    from rrg.observations import OBSERVATIONS

    studies = {split: folder.split(split) for split in SPLITS}
    return {
        name: {
            split: sum(study.labels[name] == 1 for study in of_split) / max(len(of_split), 1)
            for split, of_split in studies.items()
        }
        for name in OBSERVATIONS
    }


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=_positive, metavar="N", help="parallel workers (default: one per core)")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of the table")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
