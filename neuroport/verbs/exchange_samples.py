"""Samples for a network of netx from an .npz file: spikes, input currents, or what the file makes currents of."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.loihi.netx_read import NetxNetwork
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntPopulation
from neuroport.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs, and labels [S] where there are any."""

    inputs: IntInputs
    labels: NDArray[np.int64] | None = None


def read_samples(
    path: str | Path, netx: NetxNetwork, n_steps: int | None = None, n_samples: int | None = None
) -> Samples:
    """The samples of an .npz file for a network of netx.

    Behind a source of spikes: `spikes` [S, T, *shape] of 0 and 1. With input neurons: `currents` [S, *shape], whole
    numbers as they arrive there; or `x` [S, *shape], of which the file's input layer makes weight * x + bias, cut to
    whole numbers. A shape may be flat. `y` [S]: labels, if there are any.

    Raises:
        DataError: no such file, or none of these in it, or another shape. UsageError: steps are missing.
    """
    arrays = _arrays(Path(path))
    first = netx.network.populations[0]
    wanted = ("currents", "x") if first.driven else ("spikes",)
    key = next((name for name in wanted if name in arrays), None)
    if key is None:
        raise DataError(
            f"'{path}' holds {', '.join(sorted(arrays)) or 'nothing'}, the network reads {' or '.join(wanted)}; save "
            f"them under that name with numpy.savez"
        )
    values = _numbers(path, key, arrays[key])[:n_samples]
    lead = 1 if first.driven else 2
    if values.ndim <= lead or (values.shape[lead:] != first.shape and values.shape[lead:] != (first.n_neurons,)):
        axes = "[samples, " if first.driven else "[samples, steps, "
        raise DataError(
            f"'{path}': {key} has shape {list(values.shape)}, the network reads {axes}"
            f"{', '.join(map(str, first.shape))}]; reshape it"
        )
    labels = _labels(path, arrays["y"], n_samples) if "y" in arrays else None
    if labels is not None and len(labels) != len(values):
        raise DataError(f"'{path}': {len(labels)} labels for {len(values)} samples; give one for each, or none")
    values = values.reshape(*values.shape[:lead], *first.shape)
    if first.driven:
        return Samples(_currents(path, key, values, netx, first, n_steps), labels)
    if not values.shape[1]:
        raise DataError(f"'{path}': {key} has 0 steps, a sample needs at least one; save spikes [samples, steps, ...]")
    if n_steps not in (None, values.shape[1]):
        raise UsageError(f"--steps {n_steps}, but the spikes have {values.shape[1]} steps; leave it out")
    if not np.isin(values, (0, 1)).all():
        raise DataError(f"'{path}': {key} holds other values than 0 and 1; give spikes")
    return Samples(IntInputs(len(values), values.shape[1], values.astype(np.uint8), {}), labels)


_DAMAGE = (  # what numpy and zipfile raise on other files and damaged ones
    OSError,
    ValueError,
    AttributeError,
    TypeError,
    KeyError,
    EOFError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def _numbers(path: str | Path, key: str, values: NDArray[Any]) -> NDArray[Any]:
    """The array, if it has numbers and a first axis that is not empty."""
    if values.dtype.kind not in "buif":
        raise DataError(f"'{path}': {key} holds {values.dtype}, real numbers are read; save them as such")
    if values.ndim < 1 or not len(values):
        found = "holds no samples" if values.ndim else "is a single number"
        raise DataError(f"'{path}': {key} {found}, its first axis counts the samples; give at least one")
    return values


def _labels(path: str | Path, y: NDArray[Any], n_samples: int | None) -> NDArray[np.int64]:
    y = _numbers(path, "y", y)[:n_samples]
    bad = y[~(np.isfinite(y) & (y == np.rint(y)) & (np.abs(y.astype(np.float64)) < 1 << 31))]
    if bad.size:
        raise DataError(f"'{path}': y holds {bad[0]:g}, labels are whole numbers below 2^31; give one for each sample")
    return y.astype(np.int64).reshape(-1)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as f:
            return {name: f[name] for name in f.files}
    except _DAMAGE as error:
        raise DataError(f"'{path}' cannot be read as .npz: {error}; make it with numpy.savez") from error


def _currents(
    path: str | Path, key: str, values: NDArray[Any], netx: NetxNetwork, first: IntPopulation, n_steps: int | None
) -> IntInputs:
    if n_steps is None:
        raise UsageError("the samples are input currents, which last as long as they are shown; say so with --steps")
    if key == "x":
        weight, bias = netx.transform or (1, 0)
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            values = np.trunc(weight * values.astype(np.float64) + bias)
    if not np.isfinite(values).all():
        raise DataError(f"'{path}': {key} holds infinite values or NaN, which are no currents; take them out")
    if (values != np.rint(values)).any():
        raise DataError(f"'{path}': {key} are no whole numbers; round them as the chip is to get them")
    low, high = (int(f(values)) for f in (np.min, np.max))
    bias_sheet = netx.network.arithmetic.bias
    if low < bias_sheet.mantissa_min or high > bias_sheet.mantissa_max:
        raise DataError(
            f"'{path}': currents {low} to {high}, {netx.network.target} takes {bias_sheet.mantissa_min} to "
            f"{bias_sheet.mantissa_max}; scale the samples as in training"
        )
    return IntInputs(len(values), n_steps, None, {first.name: values.astype(np.int32)})
