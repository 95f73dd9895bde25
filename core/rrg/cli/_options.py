"""Options that several commands share."""

import argparse


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that decode films ahead of the model (default: beside a "
        "GPU one a core, 8 at most; on a CPU none, since they would take its cores)"
    )  # fmt: skip


def quiet_libraries() -> None:
    """Keep the libraries' own chatter out of our output; their errors still show."""
    import logging
    import warnings

    import rrg._torchvision  # noqa: F401  before transformers

    # isort: split
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
