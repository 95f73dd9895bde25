"""The suite as pytest collects it: `pytest --pyargs rrg.testing.suite --rrg-plugin NAME`."""

import pytest

from rrg.testing import Case, Check, run


def test_contract(rrg_case: Case, rrg_check: Check) -> None:
    result = run(rrg_case, rrg_check)
    if result.skipped:
        pytest.skip(f"{result.skipped} doesn't hold")
    if result.message:
        pytest.fail(f"{result.message}\npromise: {rrg_check.promise}", pytrace=False)
