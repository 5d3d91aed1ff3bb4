"""Arrays that stay in their files: rows are read when they are asked for; other processes are sent a path."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from neuroport.errors import DataError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a file in a zip archive: signature, lengths of its name and extra field
_CHUNK = 256  # rows that are copied at a time


class Rows(Protocol):
    """What is read of an array: rows by number."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Rows by their numbers [n], in that order."""


@dataclass(frozen=True)
class MappedRows:
    """An array as it stands in a file, from a byte on."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    is_fortran: bool = False

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Rows, read from the file."""
        return np.array(_mapped(self)[index])

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)


@dataclass(frozen=True)
class Hdf5Rows:
    """A data set of an HDF5 file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Rows; HDF5 reads each once and in rising order only.

        Raises:
            DataError: they cannot be read.
        """
        try:
            with h5py.File(self.path, "r") as f:
                return _rows_of(f[self.name], index)
        except (OSError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"'{self.name}' of '{self.path}' cannot be read: {reason}; copy the file again") from error

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)


def _rows_of(array: h5py.Dataset, index: Any) -> NDArray[Any]:
    if isinstance(index, slice) and index.step in (None, 1):
        whole: NDArray[Any] = array[index]
        return whole
    wanted, place = np.unique(np.arange(len(array))[index], return_inverse=True)
    found: NDArray[Any] = array[wanted] if len(wanted) else np.zeros((0, *array.shape[1:]), array.dtype)
    return found[place]


@dataclass(frozen=True, eq=False)
class ChosenRows:
    """Some rows of an array, in another order. rows: their numbers."""

    source: Rows
    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return (len(self.rows), *self.source.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.source.dtype

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Rows of rows."""
        return self.source[self.rows[index]]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of both."""
        return (*paths_of(self.source), *paths_of(self.rows))


def paths_of(rows: Rows) -> tuple[Path, ...]:
    """The files that rows lie in; none of an array in memory."""
    return tuple(getattr(rows, "paths", ()))


def map_npy(path: Path, start: int = 0) -> MappedRows:
    """The array of a .npy file, or of what looks like one from a byte of a file on.

    Raises:
        ValueError: it is none, or holds objects.
    """
    with path.open("rb") as f:
        f.seek(start)
        version = np.lib.format.read_magic(f)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(f)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        return MappedRows(path.resolve(), shape, dtype, f.tell(), is_fortran)


def map_npz(path: Path, name: str) -> MappedRows | None:
    """An array of a .npz file, if it is stored as it is: numpy.savez does so, numpy.savez_compressed does not.

    Raises:
        ValueError: the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        return None
    with path.open("rb") as f:
        f.seek(info.header_offset)
        signature, n_name, n_extra = _LOCAL_HEADER.unpack(f.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError(f"its directory and its entry '{name}' differ")
    made = map_npy(path, info.header_offset + _LOCAL_HEADER.size + n_name + n_extra)
    return made if made.shape and len(made) else None


def write_rows(path: Path, rows: Rows, index: NDArray[np.int64] | None = None) -> MappedRows:
    """Rows (those of an index, all if None) as a new .npy file, a few at a time."""
    n = len(rows) if index is None else len(index)
    out = np.lib.format.open_memmap(path, "w+", rows.dtype, (n, *rows.shape[1:])) if n else None
    if out is None:
        raise DataError(f"no row of '{path.name}' was chosen; at least one sample is needed")
    for start in range(0, n, _CHUNK):
        part = np.arange(start, min(start + _CHUNK, n)) if index is None else index[start : start + _CHUNK]
        out[start : start + len(part)] = rows[part]
    out.flush()
    return map_npy(path)


@lru_cache(maxsize=64)
def _mapped(rows: MappedRows) -> NDArray[Any]:
    size = rows.path.stat().st_size
    if size < rows.offset + int(np.prod(rows.shape)) * rows.dtype.itemsize:
        raise DataError(f"'{rows.path}' ends before its arrays do; copy it again")
    order: Any = "F" if rows.is_fortran else "C"
    return np.memmap(rows.path, rows.dtype, "r", rows.offset, rows.shape, order)
