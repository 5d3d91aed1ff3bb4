"""Event data: recorded spikes that go straight into the network, or address events binned by step.

Recordings may stay in their file until they are asked for; what is checked of all of them is read a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from neuroport.arrays import Rows, paths_of
from neuroport.errors import DataError

Arrays = Mapping[str, Rows]
_SPIKE_AXES = 2  # samples, steps
_TIME_NAMES = ("t", "t_us")
_ADDRESS = ("x", "y", "p")
_MAX_SIDE = 4096
_BLOCK = 1 << 22  # events that are looked at together


class EventSource(Protocol):
    """The recordings of one part of a data set."""

    def __len__(self) -> int:
        """Number of recordings."""
        ...

    def take(self, index: NDArray[np.int64], n_steps: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Spikes [n, T, ...] of the chosen recordings, 0 or 1, for a network that reads `shape` (() if not known)."""
        ...


@dataclass(frozen=True, eq=False)
class StoredSpikes:
    """Spikes as they stand in the file: [N, T, ...], 0 or 1; name: of the array."""

    spikes: Rows
    name: str = "spikes"

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self.spikes)

    def take(self, index: NDArray[np.int64], n_steps: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The chosen recordings.

        Raises:
            DataError: another number of steps is asked for, or values that are no spikes.
        """
        if self.spikes.shape[1] != n_steps:
            raise DataError(
                f"the recorded spikes have {self.spikes.shape[1]} steps, the run has {n_steps}; use --steps "
                f"{self.spikes.shape[1]}, or give events (t, x, y, p), which are binned to any number"
            )
        return _as_spikes(self.spikes[index], self.name)


@dataclass(frozen=True, eq=False)
class AddressEvents:
    """Events of all recordings one after another: recording i is offsets[i]:offsets[i + 1].

    shape: (polarities, height, width); duration: of the longest recording, in the units of t. A step is the duration
    divided by the number of steps; several events of a pixel in one step are one spike.
    """

    t: Rows
    x: Rows
    y: Rows
    p: Rows
    offsets: NDArray[np.int64]
    shape: tuple[int, int, int]
    duration: int

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self.offsets) - 1

    def take(self, index: NDArray[np.int64], n_steps: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The chosen recordings as spikes [n, T, polarity, y, x], each from its own first event on."""
        is_wider = len(shape) == len(self.shape) and all(n >= m for n, m in zip(shape, self.shape, strict=True))
        spikes = np.zeros((len(index), n_steps, *(shape if is_wider else self.shape)), np.uint8)
        for k, i in enumerate(index):
            chosen = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
            t, x, y, p = (a[chosen].astype(np.int64) for a in (self.t, self.x, self.y, self.p))
            if len(t):
                step = np.minimum((t - t.min()) * n_steps // max(self.duration, 1), n_steps - 1)
                spikes[k, step, p, y, x] = 1
        return spikes


def has_events(arrays: Iterable[str]) -> bool:
    """Whether the arrays of a file hold spikes or events and not images."""
    names = {name.removesuffix("_train").removesuffix("_test") for name in arrays}
    return "spikes" in names or ("offsets" in names and not names.isdisjoint((*_TIME_NAMES, "p")))


def read_events(arrays: Arrays, suffix: str, path: Path) -> EventSource:
    """The recordings of one part: `spikes<suffix>` [N, T, ...], or t, x, y, p and offsets.

    Raises:
        DataError: arrays missing, of different length, or values that are no spikes or no addresses.
    """
    if f"spikes{suffix}" in arrays:
        return _stored(arrays[f"spikes{suffix}"], f"spikes{suffix}", path)
    time = next((name for name in _TIME_NAMES if f"{name}{suffix}" in arrays), None)
    wanted = [f"{name}{suffix}" for name in (time or "t", *_ADDRESS, "offsets")]
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise DataError(
            f"'{path}': event arrays are missing: {', '.join(missing)} not found among {', '.join(sorted(arrays))}; "
            f"give t, x, y, p, offsets and labels (each with _train and _test, or without), or spikes [N, T, C, H, W]"
        )
    flat = [arrays[name] for name in wanted]
    if any(len(a.shape) != 1 or not np.issubdtype(a.dtype, np.integer) for a in flat):
        raise DataError(f"'{path}': {', '.join(wanted)} must be lists of whole numbers, one for each event")
    t, x, y, p = flat[:4]
    if len({len(a) for a in (t, x, y, p)}) > 1:
        raise DataError(f"'{path}': {', '.join(wanted[:4])} have {[len(a) for a in (t, x, y, p)]} events; one each")
    offsets = flat[4][slice(None)].astype(np.int64)
    if not len(offsets) > 1 or offsets[0] != 0 or offsets[-1] != len(t) or (np.diff(offsets) < 0).any():
        raise DataError(
            f"'{path}': {wanted[4]} must rise from 0 to {len(t)}, the number of events; recording i is "
            f"offsets[i]:offsets[i + 1]"
        )
    return _measured(AddressEvents(t, x, y, p, offsets, (1, 1, 1), 1), path)


def _measured(events: AddressEvents, path: Path) -> AddressEvents:
    """The same with the shape and the duration that its events have."""
    low, high, duration = np.zeros(3, np.int64), np.zeros(3, np.int64), 1
    for first, last in _blocks(events.offsets):
        a, b = int(events.offsets[first]), int(events.offsets[last])
        for k, numbers in enumerate((events.p, events.y, events.x)):
            found = numbers[a:b].astype(np.int64)
            low[k], high[k] = min(low[k], found.min()), max(high[k], found.max())
        t = events.t[a:b].astype(np.int64)
        inside = events.offsets[first : last + 1] - a
        starts = inside[:-1][np.diff(inside) > 0]
        spans = np.maximum.reduceat(t, starts) - np.minimum.reduceat(t, starts) + 1
        duration = max(duration, int(spans.max()))
    if low.min() < 0 or high[1:].max() >= _MAX_SIDE or high[0] > 1:
        raise DataError(f"'{path}': addresses must be 0 to {_MAX_SIDE - 1}, polarities 0 or 1")
    polarity, height, width = (int(n) + 1 for n in high)
    return replace(events, shape=(polarity, height, width), duration=duration)


def _blocks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Recordings first:last that together have few events, but at least one event."""
    first = 0
    while offsets[first] < offsets[-1]:
        most = int(np.searchsorted(offsets, offsets[first] + _BLOCK, "right")) - 1
        one = int(np.searchsorted(offsets, offsets[first], "right"))  # the first end behind its beginning
        last = max(most, one)
        yield first, last
        first = last


def unified(train: EventSource, test: EventSource) -> tuple[EventSource, EventSource]:
    """Both parts with one shape and one step width, those that hold either."""
    if not (isinstance(train, AddressEvents) and isinstance(test, AddressEvents)):
        return train, test
    sides = np.maximum(train.shape, test.shape)
    shape = (int(sides[0]), int(sides[1]), int(sides[2]))
    duration = max(train.duration, test.duration)
    a, b = (AddressEvents(e.t, e.x, e.y, e.p, e.offsets, shape, duration) for e in (train, test))
    return a, b


def _stored(spikes: Rows, name: str, path: Path) -> StoredSpikes:
    if len(spikes.shape) <= _SPIKE_AXES or not spikes.shape[1]:
        raise DataError(
            f"'{path}': {name} has shape {list(spikes.shape)}; spikes are read as [N, T, C, H, W], T at least 1"
        )
    if paths_of(spikes):
        return StoredSpikes(spikes, f"'{path}': {name}")
    return StoredSpikes(_as_spikes(spikes[slice(None)], f"'{path}': {name}"))


def _as_spikes(values: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    if values.dtype.kind not in "buif" or (values.size and not (values.min() >= 0 and values.max() <= 1)):
        raise DataError(f"{name} must hold 0 and 1; several events of a pixel in one step are one spike")
    if np.issubdtype(values.dtype, np.floating) and not np.array_equal(values, values.astype(np.uint8)):
        raise DataError(f"{name} holds fractions; a spike is 1, no spike is 0")
    return values.astype(np.uint8)
