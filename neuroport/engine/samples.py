"""Samples that are had a shard at a time: from memory, or from files that many processes read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neuroport.arrays import ChosenRows, MappedRows, Rows, paths_of, write_rows
from neuroport.data import Dataset, Samples
from neuroport.data_sources import ImageRows
from neuroport.events import StoredSpikes
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


@dataclass(frozen=True, eq=False)
class DataSamples:
    """Samples of a data set's test part, read, scaled and shaped a shard at a time.

    index: [N] which of the part; shape, shapes: of the network's inputs, joined and one by one; n_steps: of event data.
    """

    dataset: Dataset
    index: NDArray[np.int64]
    shape: tuple[int, ...]
    shapes: Sequence[tuple[int, ...]]
    n_steps: int

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.index)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Which samples of the test part they are."""
        return self.index

    def raw(self, shard: slice) -> Samples:
        """Images as they stand in the file, or spikes."""
        chosen, test = self.index[shard], self.dataset.test
        if test.events is None:
            return Samples(tuple(x[chosen] for x in test.images), test.labels[chosen])
        spikes = self.dataset.spikes("test", chosen, self.shape, self.n_steps)
        return Samples((), test.labels[chosen], StoredSpikes(spikes))

    def shown(self, raw: Samples) -> TestSet:
        """Scaled and in the network's shape."""
        part, every = replace(self.dataset, test=raw), np.arange(len(raw))
        if raw.events is None:
            return TestSet(part.images("test", every, self.shape, inputs=self.shapes), raw.labels)
        spikes = part.spikes("test", every, self.shape, self.n_steps)
        return TestSet(spikes.mean(1, dtype=np.float32), raw.labels, spikes)

    def stored(self, folder: Path) -> FileSamples:
        """Arrays that lie in files stay there; others are written once, as they are in memory."""
        test = self.dataset.test
        labels = write_rows(folder / "labels.npy", test.labels, self.index)
        rows = write_rows(folder / "rows.npy", self.index)
        arrays: tuple[Rows, ...] = ()
        if test.events is None:
            for k, x in enumerate(test.images):
                is_filed = bool(paths_of(x))
                arrays += (
                    _filed(x, rows, folder / f"rows{k}.npy")
                    if is_filed
                    else write_rows(folder / f"x{k}.npy", x, self.index),
                )
        else:
            arrays = (write_rows(folder / "spikes.npy", _Events(self), np.arange(len(self))),)
        scaling = replace(self.dataset, train=_NOTHING, test=_NOTHING, held=None)
        return FileSamples(
            scaling, arrays, labels, self.shape, tuple(self.shapes), self.n_steps, test.events is not None
        )


_NOTHING = Samples((), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class FileSamples:
    """Samples of a data set in files. dataset: its name and scaling, without samples."""

    dataset: Dataset
    arrays: tuple[Rows, ...]
    labels: Rows
    shape: tuple[int, ...]
    shapes: Sequence[tuple[int, ...]]
    n_steps: int
    are_events: bool

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def numbers(self) -> None:
        """Who stored them knows."""
        return

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(dict.fromkeys(p for rows in (*self.arrays, self.labels) for p in paths_of(rows)))

    def raw(self, shard: slice) -> Samples:
        """Images as they stand in the file, or spikes."""
        arrays, labels = tuple(x[shard] for x in self.arrays), self.labels[shard]
        return Samples((), labels, StoredSpikes(arrays[0])) if self.are_events else Samples(arrays, labels)

    def shown(self, raw: Samples) -> TestSet:
        """Scaled and in the network's shape."""
        return DataSamples(self.dataset, _NOTHING.labels, self.shape, self.shapes, self.n_steps).shown(raw)

    def stored(self, folder: Path) -> FileSamples:
        """They are."""
        return self


def _filed(x: Rows, rows: MappedRows, path: Path) -> Rows:
    """Chosen rows of an array in files, such that little is sent: numbers and names lie in files, too."""
    source: Rows = x
    if isinstance(x, ChosenRows):
        source, rows = x.source, write_rows(path, x.rows, rows[slice(None)])
    if isinstance(source, ImageRows):
        names = write_rows(path.with_suffix(".names.npy"), source.names[rows[slice(None)]])
        return replace(source, names=names)
    return ChosenRows(source, rows)


@dataclass(frozen=True, eq=False)
class _Events:
    """The spikes of event data as rows of an array."""

    samples: DataSamples

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.samples), *self[np.arange(1)].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        s = self.samples
        return s.dataset.spikes("test", s.index[index], s.shape, s.n_steps)
