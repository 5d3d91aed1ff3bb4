"""The groups of a netx file, as Python's own numbers and arrays; what netx would cut or misread is refused.

Source: lava-dl 0.6.0, lava/lib/dl/netx/utils.py l.22-77 (what netx reads, and by which keys).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from neuroport.errors import ModelFileError, UnsupportedOperatorError

Int64 = NDArray[np.int64]
MAX_NEURONS = 1 << 24  # of one layer: a damaged file may say anything, and memory is taken for it
_MAX_AXES = 8
_MAX = (1 << 31) - 1  # what a file says in 32 bits
# what h5py and numpy raise on a file that is cut short or edited
_DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)


@dataclass(frozen=True, eq=False)
class Group:
    """One `layer/k` of the file, or its `neuron`: values by path. `name` is what messages and populations are named."""

    name: str
    values: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        """Whether there is such a value, or a group of that name."""
        return key in self.values or any(path.startswith(f"{key}/") for path in self.values)

    def refuse(self, found: str, do: str) -> NoReturn:
        """Say why this layer is not read."""
        raise UnsupportedOperatorError(f"layer '{self.name}' {found}; {do}")

    def text(self, key: str) -> str:
        """A string: a scalar, or the first of an array."""
        values = np.asarray(self._value(key)).reshape(-1)
        value = values[0] if values.size else None
        if not isinstance(value, str | bytes):
            found = values.dtype if values.size else "nothing"
            self.refuse(f"holds {found} in '{key}', netx needs text there", "check the file")
        return value.decode("ascii", "replace") if isinstance(value, bytes) else value

    def whole(self, key: str) -> Int64:
        """Whole numbers of any shape; netx would cut others without a word (utils.py l.67-68)."""
        value = np.asarray(self._value(key))
        what = "" if value.dtype.kind in "iufb" else str(value.dtype)
        if value.dtype.kind == "f":
            with np.errstate(over="ignore"):
                value = value.astype(np.float64)
            odd = value[~np.isfinite(value) | (value != np.rint(value))]
            what = f"{odd[0]:g}" if odd.size else ""
        if what:
            self.refuse(
                f"holds {what} in '{key}', chips hold whole numbers, and netx would cut it",
                "export the quantized network (SLAYER: pre_hook_fx=quantize)",
            )
        if value.dtype.kind != "b" and value.size and (value.min() < -_MAX or value.max() > _MAX):
            low, high = value.min(), value.max()
            self.refuse(f"holds {low:g} to {high:g} in '{key}', numbers of 32 bits are read", "check the file")
        return value.astype(np.int64)

    def number(self, key: str) -> int:
        """One number for the whole layer."""
        value = self.whole(key).reshape(-1)
        if value.size == 0 or (value != value[0]).any():
            self.refuse(
                f"has {value.size} values of '{key}', one for all neurons of a layer is read", "split the layer"
            )
        return int(value[0])

    def pair(self, key: str) -> tuple[int, int]:
        """(y, x) of one number or two."""
        value = self.whole(key).reshape(-1)
        if value.size not in (1, 2):
            self.refuse(f"has {value.size} values of '{key}', 1 or 2 are allowed", "check the file")
        return int(value[0]), int(value[-1])

    def shape(self, key: str = "shape") -> tuple[int, ...]:
        """A shape as it is in the file: C, H, W; every axis is 1 or more."""
        found = tuple(int(n) for n in self.whole(key).reshape(-1)[: _MAX_AXES + 1])
        problem = shape_problem(found)
        if problem:
            self.refuse(f"has '{key}' {list(found)}, {problem}", "check the file")
        return found

    def _value(self, key: str) -> Any:
        if key not in self.values:
            self.refuse(f"has no '{key}', netx needs it", "check the file")
        return self.values[key]


def shape_problem(shape: tuple[int, ...]) -> str:
    """Which shapes are possible, where this is none of them; empty if it is one."""
    if not 1 <= len(shape) <= _MAX_AXES:
        return f"1 to {_MAX_AXES} axes are possible"
    if min(shape) < 1:
        return "every axis needs 1 or more"
    return f"a layer may have {MAX_NEURONS:,} neurons" if math.prod(shape) > MAX_NEURONS else ""


def read_groups(path: Path) -> list[Group]:
    """The layers of the file, in order.

    Raises:
        ModelFileError: no such file, or no file of netx. UnsupportedOperatorError: a number between two layers is
        missing (netx counts them and reads as many from 0 on).
    """
    with _damage_is(path), h5py.File(path, "r") as f:
        layers = f["layer"]
        kinds: dict[str, dict[str, Any]] = {}
        for key, layer in layers.items():
            found: dict[str, Any] = {}

            def keep(name: str | bytes, item: Any, found: dict[str, Any] = found) -> None:
                if isinstance(item, h5py.Dataset):
                    found[_text(name)] = item[()]

            layer.visititems(keep)
            kinds[_text(key)] = found
    if set(kinds) != {str(k) for k in range(len(kinds))} or not kinds:
        raise UnsupportedOperatorError(
            f"'{path}' has layers {', '.join(sorted(kinds)) or 'none'}, netx reads 0, 1, 2 and so on; number them so"
        )
    groups = []
    for k in range(len(kinds)):
        unnamed = Group(str(k), kinds[str(k)])
        groups.append(Group(f"{k}.{unnamed.text('type')}", unnamed.values))
    return groups


def _text(name: str | bytes) -> str:
    """A name in the file, which h5py leaves as bytes where it is no UTF-8."""
    return name if isinstance(name, str) else name.decode("utf-8", "replace")


@contextmanager
def _damage_is(path: Path) -> Iterator[None]:
    if path.is_dir():
        raise ModelFileError(f"'{path}' is a folder; give a file of lava-dl's netx (.net) in it")
    if not path.is_file():
        raise ModelFileError(f"'{path}' is not there; give a file of lava-dl's netx")
    try:
        yield
    except _DAMAGE as error:
        raise ModelFileError(
            f"'{path}' is not an HDF5 file of lava-dl's netx, or is damaged: {error}; export it again"
        ) from error
