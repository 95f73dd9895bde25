"""`rrg evaluate`: score generated reports, of a run or of anyone, and print them beside null baselines."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrg.labels import Labeler

_EXAMPLE = """\
example:
  rrg evaluate runs/lead                      # reads runs/lead/predictions.jsonl and run.json, writes metrics.json
  rrg evaluate reports.csv --data data/iu-xray --protocol r2gengpt --json
  rrg evaluate reports.csv --protocol raw     # against the file's own references
  rrg evaluate reports.csv --data data/iu-xray --labeler chexbert --checkpoint chexbert.pth
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to `rrg`."""
    parser = commands.add_parser(
        "evaluate",
        help="score generated reports by a named protocol, beside null baselines",
        description="Score generated reports by a named protocol (BLEU, METEOR, ROUGE-L, CIDEr, clinical efficacy by "
        "every published preset) beside null baselines on the same studies. Writes metrics.json beside the predictions "
        "of a run, or FILE.metrics.json, with each report's own scores and labels.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "predictions",
        metavar="RUN_OR_FILE",
        help="a run folder; or a table or JSON with id, report and perhaps reference, by these names or others that "
        "say the same, such as study_id, prediction, ground_truth",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="data folder of the studies (default: what run.json says, or FILE's references)"
    )
    parser.add_argument("--split", help="split of the studies (default: what run.json says, or test)")
    parser.add_argument("--protocol", default="r2gen", help="r2gen, r2gengpt or raw (default: r2gen)")
    parser.add_argument("--rules", help="cleaning rules, iu or mimic, for a data set that the protocol does not know")
    parser.add_argument(
        "--section", default="findings", help="findings, impression or findings+impression (default: findings)"
    )
    parser.add_argument("--allow-empty", action="store_true", help="score empty reports of a FILE, not refuse them")
    parser.add_argument("--seed", type=int, default=0, help="of the random baseline and the intervals (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write the JSON")
    labels = parser.add_argument_group("labels")
    labels.add_argument("--labeler", metavar="NAME", help="chexbert, or a rule-based one (default: rule-based)")
    labels.add_argument("--checkpoint", metavar="FILE", type=Path, help="CheXbert's checkpoint")
    labels.add_argument("--tokenizer", metavar="DIR", help="CheXbert's tokenizer (default: bert-base-uncased)")
    labels.add_argument(
        "--labels", metavar="FILE", type=Path, help="another tool's labels of the generated reports, CSV or JSON lines"
    )
    labels.add_argument(
        "--reference-labels", metavar="FILE", type=Path, help="another tool's labels of the reference reports"
    )
    labels.add_argument(
        "--radgraph",
        metavar=("GENERATED", "REFERENCE"),
        nargs=2,
        type=Path,
        help="RadGraph's annotations by study id, JSON: adds RadGraph F1",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, write the metrics atomically, print them."""
    from rrg.cli._data import open_folder
    from rrg.data.files import check_output
    from rrg.data.label_files import read_labels
    from rrg.evaluate import evaluate, read_predictions
    from rrg.evaluate.radgraph import read_annotations
    from rrg.evaluate.scores import BEGINS, write_scores
    from rrg.runs.folder import METRICS, PREDICTIONS, made_from

    if args.output is not None:
        check_output(args.output, BEGINS, "an evaluation's metrics")
    given = Path(args.predictions)
    path = given / PREDICTIONS if given.is_dir() else given
    run = made_from(path.parent)
    data, split = args.data or run.get("data"), args.split or run.get("split", "test")
    said: list[str] = []
    predictions = read_predictions(path, given.is_dir() or args.allow_empty, args.section, said)
    scores = evaluate(
        predictions,
        open_folder(data) if data else None,
        args.protocol,
        split=split,
        rules=args.rules,
        section=args.section,
        labeler=_labeler(args.labeler, args.checkpoint, args.tokenizer),
        labels=read_labels(args.labels) if args.labels else None,
        reference_labels=read_labels(args.reference_labels) if args.reference_labels else None,
        radgraph=(read_annotations(args.radgraph[0]), read_annotations(args.radgraph[1])) if args.radgraph else None,
        seed=args.seed,
    )
    scores = replace(scores, notes=[*said, *scores.notes])
    output = args.output or path.with_name(METRICS if path.name == PREDICTIONS else f"{path.stem}.metrics.json")
    write_scores(scores, output)
    print(scores.to_json() if args.json else f"{scores.table()}\n\nWritten to {output}")
    return 0


def _labeler(name: str | None, checkpoint: Path | None, tokenizer: str | None) -> "Labeler | None":
    """The labeler that the options mean; None for the default one."""
    from rrg.errors import UsageError
    from rrg.labels import LABELERS, get_labeler

    if name == "chexbert":
        from rrg.cli._options import quiet_libraries

        if checkpoint is None:
            raise UsageError("--labeler chexbert needs its weights: add --checkpoint FILE")
        quiet_libraries()
        from rrg.evaluate.chexbert import TOKENIZER, CheXbert

        return CheXbert(checkpoint, tokenizer or TOKENIZER)
    if checkpoint is not None or tokenizer is not None:
        raise UsageError("--checkpoint and --tokenizer are CheXbert's: add --labeler chexbert")
    if name is not None and name not in LABELERS:
        raise UsageError(f"no labeler is named {name!r}; there are: {', '.join(sorted([*LABELERS, 'chexbert']))}")
    return None if name is None else get_labeler(name)
