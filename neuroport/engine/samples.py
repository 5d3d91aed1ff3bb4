"""Samples that are had a shard at a time: from memory, or from files that many processes read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neuroport.validation.outputs import TestSet

_NAMES = ("images", "labels", "spikes")


class SampleStore(Protocol):
    """Samples, in an order that is the same wherever they are asked for."""

    def __len__(self) -> int:
        """Number of samples."""

    @property
    def numbers(self) -> NDArray[np.int64] | None:
        """Which samples of the data set they are, where that is known."""

    def raw(self, shard: slice) -> Any:
        """The samples of a shard as they are kept, the fewest bytes to send."""

    def shown(self, raw: Any) -> TestSet:
        """Those as the network reads them."""

    def stored(self, folder: Path) -> StoredSamples:
        """The same samples, such that only their paths need to be sent."""


class StoredSamples(SampleStore, Protocol):
    """Samples in files."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files; who does not see them all cannot read the samples."""


@dataclass(frozen=True, eq=False)
class HeldSamples:
    """Samples in memory."""

    tests: TestSet

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.tests)

    @property
    def numbers(self) -> NDArray[np.int64] | None:
        """Which samples of the data set they are."""
        return self.tests.numbers

    def raw(self, shard: slice) -> TestSet:
        """Those of a shard."""
        t = self.tests
        return TestSet(t.images[shard], t.labels[shard], None if t.spikes is None else t.spikes[shard])

    def shown(self, raw: TestSet) -> TestSet:
        """They are ready."""
        return raw

    def stored(self, folder: Path) -> ArrayFiles:
        """Written once, as arrays that are mapped into memory."""
        for name in _NAMES:
            array = getattr(self.tests, name)
            if array is not None:
                np.save(folder / f"{name}.npy", array)
        return ArrayFiles(folder, len(self), has_spikes=self.tests.spikes is not None)


@dataclass(frozen=True)
class ArrayFiles:
    """images.npy, labels.npy and spikes.npy of a folder."""

    folder: Path
    n: int
    has_spikes: bool

    def __len__(self) -> int:
        """Number of samples."""
        return self.n

    @property
    def numbers(self) -> None:
        """Who stored them knows."""
        return

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        names = _NAMES if self.has_spikes else _NAMES[:2]
        return tuple(self.folder / f"{name}.npy" for name in names)

    def raw(self, shard: slice) -> TestSet:
        """Those of a shard, read from the files."""
        return TestSet(*(np.array(np.load(path, mmap_mode="r")[shard]) for path in self.paths))

    def shown(self, raw: TestSet) -> TestSet:
        """They are ready."""
        return raw

    def stored(self, folder: Path) -> ArrayFiles:
        """They are."""
        return self
