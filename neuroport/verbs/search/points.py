"""Points of a search: how often they were right, what they cost, and which are the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.engine.shards import wilson
from neuroport.verbs.search.options import MAXIMIZED


@dataclass(frozen=True)
class Share:
    """How many of n samples were right, with Wilson's interval."""

    n_right: int
    n: int

    @property
    def accuracy(self) -> float:
        """The fraction."""
        return self.n_right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of Wilson's interval of 95 %: what the number of samples can tell."""
        return wilson(self.n_right, self.n)

    def as_json(self) -> dict[str, Any]:
        """For search.json."""
        low, high = self.interval
        return {"right": self.n_right, "samples": self.n, "accuracy": self.accuracy, "low": low, "high": high}


def share_of(is_right: NDArray[np.bool_]) -> Share:
    """How many are right."""
    return Share(int(np.count_nonzero(is_right)), len(is_right))


@dataclass(frozen=True, eq=False)
class Done:
    """A trial that came to its end: its costs, and which samples it has right, [N]."""

    costs: Mapping[str, float]
    is_right: NDArray[np.bool_]


def packed(is_right: NDArray[np.bool_]) -> str:
    """Which samples are right, as hex digits for a storage."""
    return np.packbits(is_right).tobytes().hex()


def unpacked(text: str, n: int) -> NDArray[np.bool_]:
    """The same again."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(np.bool_)


def dominates(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether one is nowhere worse than the other, and somewhere better; both have the same keys."""
    gains = [_gain(name, one[name], other[name]) for name in other]
    return min(gains) >= 0 and max(gains) > 0


def frontier(points: Sequence[Mapping[str, float]]) -> list[int]:
    """Which points no other dominates; of equal ones the first. Cheapest first, then by accuracy."""
    kept = [
        k
        for k, point in enumerate(points)
        if point not in points[:k] and not any(dominates(other, point) for other in points)
    ]
    return sorted(kept, key=lambda k: (*costs_of(points[k]).values(), points[k][MAXIMIZED], k))


def costs_of(point: Mapping[str, float]) -> dict[str, float]:
    """What is minimized."""
    return {name: value for name, value in point.items() if name != MAXIMIZED}


def is_hopeless(
    share: Share, costs: Mapping[str, float], done: Sequence[Done], least: float, ann: NDArray[np.bool_]
) -> bool:
    """Whether even the upper end of the interval is below what is asked for, or no better than a point as cheap.

    The first samples may be harder than the others, so a share of them is compared with what the ANN (its answers:
    `ann`) and the points of `done` have right of the same ones. least: accuracy asked for on all samples.
    """
    high = share.interval[1]
    if high < least + float(ann[: share.n].mean() - ann.mean()):
        return True
    as_cheap = [p for p in done if all(p.costs[name] <= cost for name, cost in costs.items())]
    return any(p.is_right.all() or float(p.is_right[: share.n].mean()) > high for p in as_cheap)


def _gain(name: str, one: float, other: float) -> float:
    return one - other if name == MAXIMIZED else other - one
