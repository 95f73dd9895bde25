"""Random changes of films in training."""

import torch

from rrg.train.augment import augment


def test_films_stay_in_range_and_change() -> None:
    films = torch.rand(3, 2, 1, 37, 37)
    moved = augment(films, 1.0)
    assert moved.shape == films.shape
    assert 0 <= moved.min() <= moved.max() <= 1
    assert not torch.allclose(moved, films, atol=0.05)


def test_same_generator_state_gives_the_same_films() -> None:
    films = torch.rand(2, 1, 1, 20, 20)
    torch.manual_seed(3)
    first = augment(films, 0.7)
    torch.manual_seed(3)
    assert torch.equal(augment(films, 0.7), first)


def test_vanishing_strength_leaves_films() -> None:
    films = torch.rand(2, 2, 1, 33, 33).clamp(min=0.01)
    torch.testing.assert_close(augment(films, 1e-7), films, atol=1e-4, rtol=0)


def test_each_film_is_changed_by_itself() -> None:
    film = torch.rand(1, 1, 1, 24, 24)
    moved = augment(film.expand(2, 2, -1, -1, -1), 1.0).flatten(0, 1)
    assert all(not torch.allclose(moved[0], other, atol=0.01) for other in moved[1:])


def test_left_stays_left() -> None:
    films = torch.zeros(64, 1, 1, 40, 40)
    films[..., :10] = 1.0  # bright at the image's left
    moved = augment(films, 1.0)
    assert (moved[..., :20].sum((1, 2, 3, 4)) > moved[..., 20:].sum((1, 2, 3, 4))).all()


def test_shift_is_bounded_by_a_tenth_of_the_side() -> None:
    films = torch.zeros(200, 1, 1, 101, 101)
    films[..., 46:55, 46:55] = 1.0
    moved = augment(films, 1.0).flatten(0, 2)
    weight = moved / moved.sum((1, 2), keepdim=True)
    place = torch.arange(101.0)
    shift = torch.stack([(weight.sum(2) * place).sum(1), (weight.sum(1) * place).sum(1)]) - 50
    assert 5 < shift.abs().max() < 0.1 * 101 * 1.35  # a zoom to 85 % and a turn lengthen the shift
