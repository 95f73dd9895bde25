"""The command line as a whole: light to load, every command explained by an example that works."""

import argparse
import errno
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rrg import __version__
from rrg.cli import main, parser

HEAVY = ("torch", "transformers", "numpy", "pydantic", "timm", "peft", "PIL", "jaxtyping")


def commands(root: argparse.ArgumentParser, name: str = "rrg") -> dict[str, argparse.ArgumentParser]:
    """Every parser by its full name, those of sub-commands too."""
    found = {name: root}
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                found |= commands(child, f"{name} {word}")
    return found


PARSERS = commands(parser())
EXAMPLES = [line for p in PARSERS.values() for line in re.findall(r"rrg [a-z].*", p.epilog or "")]


@pytest.mark.parametrize(
    "program",
    [
        "import rrg",
        "import rrg.cli; rrg.cli.parser().format_help()",
        "import rrg\n@rrg.hookimpl\ndef rrg_losses():\n    return [rrg.Piece('a.b', 'c:D', '')]",
    ],
)
def test_what_loads_nothing_heavy(program: str) -> None:
    code = f"{program}\nimport sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_of_the_installed_command_loads_nothing_heavy() -> None:
    script = Path(sys.executable).with_name("rrg")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], capture_output=True, text=True, check=True
    )
    assert "compose" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"argparse", "pluggy"} <= loaded  # what it does load is seen
    assert not loaded & set(HEAVY)


def test_finding_plugins_loads_no_piece() -> None:
    code = "from rrg.composing.plugins import find; find()\nimport sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", PARSERS)
def test_every_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split()[1:], "--help"])
    assert ended.value.code == 0
    assert re.search(r"\nexamples?:\s+rrg ", capsys.readouterr().out)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_can_be_parsed(example: str) -> None:
    args = parser().parse_args(shlex.split(example, comments=True)[1:])
    assert callable(args.run)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.split()[1] in ("compose", "plugins")])
def test_examples_that_need_no_data_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(example, comments=True)[1:]) == 0
    assert capsys.readouterr().out


def test_every_option_has_a_help() -> None:
    for name, found in PARSERS.items():
        for action in found._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), f"{name}: {action.dest}"


@pytest.mark.parametrize("words", [[], ["nonsense"], ["compose", "--colour"], ["compose", "lead", "lead"]])
def test_usage_errors_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: rrg")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"rrg {__version__}\n"


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rrg.composing.plugins.find", interrupted)
    assert main(["plugins"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_traceback() -> None:
    script = Path(sys.executable).with_name("rrg")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{shlex.quote(str(script))} plugins | true"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), "rrg: runs/x: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "rrg: the disk: No space left on device\n"),
    ],
)
def test_what_the_disk_refuses_is_one_line(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> int:
        raise error

    monkeypatch.setattr("rrg.cli.plugins.run", refused)
    assert main(["plugins"]) == 1
    assert capsys.readouterr().err == said


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "rrg", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: rrg [-h] [--version] COMMAND")
    done = subprocess.run([sys.executable, "-m", "rrg", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
