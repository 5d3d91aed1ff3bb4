"""Exact activation statistics over all calibration batches in memory that does not grow with the data.

A percentile is an order statistic: the smallest activation that at least p percent of all activations do not exceed
(numpy's method 'inverted_cdf'). It is found by radix selection on the bit patterns of float32, which for values of
at least 0 are ordered as the values are: three passes over the data, each a histogram of the next 11, 11 and 10 bits
of those values that share the bits found so far. No moving average, no sampling, no dependence on the batch order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.errors import InvalidNetworkError

# A pass over the data: yields (population, activations [N, C, ...] float32, at least 0), the same at every call.
Pass = Callable[[], Iterable[tuple[str, torch.Tensor]]]

_DIGITS = ((21, 11), (10, 11), (0, 10))  # (shift, bits), most significant first; the sign bit is always 0


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Of one population, per group (one group for a layer, C for its channels).

    n_values: activations seen per group; maximum, percentile: [n_groups], in the ANN's units.
    """

    n_values: int
    maximum: NDArray[np.float64]
    percentile: NDArray[np.float64]


def collect_statistics(
    data: Pass, *, percentile: float = 100.0, per_channel: bool = False
) -> dict[str, ActivationStatistics]:
    """Statistics of every population that `data` yields; see collect_percentiles."""
    return collect_percentiles(data, (percentile,), per_channel=per_channel)[0]


def collect_percentiles(
    data: Pass, percentiles: Sequence[float], *, per_channel: bool = False
) -> list[dict[str, ActivationStatistics]]:
    """For each percentile the statistics of every population that `data` yields.

    Args:
        data: called once for the maximum, three times for percentiles below 100; must yield the same each time.
        percentiles: above 0, at most 100; 100 is the maximum.
        per_channel: one group per index of axis 1 instead of one for all.

    Raises:
        InvalidNetworkError: no data, or an activation that is NaN, infinite or negative.
        ValueError: a percentile out of range.
    """
    for percentile in percentiles:
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile must be above 0 and at most 100, got {percentile}")
    selectors: dict[str, list[_Selector]] = {}
    for digit in range(1 if min(percentiles) == 100 else len(_DIGITS)):
        for name, values in data():
            grouped = _grouped(name, values, per_channel)
            if name not in selectors:
                selectors[name] = [_Selector(len(grouped), p) for p in percentiles]
            for selector in selectors[name]:
                selector.add(digit, grouped)
        for selector in (s for several in selectors.values() for s in several):
            selector.descend(digit)
    if not selectors:
        raise InvalidNetworkError("no calibration data: at least one sample is needed to measure activations")
    return [{name: several[k].result() for name, several in selectors.items()} for k in range(len(percentiles))]


def _grouped(name: str, values: torch.Tensor, per_channel: bool) -> torch.Tensor:
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise InvalidNetworkError(
            f"population '{name}': activations are negative, NaN or infinite on the calibration data; "
            f"check the weights and the input scaling"
        )
    values = values.detach().to(torch.float32) + 0.0  # -0.0 becomes 0.0: its bit pattern would sort last
    return values.transpose(0, 1).flatten(1) if per_channel else values.reshape(1, -1)


class _Selector:
    """Radix selection for one population, all groups side by side."""

    def __init__(self, n_groups: int, percentile: float) -> None:
        self.n_groups, self.percentile = n_groups, percentile
        self.n_values = 0
        self.maximum = np.zeros(n_groups)
        self.prefix = torch.zeros(n_groups, dtype=torch.int64)
        self.rank = np.zeros(n_groups, np.int64)
        self.histogram = torch.zeros(0, dtype=torch.int64)

    def add(self, digit: int, grouped: torch.Tensor) -> None:
        if digit == 0:
            self.n_values += grouped.shape[1]
            self.maximum = np.maximum(self.maximum, grouped.amax(1).double().numpy())
        if self.percentile == 100:
            return
        shift, bits = _DIGITS[digit]
        if not len(self.histogram):
            self.histogram = torch.zeros(self.n_groups << bits, dtype=torch.int64)
        patterns = grouped.contiguous().view(torch.int32).to(torch.int64)
        group = torch.arange(self.n_groups).unsqueeze(1).expand_as(patterns)
        inside = (patterns >> (shift + bits)) == self.prefix.unsqueeze(1)
        keys = (group << bits) + ((patterns >> shift) & ((1 << bits) - 1))
        self.histogram += torch.bincount(keys[inside], minlength=len(self.histogram))

    def descend(self, digit: int) -> None:
        """Choose the next digit of every group from its histogram."""
        if self.percentile == 100:
            return
        if digit == 0:
            exact = Fraction(str(self.percentile)) * self.n_values / 100
            self.rank[:] = max(1, -(-exact.numerator // exact.denominator))
        bits = _DIGITS[digit][1]
        cumulative = self.histogram.reshape(self.n_groups, -1).cumsum(1).numpy()
        for g in range(self.n_groups):
            found = int(np.searchsorted(cumulative[g], self.rank[g]))
            self.rank[g] -= cumulative[g, found - 1] if found else 0
            self.prefix[g] = (int(self.prefix[g]) << bits) + found
        self.histogram = torch.zeros(0, dtype=torch.int64)

    def result(self) -> ActivationStatistics:
        if self.percentile == 100:
            return ActivationStatistics(self.n_values, self.maximum, self.maximum.copy())
        selected = self.prefix.to(torch.int32).view(torch.float32).double().numpy()
        return ActivationStatistics(self.n_values, self.maximum, selected)
