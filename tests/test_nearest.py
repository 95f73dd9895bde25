"""Nearest keys: exact search against every score in float64, whatever its table; faiss against exact search."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rrg.errors import DataError, UsageError
from rrg.ops import nearest
from rrg.ops.nearest import IVF, Nearest

faiss_is_here = pytest.mark.skipif(nearest.find_spec("faiss") is None, reason="faiss is not installed")


def drawn(count: int, width: int, kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(count, width, generator=generator)
    if kind == "few directions":
        keys = keys * torch.arange(1, width + 1).float().pow(-2)
    if kind == "one place":
        keys = keys[:1] + 1e-4 * keys
    if kind == "equal":
        keys = keys[torch.randint(min(count, 3), (count,), generator=generator)]
    if kind == "far lengths":
        keys = keys * torch.randn(count, 1, generator=generator).mul(3).exp()
    return keys


def brute_force(keys: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    rows = [(keys.double() * query).sum(dim=1).sort(descending=True, stable=True) for query in queries.double()]
    return torch.stack([row.values[:k].float() for row in rows]), torch.stack([row.indices[:k] for row in rows])


# Every limit so low that a few keys meet it.
SMALL = {"LARGE": 12, "WIDTHS": (1, 2, 4), "FIRST": 3, "MORE": 2, "GATHERED": 40}


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 80), width=st.integers(1, 9), queries=st.integers(1, 5), k=st.integers(1, 12),
    kind=st.sampled_from(["alike", "few directions", "one place", "equal", "far lengths"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_it_is_brute_force(count: int, width: int, queries: int, k: int, kind: str, seed: int) -> None:
    keys, asked = drawn(count, width, kind, seed), drawn(queries, width, "alike", seed + 100)
    asked[0] = keys[0]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(nearest, name, value)
        scores, places = Nearest(keys).search(asked, k)
    expected, order = brute_force(keys, asked, min(k, count))
    assert torch.equal(scores, expected)
    assert torch.equal(places, order)


def test_keys_like_an_encoders_get_a_table_and_keys_alike_in_all_directions_none() -> None:
    count, width = 30_000, 96
    few = F.normalize(drawn(count, width, "few directions", 0), dim=1)
    queries = F.normalize(few[:20] + 0.01 * torch.randn(20, width) * few.std(dim=0), dim=1)
    index = Nearest(few)
    assert index.table is not None
    assert index.table.rows.shape[1] < width
    assert torch.equal(index.search(queries, 4)[1], brute_force(few, queries, 4)[1])
    alike = Nearest(drawn(count, width, "alike", 0))
    assert alike.table is None
    assert torch.equal(alike.search(queries, 4)[1], brute_force(alike.keys, queries, 4)[1])


def test_few_keys_need_no_table() -> None:
    assert Nearest(torch.randn(100, 4)).table is None


@faiss_is_here
def test_faiss_is_brute_force_where_it_looks_into_every_cell() -> None:
    keys, queries = drawn(900, 12, "alike", 0), drawn(7, 12, "alike", 1)
    scores, places = IVF.of(keys, probe=30).search(queries, 5)
    expected, order = Nearest(keys).search(queries, 5)
    assert torch.equal(places, order)
    torch.testing.assert_close(scores, expected)
    some = IVF.of(keys, probe=1).search(queries, 5)[1]
    assert 0 < sum(len({*a} & {*b}) for a, b in zip(some.tolist(), order.tolist(), strict=True)) < order.numel()


@faiss_is_here
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40), probe=st.integers(1, 9), k=st.integers(1, 50),
    kind=st.sampled_from(["alike", "one place", "equal", "far lengths"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_faiss_gives_k_keys_that_are_there_however_few_its_cells_hold(
    count: int, probe: int, k: int, kind: str, seed: int
) -> None:
    keys, asked = drawn(count, 3, kind, seed), drawn(4, 3, "alike", seed + 100)
    scores, places = IVF.of(keys, probe).search(asked, k)
    assert scores.shape == places.shape == (4, min(k, count))
    for row, query, found in zip(places.tolist(), asked, scores, strict=True):
        assert len({*row}) == len(row)
        assert min(row) >= 0
        torch.testing.assert_close(found, keys[row] @ query)


@faiss_is_here
@pytest.mark.parametrize("cells", [[0, 1, 2], [0, -1, 1, 0], [0, 1, 9, 0], [[0], [1], [0], [1]]])
def test_cells_that_are_not_those_of_the_keys_are_refused(cells: Any) -> None:
    with pytest.raises(DataError, match=r"cells \(.*\) around centres \(2, 3\) for \(4, 3\)"):
        IVF(torch.randn(4, 3), torch.randn(2, 3), torch.tensor(cells))


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="search = 'ivf' needs faiss: pip install faiss-cpu"):
        IVF.of(torch.randn(4, 2))


def test_what_it_reads_of_a_file_is_mapped(tmp_path: Path) -> None:
    from rrg.retrieve.index import Entry, Index

    Index(torch.randn(50, 4), [Entry(f"s{i}", f"p{i}", "") for i in range(50)]).save(tmp_path / "index")
    opened: Any = Index.open(tmp_path / "index")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no list of mapped files on this system")
    assert str(tmp_path / "index" / "index.safetensors") in maps.read_text()
    assert len(opened.entries) == 50
