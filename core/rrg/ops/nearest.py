"""Nearest keys by inner product: exact at the speed of a much narrower search, or approximate by faiss.

Exact search reads a narrow table first: each key along the few axes that hold most of all keys' length, and the length
r of the rest. As q_rest · k_rest ≤ |q_rest| |k_rest|, one product of [q_near, |q_rest|] with [k_near, r] bounds every
score from above. The keys of the greatest bounds are scored exactly; once the next bound lies below the k-th best, no
other key can belong to the answer. Queries that this does not settle are searched in full, so the speed hangs on the
keys and the answer does not. Scores are taken in float64 and rounded to float32.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rrg.errors import DataError, UsageError

LARGE = 20_000  # keys from which on a table is worth its making, and that its axes are found from
WIDTHS = (32, 64, 128, 256)
TRIAL, SETTLED = 64, 0.9  # queries tried on a table, and the share that it must settle
HOPELESS = 0.1  # share of the keys' squared length that a table may leave out
FIRST, MORE = 64, 8  # keys scored exactly at first, and the factor where they do not settle a query
ROUNDING = 4e-6  # of float32 products, relative to the lengths of their factors
GATHERED = 2**22  # numbers of keys read at once


@dataclass(frozen=True)
class Table:
    """axes: orthonormal. rows: the keys along them, and the length of what they leave of each."""

    axes: Float[Tensor, "key width"]
    rows: Float[Tensor, "keys width+1"]


class Nearest:
    """Exact search. keys stay where they are: they may be mapped from a file that is larger than the memory.

    table: made at the first search of many keys; None where no narrow table settles most queries like the keys.
    """

    def __init__(self, keys: Float[Tensor, "keys key"]) -> None:
        self.keys = keys
        parts = (part.square().sum(dim=1).max().item() for part in keys.split(LARGE) if len(part))
        self.longest = math.sqrt(max(parts, default=0.0))

    def search(
        self, queries: Float[Tensor, "queries key"], k: int
    ) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
        """Scores and places of the k keys with the greatest inner products, best first, equal ones in their order.

        Fewer than k where there are not so many keys.
        """
        queries, k, table = queries.float(), min(k, len(self.keys)), self.table
        scores, places = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.long)
        left, count = torch.arange(len(queries)), max(FIRST, 2 * k)
        bounds = self._bounds(queries, table)
        while len(left):
            if table is not None and count > FIRST * MORE**2:
                bounds, table = self._bounds(queries[left], None), None
            found, where, settled = self._settled(queries[left], bounds, k, count)
            scores[left[settled]], places[left[settled]] = found[settled].float(), where[settled]
            left, bounds, count = left[~settled], bounds[~settled], count * MORE
        return scores, places

    @cached_property
    def table(self) -> Table | None:
        """The narrowest table that settles most queries like the keys at once."""
        if len(self.keys) < LARGE:
            return None
        sample = self.keys[:: len(self.keys) // LARGE].double()
        energy, axes = (each.flip(-1).float() for each in torch.linalg.eigh(sample.T @ sample))  # greatest first
        tried = self.keys[:: max(len(self.keys) // TRIAL, 1)][:TRIAL]
        for width in (width for width in WIDTHS if width <= self.keys.shape[1] // 2):
            if energy[width:].sum() > HOPELESS * energy.sum():
                continue
            near = self.keys @ axes[:, :width]
            table = Table(axes[:, :width].contiguous(), torch.cat([near, _rest(self.keys, near)], dim=1))
            # Each key finds itself, and then its like.
            if self._settled(tried, self._bounds(tried, table), 4, FIRST)[2].float().mean() >= SETTLED:
                return table
        return None

    def _bounds(self, queries: Tensor, table: Table | None) -> Tensor:
        """Upper bounds of all scores (queries keys)."""
        if table is None:
            return queries @ self.keys.T
        near = queries @ table.axes
        return torch.cat([near, _rest(queries, near)], dim=1) @ table.rows.T

    def _settled(self, queries: Tensor, bounds: Tensor, k: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The k best of the `count` keys with the greatest bounds, their places, and whether they are the k best."""
        top = bounds.topk(min(count, len(self.keys)), dim=1)
        places = top.indices.sort(dim=1).values
        parts = []
        for row, query in zip(places, queries.double(), strict=True):
            pieces = row.split(max(GATHERED // max(self.keys.shape[1], 1), 1))
            parts.append(torch.cat([(self.keys[piece].double() * query).sum(dim=1) for piece in pieces]))
        scores, order = torch.stack(parts).sort(dim=1, descending=True, stable=True)
        scores, places = scores[:, :k], places.gather(1, order[:, :k])
        slack = ROUNDING * self.longest * queries.norm(dim=1)  # what rounding may have taken from a bound
        settled = (top.values[:, -1] + slack < scores[:, -1]) if count < len(self.keys) else slack >= 0
        return scores, places, settled


def _rest(x: Tensor, near: Tensor) -> Tensor:
    """An upper bound of the length that the axes leave (rows 1): of a difference, so that rounding is added."""
    whole = x.square().sum(dim=1, keepdim=True)
    return (whole - near.square().sum(dim=1, keepdim=True)).clamp(min=0).add(ROUNDING * whole).sqrt()


class IVF:
    """Approximate search by faiss: keys in about √n cells, of which the `probe` nearest to a query are searched.

    centres, cells: the cells' centres, and the cell of each key; they alone are kept on disk, as tensors, since faiss's
    own files are read by code that trusts them.
    """

    def __init__(
        self,
        keys: Float[Tensor, "keys key"],
        centres: Float[Tensor, "cells key"],
        cells: Int[Tensor, " keys"],
        probe: int = 16,
    ) -> None:
        """Raises UsageError without faiss, DataError where the cells are not those of such keys."""
        faiss = _faiss()
        if (
            centres.ndim != 2
            or centres.shape[1:] != keys.shape[1:]
            or cells.shape != keys.shape[:1]
            or not centres.isfinite().all()
            or (len(cells) and not 0 <= int(cells.min()) <= int(cells.max()) < len(centres))
        ):
            raise DataError(f"cells {tuple(cells.shape)} around centres {tuple(centres.shape)} for {tuple(keys.shape)}")
        self.centres, self.cells, self.probe = centres, cells, probe
        coarse = faiss.IndexFlatIP(keys.shape[1])
        coarse.add(centres.float().numpy())
        self.index = faiss.IndexIVFFlat(coarse, keys.shape[1], len(centres), faiss.METRIC_INNER_PRODUCT)
        array, places = keys.float().contiguous().numpy(), cells.long().contiguous().numpy()
        self.index.add_core(len(array), faiss.swig_ptr(array), None, faiss.swig_ptr(places))

    @classmethod
    def of(cls, keys: Float[Tensor, "keys key"], probe: int = 16) -> "IVF":
        """Sort keys into cells, the same each time. Raises UsageError without faiss."""
        faiss = _faiss()
        count = max(int(math.sqrt(len(keys))), 1)
        array = keys.float().contiguous().numpy()
        means = faiss.Kmeans(keys.shape[1], count, niter=10, spherical=True, min_points_per_centroid=1)
        means.train(array[:: max(len(keys) // (64 * count), 1)])
        _, nearest = means.index.search(array, 1)
        return cls(keys, torch.from_numpy(means.centroids), torch.from_numpy(nearest[:, 0]), probe)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `Nearest.search`, among the cells of the probe; among all where those hold fewer than k keys."""
        queries, k = queries.float().contiguous(), min(k, len(self.cells))
        scores, places = self._among(queries, k, self.probe)
        few = (places < 0).any(dim=1)
        if few.any():
            scores[few], places[few] = self._among(queries[few], k, len(self.centres))
        return scores, places

    def _among(self, queries: Tensor, k: int, probe: int) -> tuple[Tensor, Tensor]:
        self.index.nprobe = min(probe, len(self.centres))
        scores, places = self.index.search(queries.numpy(), k)
        return torch.from_numpy(scores), torch.from_numpy(places)


def _faiss() -> Any:
    if not find_spec("faiss"):
        raise UsageError("search = 'ivf' needs faiss: pip install faiss-cpu, or set search = 'exact'")
    import faiss

    return faiss
