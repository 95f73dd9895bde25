"""The retrieval index: what it never answers, exactness, ties, and its files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrg.config import RetrieverConfig
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, RRGError
from rrg.retrieval import Entry, Index, build_index
from rrg.run import Reporter

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
    monkeypatch.setattr("rrg.retrieval.CHUNK", 2)
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
    from rrg.model import build
    from rrg.run import open_tokenizer
    from rrg.weights import load_weights
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
    monkeypatch.setattr("rrg.retrieval.Studies", lambda folder, studies, recipe: [])
    monkeypatch.setattr("rrg.retrieval.batches", lambda *args, **kwargs: [{}])
    monkeypatch.setattr("rrg.retrieval.to_device", lambda batch, device: batch)
    monkeypatch.setattr(type(reporter.model), "signals", lambda self, batch: {})
    from rrg.retrieval import keys_of

    with pytest.raises(RRGError, match="train0"):
        keys_of(reporter.model, folder, folder.split("train")[:2], "index", reporter.model.keys)


def test_an_index_searched_by_faiss_is_saved_and_opened_as_one(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    config, keys = RetrieverConfig(search="ivf", probe=99), torch.randn(40, 3)
    entries = [Entry(f"s{i}", f"p{i // 2}", "r") for i in range(40)]
    exact = Index(keys, entries)
    exact.save(tmp_path / "exact")
    made = Index.open(tmp_path / "exact", config)  # sorted into cells as it is opened
    made.save(tmp_path / "ivf")
    opened = Index.open(tmp_path / "ivf", config)
    queries, asking = torch.randn(6, 3), [study("s3", f"p{i}") for i in range(6)]
    expected = [[entry for entry, _ in found] for found in exact.search(queries, asking, 4)]
    for index in (made, opened):
        assert [[entry for entry, _ in found] for found in index.search(queries, asking, 4)] == expected
    Index(keys[:30], entries[:30]).save(tmp_path / "other")
    (tmp_path / "ivf" / "index.faiss").rename(tmp_path / "other" / "index.faiss")
    with pytest.raises(DataError, match=r"index.faiss: 40 keys of 3 numbers for \(30, 3\)"):
        Index.open(tmp_path / "other", config)
