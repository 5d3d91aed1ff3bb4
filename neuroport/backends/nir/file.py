"""A NIR graph as a file: written in one piece, and read without a trace of what the packages below raise."""

from __future__ import annotations

import importlib
import io
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neuroport.errors import ModelFileError, UnsupportedOperatorError, UsageError

KEY = "neuroport"  # the one key of ours in a file's metadata
VERSION = 1
DT_S = 1e-4  # of one step, where a file does not say: snnTorch 1.0.0 has it written in (import_nir.py l.218, 268)

_LINEAR = ("Affine", "Linear", "Conv1d", "Conv2d", "SumPool2d", "AvgPool2d", "Flatten", "Scale", "Delay")
NEURONS = ("IF", "LIF", "CubaLIF", "I", "LI", "Threshold")
READ = ("Input", "Output", *_LINEAR, *NEURONS)
_DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, AssertionError, IndexError, UnicodeDecodeError)


def library() -> Any:
    """The package `nir`.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        raise UsageError(f"files of NIR need the package nir ({error}): pip install 'neuroport[nir]'") from error


def write_graph(path: Path, graph: Any) -> None:
    """Write a graph, or nothing if that fails.

    Raises:
        UsageError: the place cannot be written.
    """
    content = io.BytesIO()  # on a full disk the HDF5 library itself would crash
    library().write(content, graph)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_bytes(content.getbuffer())
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror or error}; choose another place") from error
    finally:
        draft.unlink(missing_ok=True)


def read_graph(path: Path) -> Any:
    """The graph in a file, its types not checked: nir 1.0.8 infers wrong ones for grouped and oblong kernels.

    Raises:
        ModelFileError: missing, no file of NIR, or damaged. UnsupportedOperatorError: a node that is not read.
    """
    nir = library()
    if not path.is_file():
        raise ModelFileError(f"model file '{path}' does not exist; give a .nir file")
    try:
        with h5py.File(path, "r") as f:
            kinds = {name: _text(node["type"][()]) for name, node in f["node"]["nodes"].items()}
    except _DAMAGE as error:
        raise ModelFileError(
            f"'{path}' is not a file of NIR, or is damaged: {error}; write it again with nir.write"
        ) from error
    for name, kind in kinds.items():
        if kind not in READ:
            inside = "; a graph inside is mostly a recurrent layer" if kind == "NIRGraph" else ""
            raise UnsupportedOperatorError(
                f"node '{name}' of '{path}' is a {kind}, neuroport reads {', '.join(READ)}{inside}; write the network "
                f"with these"
            )
    try:
        return nir.read(path, type_check=False)
    except _DAMAGE as error:
        raise ModelFileError(
            f"'{path}' is damaged: {type(error).__name__}: {error}; write it again with nir.write"
        ) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def fields_of(node: Any) -> dict[str, Any]:
    """What a node holds, but for its metadata: numbers and arrays by name."""
    return {k: v for k, v in node.to_dict().items() if k not in ("metadata", "nodes", "edges")}


def same_fields(one: Any, other: Any) -> str:
    """The first field in which two nodes differ, in value, shape or dtype of an array; nothing if there is none."""
    a, b = fields_of(one), fields_of(other)
    if a.keys() != b.keys():
        return ", ".join(sorted(a.keys() ^ b.keys()))
    for name in a:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        both = isinstance(a[name], np.ndarray) and isinstance(b[name], np.ndarray)
        if x.shape != y.shape or (both and x.dtype != y.dtype) or not np.array_equal(x, y):
            return name
    return ""
