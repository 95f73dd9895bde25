"""`rrg ablate`: the papers' ablation tables, a row a composition, over several seeds."""

import argparse
from pathlib import Path

from rrg.cli._options import add_json


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "ablate",
        help="run a paper's ablation table over several seeds",
        description="Train, generate and score every row of a table with every seed, and print means with intervals. "
        "Without a table, list them with their rows. What OUT holds finished is not run again.",
        epilog="example: rrg ablate lead-4 --data data/iu-xray --out runs/lead-4 --seeds 0 1 2",
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="a table's name, such as lead-4")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder of rrg data")
    parser.add_argument("--out", type=Path, metavar="OUT", help="folder of the rows' runs")
    parser.add_argument("--host", metavar="NAME", help="language model (default: tiny)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of every row")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="seeds to run (default: 0)")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps of a row, all stages together")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rrg.errors import UsageError
    from rrg.train.ablate import markdown, run_table, table_of, tables

    if args.table is None:
        if args.json:
            print(json.dumps({name: vars(table) for name, table in tables().items()}, indent=2, ensure_ascii=False))
            return 0
        for table in tables().values():
            print(f"{table.name}  {table.title}")
            for row, text in table.rows.items():
                print(f"    {row:<38}  {text}")
        return 0
    table = table_of(args.table)
    if args.data is None or args.out is None:
        raise UsageError(f"give --data and --out, such as: rrg ablate {table.name} --data data/iu-xray --out runs/x")
    if (args.steps is not None and args.steps < 1) or len(set(args.seeds)) < len(args.seeds):
        raise UsageError(f"steps={args.steps}, seeds={args.seeds}: give 1 or more steps, and each seed once")
    from rrg.cli._data import open_folder
    from rrg.cli._options import quiet_libraries
    from rrg.runs.folder import write_json

    folder = open_folder(args.data)
    if not folder.split("test"):
        raise UsageError(f"{args.data}: no study of the split test to score")
    quiet_libraries()
    found = run_table(table, folder, args.out, host=args.host, settings=args.set, seeds=args.seeds, steps=args.steps)
    write_json(args.out / "table.json", found)
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else f"\n{markdown(found)}")
    return 0
