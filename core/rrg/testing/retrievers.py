"""Checks of retrievers: the index that their keys make, and what it answers."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from rrg.data.study import Study
from rrg.retrieve.index import Entry, Index
from rrg.testing.case import Case, Example
from rrg.testing.checks import REPEATS, broken, check, declared

COUNTS = (2, 5, 9)


def study(number: int, patient: int, split: str = "train") -> Study:
    return Study.model_construct(id=f"s{number}", patient=f"p{patient}", split=split, file_names=[], labels={})


def keys_of(case: Case, example: Example) -> Tensor:
    """Keys of as many studies as the batch has."""
    with torch.no_grad():
        keys: Tensor = case.call(case.module(example), case.tensors(example))["result"]
    return keys.cpu()


def corpus(keys: Tensor, report: str = "Lungs are clear.") -> tuple[Index, list[Study]]:
    """An index of so many studies, two a patient."""
    studies = [study(number, number // 2) for number in range(len(keys))]
    return Index(keys, [Entry(s.id, s.patient, report) for s in studies]), studies


@check("retriever", needs=REPEATS)
def leaks(case: Case) -> None:
    """never answers with the study itself, with its patient's, or with one that is not in the index"""

    def body(example: Example) -> None:
        keys = keys_of(case, example)
        index, studies = corpus(keys)
        held_out = study(len(keys) + 1, len(keys) + 1, "test")
        everyone = [*studies, held_out]
        answers = index.search(torch.cat([keys, keys[:1]]), everyone, k=len(keys))
        for asked, found in zip(everyone, answers, strict=True):
            for entry, _ in found:
                broken(f"{asked.id} is answered with itself" if entry.id == asked.id else None)
                same = entry.patient == asked.patient
                broken(f"{asked.id} is answered with its patient's {entry.id}" if same else None)
                broken(f"{entry.id} is held out" if entry.id == held_out.id else None)

    case.forall(body, ordinary=True, batch=COUNTS)


@check("retriever", needs=(*REPEATS, "leaks"))
def brute_force(case: Case) -> None:
    """answers with the best inner products, as counted one by one"""

    def body(example: Example) -> None:
        keys = keys_of(case, example)
        index, studies = corpus(keys)
        for number, found in enumerate(index.search(keys, studies, k=2)):
            others = [i for i in range(len(keys)) if i // 2 != number // 2]
            scores = [float(keys[number].double() @ keys[i].double()) for i in others]
            best = sorted(scores, reverse=True)[:2]
            given = [score for _, score in found]
            near = len(given) == len(best) and torch.allclose(torch.tensor(given), torch.tensor(best), atol=1e-4)
            broken(None if near else f"study {number}: scores {given}, counted one by one {best}")

    case.forall(body, ordinary=True, batch=COUNTS)


@check("retriever", needs=(*REPEATS, "rows", "leaks"))
def ties(case: Case) -> None:
    """answers equal scores in the order of the index, and the same each time"""

    def body(example: Example) -> None:
        tensors = case.tensors(example)
        with torch.no_grad():
            same = {name: tensor[:1].expand_as(tensor).clone() for name, tensor in tensors.items()}
            keys = case.call(case.module(example), same)["result"].cpu()
        broken(None if torch.equal(keys, keys[:1].expand_as(keys)) else "equal studies of one batch have other keys")
        index, studies = corpus(keys)
        found = [entry.id for entry, _ in index.search(keys[-1:], [studies[-1]], k=len(keys))[0]]
        expected = [s.id for s in studies if s.patient != studies[-1].patient]
        broken(None if found == expected else f"equal scores are answered as {found}, the index holds {expected}")

    case.forall(body, ordinary=True, batch=(5, 9))


@check("retriever", needs=(*REPEATS, "leaks"))
def large_k(case: Case) -> None:
    """gives all that there is where more is asked for"""

    def body(example: Example) -> None:
        keys = keys_of(case, example)
        index, studies = corpus(keys)
        for asked, found in zip(studies, index.search(keys, studies, k=50), strict=True):
            expected = sum(other.patient != asked.patient for other in studies)
            broken(None if len(found) == expected else f"{len(found)} answers of {expected} for k=50")

    case.forall(body, ordinary=True, batch=COUNTS)


@check("retriever", needs=(*REPEATS, "leaks"))
def index_saved(case: Case) -> None:
    """answers the same from an index that was saved and opened, empty reports too"""

    def body(example: Example) -> None:
        keys = keys_of(case, example)
        index, studies = corpus(keys, report="")
        with tempfile.TemporaryDirectory() as folder:
            index.save(Path(folder) / "index")
            opened = Index.open(Path(folder) / "index")
        same = opened.search(keys, studies, k=3) == index.search(keys, studies, k=3)
        broken(None if same else "the opened index answers otherwise")

    case.forall(body, ordinary=True, batch=COUNTS)


@check("retriever", applies=declared("unit_keys"))
def unit_keys(case: Case) -> None:
    """gives keys of norm 1, as it declares"""

    def body(example: Example) -> None:
        norms = keys_of(case, example).norm(dim=-1)
        wrong = (norms - 1).abs().max()
        broken(f"a key's norm is {float(norms[(norms - 1).abs().argmax()]):.3g}" if wrong > 1e-3 else None)

    case.forall(body, batch=(2, 5))
