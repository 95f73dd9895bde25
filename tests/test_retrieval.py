"""The retrieval index: what it never answers, exactness, ties, and its files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rrg.config import RetrieverConfig
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, RRGError
from rrg.generate.reporter import Reporter
from rrg.retrieve.index import Entry, Index, build_index

small = st.integers(-3, 3).map(float)  # whole numbers: products are exact, ties are many


def study(name: str, patient: str) -> Study:
    return Study.model_construct(id=name, patient=patient, split="test", file_names=[], findings="", labels={})


@st.composite
def cases(draw: Any) -> tuple[Index, torch.Tensor, list[Study], int]:
    entries, width, queries = draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    patients = draw(st.lists(st.sampled_from("abcd"), min_size=entries, max_size=entries))
    rows = st.lists(small, min_size=width, max_size=width)
    keys = torch.tensor(draw(st.lists(rows, min_size=entries, max_size=entries)))
    asked = torch.tensor(draw(st.lists(rows, min_size=queries, max_size=queries)))
    # Ids of the index come with any patient: where the two disagree, both are left out.
    studies = st.builds(study, st.sampled_from(["s0", "s1", "s5", "other"]), st.sampled_from("abcde"))
    index = Index(keys, [Entry(f"s{i}", patient, f"report {i}") for i, patient in enumerate(patients)])
    return index, asked, draw(st.lists(studies, min_size=queries, max_size=queries)), draw(st.integers(1, 12))


@given(cases())
@settings(deadline=None)
def test_search_is_brute_force_over_other_patients(case: tuple[Index, torch.Tensor, list[Study], int]) -> None:
    index, queries, studies, k = case
    for found, query, own in zip(index.search(queries, studies, k), queries, studies, strict=True):
        others = [(float(query @ key), -i, e) for i, (key, e) in enumerate(zip(index.keys, index.entries, strict=True))]
        allowed = [
            (score, place, entry)
            for score, place, entry in others
            if entry.patient != own.patient and entry.id != own.id
        ]
        best = sorted(allowed, key=lambda other: other[:2], reverse=True)[:k]
        assert found == [(entry, score) for score, _, entry in best]


def test_search_answers_nothing_where_every_entry_is_the_patients_own() -> None:
    index = Index(torch.ones(3, 2), [Entry(f"s{i}", "p", "") for i in range(3)])
    assert index.search(torch.ones(1, 2), [study("x", "p")], k=2) == [[]]


def test_search_chunks_long_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(torch.eye(5), [Entry(f"s{i}", f"p{i}", "") for i in range(5)])
    queries, asking = torch.eye(5)[[3, 1, 4, 0, 2]], [study("x", "x")] * 5
    whole = index.search(queries, asking)
    monkeypatch.setattr("rrg.retrieve.index.CHUNK", 2)
    assert index.search(queries, asking) == whole
    assert [answer[0][0].id for answer in whole] == ["s3", "s1", "s4", "s0", "s2"]


def test_a_saved_index_answers_the_same(tmp_path: Path) -> None:
    entries = [Entry(f"s{i}", f"p{i // 2}", f"line one\nline two\u2028 {i}") for i in range(7)]
    index = Index(torch.randn(7, 3), entries)
    index.save(tmp_path / "index")
    queries, asking = torch.randn(4, 3), [study("x", patient) for patient in ("p0", "p1", "q", "p3")]
    assert Index.open(tmp_path / "index").search(queries, asking, 3) == index.search(queries, asking, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _cut(folder / "index.safetensors"),
        lambda folder: _cut(folder / "index.jsonl"),
        lambda folder: (folder / "index.jsonl").write_text(""),
        lambda folder: (folder / "index.jsonl").write_text('{"id": 1}\n' * 3),
        lambda folder: (folder / "index.jsonl").unlink(),
    ],
    ids=["keys cut", "line cut", "no entries", "other fields", "no file"],
)
def test_a_damaged_index_is_an_error_that_names_it(tmp_path: Path, damage: Any) -> None:
    folder = tmp_path / "index"
    Index(torch.ones(3, 2), [Entry(f"s{i}", "p", "r") for i in range(3)]).save(folder)
    damage(folder)
    with pytest.raises(DataError, match="index"):
        Index.open(folder)


def test_the_index_holds_the_training_split_alone(folder: StudyFolder, tiny_run: Path) -> None:
    train = [(study.id, study.patient, study.findings) for study in folder.split("train")]
    for path in (tiny_run / "index", tiny_run / "stages" / "02-core.exemplars" / "index"):
        assert [(e.id, e.patient, e.report) for e in Index.open(path).entries] == train


def test_the_runs_index_is_that_of_its_final_weights(folder: StudyFolder, reporter: Reporter) -> None:
    assert reporter.index is not None
    assert torch.equal(build_index(reporter.model, folder).keys, reporter.index.keys)


def test_the_stages_index_is_that_of_the_weights_at_its_start(folder: StudyFolder, tiny_run: Path) -> None:
    from rrg.generate.reporter import open_tokenizer
    from rrg.model.model import build
    from rrg.model.weights import load_weights
    from tiny_runs import tiny_recipe

    model = build(tiny_recipe(), tokenizer=open_tokenizer(tiny_run / "tokenizer"))
    model.begin("lead.train")
    load_weights(model, tiny_run / "stages" / "01-lead.train")
    saved = Index.open(tiny_run / "stages" / "02-core.exemplars" / "index")
    assert torch.equal(build_index(model, folder).keys, saved.keys)


def test_keys_that_are_not_finite_are_refused(
    folder: StudyFolder, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(reporter.model), "keys", lambda self, values: torch.full((2, 3), torch.nan))
    monkeypatch.setattr("rrg.retrieve.index.Studies", lambda folder, studies, recipe: [])
    monkeypatch.setattr("rrg.retrieve.index.batches", lambda *args, **kwargs: [{}])
    monkeypatch.setattr("rrg.retrieve.index.to_device", lambda batch, device: batch)
    monkeypatch.setattr(type(reporter.model), "signals", lambda self, batch: {})
    from rrg.retrieve.index import keys_of

    with pytest.raises(RRGError, match="train0"):
        keys_of(reporter.model, folder, folder.split("train")[:2], "index", reporter.model.keys)


@pytest.mark.parametrize("query", [float("nan"), float("inf")])
def test_a_query_that_is_not_finite_is_refused(query: float) -> None:
    index = Index(torch.ones(3, 2), [Entry(f"s{i}", "p", "") for i in range(3)])
    with pytest.raises(RRGError, match="no finite key for 1 studies, such as asked"):
        index.search(torch.tensor([[1.0, 1.0], [1.0, query]]), [study("fine", "x"), study("asked", "x")])


def clustered(keys: torch.Tensor, entries: list[Entry], probe: int, folder: Path) -> Index:
    """An index that faiss searches, made as a run's is opened."""
    Index(keys, entries).save(folder)
    return Index.open(folder, RetrieverConfig(search="ivf", probe=probe))


@given(
    entries=st.integers(1, 30), probe=st.integers(1, 6), k=st.integers(1, 9), width=st.integers(1, 3),
    different=st.integers(1, 30), patients=st.integers(1, 6), seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_search_by_cells_answers_with_the_study_or_its_patient(
    tmp_path_factory: pytest.TempPathFactory,
    entries: int, probe: int, k: int, width: int, different: int, patients: int, seed: int,
) -> None:  # fmt: skip
    """Few keys, keys twice, patients with many studies: every study of the index and one held out are asked about."""
    pytest.importorskip("faiss")
    draw = torch.Generator().manual_seed(seed)
    keys = torch.randn(min(different, entries), width, generator=draw)
    keys = keys[torch.randint(len(keys), (entries,), generator=draw)]
    owners = [f"p{n}" for n in torch.randint(patients, (entries,), generator=draw).tolist()]
    listed = [Entry(f"s{i}", owner, f"report {i}") for i, owner in enumerate(owners)]
    index = clustered(keys, listed, probe, tmp_path_factory.mktemp("index") / "index")
    asked = [study(entry.id, entry.patient) for entry in listed] + [study("held out", "p0"), study("s0", "nobody")]
    answers = index.search(torch.cat([keys, keys[:1], keys[-1:]]), asked, k)
    for own, found in zip(asked, answers, strict=True):
        others = [entry for entry in listed if entry.patient != own.patient and entry.id != own.id]
        assert all(entry in others for entry, _ in found)
        assert len({entry.id for entry, _ in found}) == len(found) == min(k, len(others))


def test_an_index_searched_by_faiss_is_saved_and_opened_as_one(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    keys, queries = torch.randn(40, 3), torch.randn(6, 3)
    entries = [Entry(f"s{i}", f"p{i // 2}", "r") for i in range(40)]
    asking = [study("s3", f"p{i}") for i in range(6)]
    made = clustered(keys, entries, 1, tmp_path / "exact")  # sorted into cells as it is opened
    made.save(tmp_path / "ivf")
    assert {path.name for path in (tmp_path / "ivf").iterdir()} == {"index.safetensors", "index.jsonl"}
    opened = Index.open(tmp_path / "ivf", RetrieverConfig(search="ivf", probe=1))
    assert opened.search(queries, asking, 4) == made.search(queries, asking, 4)
    everywhere = Index.open(tmp_path / "ivf", RetrieverConfig(search="ivf", probe=99)).search(queries, asking, 4)
    exact = Index(keys, entries).search(queries, asking, 4)
    assert [[e for e, _ in found] for found in everywhere] == [[e for e, _ in found] for found in exact]


def test_a_file_of_faiss_in_an_earlier_runs_index_is_not_read(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    keys, entries = torch.randn(9, 3), [Entry(f"s{i}", f"p{i}", "r") for i in range(9)]
    Index(keys, entries).save(tmp_path / "index")
    (tmp_path / "index" / "index.faiss").write_bytes(b"IwFl" + bytes(40))
    opened = Index.open(tmp_path / "index", RetrieverConfig(search="ivf", probe=9))
    assert (
        opened.search(keys, [study("x", "x")] * 9)[4][0][0].id
        == Index(keys, entries).search(keys[4:5], [study("x", "x")])[0][0][0].id
    )


def test_cells_that_are_damaged_are_an_error_that_names_the_index(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    keys, entries = torch.randn(9, 3), [Entry(f"s{i}", f"p{i}", "r") for i in range(9)]
    clustered(keys, entries, 1, tmp_path / "exact").save(tmp_path / "index")
    file = tmp_path / "index" / "index.safetensors"
    save_file(load_file(file) | {"cells": torch.full((9,), 4)}, file)
    with pytest.raises(DataError, match=r"index: cells \(9,\) around centres \(3, 3\) .*the index is damaged"):
        Index.open(tmp_path / "index", RetrieverConfig(search="ivf"))
