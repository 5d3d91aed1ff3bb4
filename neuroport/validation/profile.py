"""What each population should do and what it does: activations of the ANN beside firing rates of the integer core."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.chip.core import run_core
from neuroport.chip.core.record import Record
from neuroport.chip.inputs import EncodedInputs
from neuroport.chip.network import IntNetwork
from neuroport.normalize.scales import Normalized
from neuroport.snn.rates import forward_rates
from neuroport.validation.outputs import TestSet

N_BINS = 20
_BATCH = 100
_POINTS = 300  # of a scatter plot
_SEED = 0  # of the points chosen for it

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Profile:
    """One population over all samples, activations in units of its scale: 1 is one spike per step.

    relative_error: ||rate - activation|| / ||activation||, None where every activation is 0; correlation: of the two, 0
    where one of them is constant; clipped: fraction of activations above 1; saturated: of neurons that fire in every
    step of a sample; silenced: of neurons that should fire (activation of half a spike or more in the run) and do not.
    rates, activations: histograms of N_BINS from 0 to 1, what lies beyond in the last; points: [n, 2], some activations
    and their rates.
    """

    name: str
    relative_error: float | None
    correlation: float
    clipped: float
    saturated: float
    silenced: float
    rates: tuple[int, ...]
    activations: tuple[int, ...]
    points: tuple[tuple[float, float], ...]


def profiles(normalized: Normalized, network: IntNetwork, tests: TestSet, n_steps: int) -> tuple[Profile, ...]:
    """Profiles of all populations whose neurons fire and stand for activations of the ANN, in the network's order."""
    sums = {
        p.name: _Sums(max(1, n_steps - p.clamp_until))
        for p in normalized.network.populations
        if p.role != "input" and p.neuron.fires and not p.is_linear
    }
    for chosen in (slice(k, min(k + _BATCH, len(tests))) for k in range(0, len(tests), _BATCH)):
        inputs = EncodedInputs(normalized.network, network, tests.samples(chosen), n_steps)
        counts = run_core(network, inputs, record=Record(counts=list(sums))).counts
        for name, activation in _activations(normalized, tests.images[chosen]):
            if name in sums:
                sums[name].add(activation, counts[name])
    return tuple(found.profile(name) for name, found in sums.items())


def _activations(normalized: Normalized, images: NDArray[np.float32]) -> Iterator[tuple[str, Values]]:
    """The ANN's activations [N, *shape] in spikes per step of the network that fires them."""
    exact = normalized.exact
    for name, value in forward_rates(exact.network, torch.from_numpy(images), clip=False):
        ratio = exact.scales[name] / normalized.scales[name]
        yield name, value.double().numpy() * ratio.reshape(-1, *[1] * (value.ndim - 2))


@dataclass(eq=False)
class _Sums:
    """What the numbers of one population add up to, batch by batch."""

    n_steps: int
    n: int = 0
    first: tuple[float, float] | None = None  # activation and rate; what is constant has no distance from it at all
    totals: Values = field(default_factory=lambda: np.zeros(7))  # a, r, a^2, r^2, a r from the first; a^2, (r - a)^2
    clipped: int = 0
    saturated: int = 0
    silenced: int = 0
    due: int = 0
    rates: NDArray[np.int64] = field(default_factory=lambda: np.zeros(N_BINS, np.int64))
    activations: NDArray[np.int64] = field(default_factory=lambda: np.zeros(N_BINS, np.int64))
    points: Values | None = None

    def add(self, activation: Values, counts: NDArray[np.int32]) -> None:
        """Activations and counts [N, *shape] of one batch."""
        a, c = activation.reshape(-1), counts.reshape(-1)
        r = c / self.n_steps
        self.n += len(a)
        if self.first is None:
            self.first = (float(a[0]), float(r[0]))
        x, y = a - self.first[0], r - self.first[1]
        self.totals += [x.sum(), y.sum(), x @ x, y @ y, x @ y, a @ a, np.square(r - a).sum()]
        self.clipped += int((a > 1).sum())
        self.saturated += int((c >= self.n_steps).sum())
        should = a * self.n_steps >= 0.5
        self.due += int(should.sum())
        self.silenced += int((should & (c == 0)).sum())
        self.rates += _histogram(r)
        self.activations += _histogram(a)
        if self.points is None:
            chosen = np.random.default_rng(_SEED).permutation(len(a))[:_POINTS]
            self.points = np.stack([a[chosen], r[chosen]], 1)

    def profile(self, name: str) -> Profile:
        """What they say."""
        a, r, aa, rr, ar, size, difference = self.totals
        spread = max(aa - a * a / self.n, 0.0) * max(rr - r * r / self.n, 0.0)
        correlation = (ar - a * r / self.n) / np.sqrt(spread) if spread > 0 else 0.0
        points = np.zeros((0, 2)) if self.points is None else self.points
        return Profile(
            name,
            float(np.sqrt(difference / size)) if size > 0 else None,
            float(np.clip(correlation, -1, 1)),
            self.clipped / self.n,
            self.saturated / self.n,
            self.silenced / max(self.due, 1),
            tuple(self.rates.tolist()),
            tuple(self.activations.tolist()),
            tuple((float(x), float(y)) for x, y in points.round(4)),
        )


def _histogram(values: Values) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.bincount((values * N_BINS).astype(np.int64).clip(0, N_BINS - 1), minlength=N_BINS)
    return found
