"""The pytest plugin: options of the contract suite. Light, since pytest loads it wherever rrg is installed."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rrg", "contracts of rrg's pieces")
    group.addoption("--rrg-plugin", action="append", default=[], metavar="NAME", help="plugin, method or piece to test")
    group.addoption("--rrg-examples", type=int, default=10, metavar="N", help="examples of each check (default: 10)")
    group.addoption("--rrg-device", default="cpu", metavar="DEVICE", help="cpu, cuda, … (default: cpu)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"rrg_case", "rrg_check"} <= set(metafunc.fixturenames):
        return
    from rrg.errors import UsageError
    from rrg.testing import due, select

    option = metafunc.config.getoption
    try:
        cases = select(option("--rrg-plugin"), examples=option("--rrg-examples"), device=option("--rrg-device"))
        pairs = [(case, check) for case in cases for check in due(case)]
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    metafunc.parametrize(("rrg_case", "rrg_check"), pairs, ids=[f"{case.name}-{check.name}" for case, check in pairs])
