"""`rrg generate`: reports for a split of a data folder, or for films given by name."""

import argparse
from pathlib import Path

from rrg.cli._options import add_workers

_EXAMPLE = """\
example:
  rrg generate runs/demo --data data/iu-xray --split test
  rrg generate runs/demo --image frontal.png lateral.png
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "generate",
        help="write reports for films",
        description="Write reports: for a split of the data, into predictions.jsonl; or for the films of one study.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN", type=Path, help="run folder of rrg train")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--image", nargs="+", type=Path, metavar="FILM", help="films of one study; prints its report")
    source.add_argument("--data", type=Path, metavar="DIR", help="data folder (default: the one it was trained on)")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="default: test")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N studies")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of generation, such as "
        "generation.do_sample=true, generation.temperature=0.7, generation.seed=1 (default: the recipe's)"
    )  # fmt: skip
    parser.add_argument("--beams", type=int, metavar="N", help="beam search (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="studies at once (default: the recipe's)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: RUN/predictions.jsonl; RUN/predictions.SPLIT.jsonl "
        "for another split than test"
    )  # fmt: skip
    add_workers(parser)
    parser.add_argument("--device", help="cpu, cuda, … (default: a GPU where there is one)")
    parser.add_argument("--json", action="store_true", help="with --image: exemplar and probabilities too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.cli._data import open_folder
    from rrg.cli._options import quiet_libraries
    from rrg.composing.settings import parse_setting
    from rrg.runs.folder import predictions_file, run_data

    folder = None if args.image else open_folder(args.data or run_data(args.path))
    quiet_libraries()
    from rrg.generate.predictions import write_predictions
    from rrg.generate.reporter import load

    settings = {key.removeprefix("generation."): value for key, value in map(parse_setting, args.set)}
    settings |= {k: v for k, v in {"beams": args.beams, "batch_size": args.batch_size}.items() if v is not None}
    reporter = load(args.path, args.device)
    if folder is None:
        [report] = reporter.generate_studies([args.image], **settings)
        print(json.dumps(report.to_json(), indent=2) if args.json else report.text)
        return 0
    output = args.output or predictions_file(args.path, args.split)
    written = write_predictions(
        reporter, folder, args.split, output, limit=args.limit, workers=args.workers, **settings
    )
    print(f"wrote {len(written)} reports to {output}")
    return 0
