"""Frozen dataclasses as an HDF5 file: what they hold as text, their arrays as arrays. Reading one runs no code of it.

Only classes the reader names are made, and they check themselves as they always do.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.sparse import csr_array

from neuroport.errors import BundleError, NeuroportError

_FORMAT = "neuroport-record/1"
_DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError, RecursionError)


def write_record(path: Path, record: Any, classes: Iterable[type]) -> None:
    """Write a dataclass of numbers, text, arrays, sparse matrices, tuples, tables and dataclasses to a new file.

    classes: all that occur.
    """
    names = {cls: _name(cls) for cls in classes}
    content = io.BytesIO()  # on a full disk the HDF5 library itself would crash
    with h5py.File(content, "w") as f:
        arrays: list[np.ndarray] = []
        text = json.dumps(_written(record, names, arrays))
        f.attrs["format"] = _FORMAT
        f.create_dataset("record", data=np.frombuffer(text.encode(), np.uint8), compression="gzip")
        for k, array in enumerate(arrays):
            f.create_dataset(f"arrays/{k}", data=array, compression="lzf" if array.ndim else None)
    path.write_bytes(content.getbuffer())


def read_record(path: Path, classes: Iterable[type]) -> Any:
    """Read what write_record wrote; of other classes than these nothing is made.

    Raises:
        BundleError: not such a file, or one that is cut short or damaged.
    """
    known = {_name(cls): cls for cls in classes}
    try:
        with h5py.File(path, "r") as f:
            if str(f.attrs["format"]) != _FORMAT:
                raise ValueError(f"its format is {f.attrs['format']}, {_FORMAT} is read")
            arrays = {int(k): np.asarray(dataset[()]) for k, dataset in f.get("arrays", {}).items()}
            return _made(json.loads(f["record"][()].tobytes()), known, arrays)
    except (*_DAMAGE, NeuroportError) as error:
        raise BundleError(
            f"'{path}' is not a network in floats of neuroport, or is damaged: {error}; deploy again"
        ) from error


def is_record(path: Path) -> bool:
    """Whether a file is one that write_record wrote."""
    try:
        with h5py.File(path, "r") as f:
            return "format" in f.attrs and str(f.attrs["format"]) == _FORMAT
    except OSError:
        return False


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _written(value: Any, names: Mapping[type, str], arrays: list[np.ndarray]) -> Any:
    """The value as JSON; arrays are put aside."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, csr_array):
        parts = [_written(x, names, arrays) for x in (value.data, value.indices, value.indptr)]
        return {"sparse": parts, "shape": list(value.shape)}
    if isinstance(value, tuple):
        return [_written(x, names, arrays) for x in value]
    if isinstance(value, Mapping):
        return {"table": {str(key): _written(x, names, arrays) for key, x in value.items()}}
    if is_dataclass(value) and type(value) in names:
        held = {f.name: _written(getattr(value, f.name), names, arrays) for f in fields(value)}
        return {"is": names[type(value)], "with": held}
    raise TypeError(f"a record cannot hold {type(value).__name__}")


def _made(node: Any, known: Mapping[str, type], arrays: Mapping[int, np.ndarray]) -> Any:
    """The value of its JSON."""
    if isinstance(node, list):
        return tuple(_made(x, known, arrays) for x in node)
    if not isinstance(node, dict):
        return node
    if "array" in node:
        return arrays[node["array"]]
    if "sparse" in node:
        data, indices, indptr = (_made(x, known, arrays) for x in node["sparse"])
        matrix = csr_array((data, indices, indptr), shape=tuple(node["shape"]))
        matrix.check_format(full_check=True)
        return matrix
    if "table" in node:
        return {key: _made(x, known, arrays) for key, x in node["table"].items()}
    held = {key: _made(x, known, arrays) for key, x in node["with"].items()}
    return known[node["is"]](**held)
