"""The order of training."""

from hypothesis import given
from hypothesis import strategies as st

from rrg.train.sampling import LengthGrouped

LENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=200)


@given(lengths=LENGTHS, batch_size=st.integers(1, 17), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_study_once(lengths, batch_size, seed, epoch):
    sampler = LengthGrouped(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = LengthGrouped(range(100), 7, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 2) == order(3, 2)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_batches_hold_reports_of_like_length():
    lengths = [i % 50 for i in range(200)]
    order = list(LengthGrouped(lengths, 10, 0))
    spans = [
        max(map(lengths.__getitem__, order[i : i + 10])) - min(map(lengths.__getitem__, order[i : i + 10]))
        for i in range(0, 200, 10)
    ]
    assert max(spans) <= 5
