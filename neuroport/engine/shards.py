"""Shards of a set of samples, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork
from neuroport.validation.core_batch import CoreBatch, most_samples

_COST = 1 << 40  # synapse-steps of one shard: seconds of one thread, so that a scheduler has little to do
_MOST = 256
_HELD = 1 << 28  # spikes of all populations that a backend returns at a time
_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below


@dataclass(frozen=True, eq=False)
class ShardResult:
    """What one shard gave.

    classes: [n], the network's answers; n_right: those that are right; n_right_over_time: [T] after each step.
    worker: who ran it; seconds: how long that took. batch: all that the core gave, where it is asked for.
    """

    classes: NDArray[np.int64]
    n_right: int
    n_right_over_time: NDArray[np.int64]
    worker: str = ""
    seconds: float = 0.0
    batch: CoreBatch | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A shard that has ended: its result, or why there is none. is_misfit: the network cannot hold its samples."""

    shard: slice
    result: ShardResult | None
    reason: str = ""
    is_misfit: bool = False


class Engine(Protocol):
    """Runs work on shards. `summary` says where, in one line."""

    @property
    def summary(self) -> str:
        """Where the work is done."""

    def outcomes(self, work: Any, shards: Sequence[slice]) -> Generator[Outcome, None, None]:
        """Each shard's outcome as it ends, in any order.

        Raises:
            EngineError: nobody is left who could do it.
        """


OnProgress = Callable[[int, int], None]


def shards_of(n_samples: int, network: IntNetwork, n_steps: int, *, is_backend: bool = False) -> list[slice]:
    """Samples cut into shards, by the network's size alone: who shares them must not change a result.

    is_backend: a backend answers, which returns every spike.
    """
    most = min(_MOST, _HELD // (n_steps * network.n_neurons)) if is_backend else _MOST
    size = max(1, min(most, most_samples(network, n_steps), _COST // max(1, network.n_synapses * n_steps)))
    return [slice(start, min(start + size, n_samples)) for start in range(0, n_samples, size)]


def wilson(n_right: int, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953, the interval of the score test.
    """
    if n < 1:
        return 0.0, 1.0
    p, z2 = n_right / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return 0.0 if n_right == 0 else middle - half, 1.0 if n_right == n else middle + half
