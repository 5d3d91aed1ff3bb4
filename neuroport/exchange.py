"""Networks as files of other tools: a deployed network written for lava-dl's netx, one of netx's read and verified."""

from __future__ import annotations

import bisect
import contextlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.base import Backend, Job
from neuroport.backends.loihi.netx_backend import NETWORK_FILE, NetxBackend
from neuroport.backends.loihi.netx_export import EXPONENT, reset_offset, write_netx
from neuroport.backends.loihi.netx_read import NetxNetwork, read_netx
from neuroport.backends.registry import get_backend
from neuroport.bundle import staged_bundle
from neuroport.bundle import verify as verify_bundle
from neuroport.chip.core import CoreRun, run_core
from neuroport.chip.core.record import check_memory, record_of
from neuroport.chip.files import read_inputs, read_network, write_inputs, write_network, write_trace
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.synapses import n_synapses
from neuroport.chip.target import load_target
from neuroport.errors import BundleError, DataError, UsageError
from neuroport.snn.operators import Shape
from neuroport.validation.divergence import Comparison, compare
from neuroport.validation.report import SCHEMA, versions, write_report

_BACKENDS = ("netx", "lava", "cpu")
_MEMORY_MB = 2048  # for the spikes of the core
_SOURCES = "give a bundle made by `neuroport deploy`, or its network.h5"


class Progress(Protocol):
    """Told what is going on."""

    def stage(self, text: str) -> None:
        """A new stage begins."""

    def samples(self, n_done: int, n_total: int) -> None:
        """Samples finished on the backend."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    n_layers: with neurons; call: how lava-dl loads it so that samples start afresh; entry: where its input belongs.
    """

    out: Path
    n_layers: int
    call: str
    entry: str


@dataclass(frozen=True, eq=False)
class Verified:
    """A network that was read, and where data were given, run on the core and on a backend.

    out: the bundle, if one was asked for; report: all of it as data; accuracy: of the core, where there are labels.
    """

    netx: NetxNetwork
    report: Mapping[str, Any]
    comparison: Comparison | None = None
    accuracy: float | None = None
    out: Path | None = None

    @property
    def is_equal(self) -> bool:
        """Whether nothing that was compared differs."""
        return self.comparison is None or self.comparison.mismatches == 0


def export_netx(source: str | Path, out: str | Path) -> Exported:
    """Write the integer network of a bundle, or of a network.h5, as a file of lava-dl's netx.

    Raises:
        BundleError: source is no such thing. UsageError: `out` cannot be written, or is part of the source.
        DoesNotFitError: netx cannot hold it. Nothing is written then.
    """
    source, out = Path(source), Path(out)
    check_places(source, out)
    n_steps = "n_steps"
    if source.is_dir():
        verify_bundle(source)
        n_steps = str(read_inputs(source / "inputs.h5").n_steps) if (source / "inputs.h5").is_file() else n_steps
        source = source / "network.h5"
    network = read_network(source)
    try:
        write_netx(out, network)
    except OSError as error:
        raise UsageError(f"cannot write '{out}': {error.strerror or error}; choose another --out") from error
    offset = reset_offset(network)
    call = f"hdf5.Network(net_config='{out.name}', reset_interval={n_steps}, reset_offset={offset})"
    first = network.populations[0]
    entry = "spikes into net.inp"
    if first.driven:  # netx leaves the port of its input neurons open (lava-dl 0.6.0, blocks/process.py l.101-106)
        entry = f"input currents, mantissas << {first.bias_exponent - EXPONENT}, into net.in_layer.neuron.a_in"
    return Exported(out, sum(p.role != "input" for p in network.populations), call, entry)


def check_places(source: Path, out: Path) -> None:
    """Refuse a source without a network, and a place to write to that would change it."""
    if not source.exists():
        raise BundleError(f"'{source}' is not there; {_SOURCES}")
    if source.is_dir() and not (source / "manifest.json").is_file():
        raise BundleError(f"'{source}' is a folder without manifest.json, no bundle; {_SOURCES}")
    if source.is_dir() and not (source / "network.h5").is_file():
        raise BundleError(f"bundle '{source}' holds no network.h5; {_SOURCES}")
    if out.is_dir():
        raise UsageError(f"--out '{out}' is a folder; name a file in it: {out / NETWORK_FILE}")
    if not out.parent.is_dir():
        raise UsageError(f"--out '{out}': '{out.parent}' is no folder; make it, or choose another --out")
    bundle = source if source.is_dir() else source.parent
    is_inside = (bundle / "manifest.json").is_file() and out.resolve().is_relative_to(bundle.resolve())
    if is_inside or out.resolve() == source.resolve():
        raise UsageError(f"--out '{out}' would change the source '{source}'; choose a place outside of it")


def verify_netx(
    path: str | Path,
    progress: Progress,
    *,
    input_shape: Shape | None = None,
    data: str | Path | None = None,
    backend: str = "netx",
    n_steps: int | None = None,
    n_samples: int | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
) -> Verified:
    """Read a file of netx; with data, run it on the core and on a backend and compare every spike.

    Args:
        path: the .net file.
        progress: told of stages and samples.
        input_shape: [C, H, W] where the file does not say it.
        data: .npz, see read_samples.
        backend: 'netx' runs the file itself through lava-dl, 'lava' the network as neuroport builds it, 'cpu' the
            oracle.
        n_steps: of samples that are input currents.
        n_samples: the first so many; None for all.
        workers: simulator processes that share the samples.
        out: a bundle of all of it.

    Raises:
        UsageError, ConversionError, ToolchainError: see read_netx, read_samples and the backends.
    """
    path, place = Path(path), None if out is None else Path(out)
    if backend not in _BACKENDS:
        raise UsageError(f"--backend '{backend}' cannot run a file of netx; {', '.join(_BACKENDS)} can")
    flags = {"--steps": n_steps, "--samples": n_samples, "--workers": workers}
    needless = [flag for flag, value in flags.items() if value is not None]
    if data is None and needless:
        raise UsageError(f"{', '.join(needless)}: nothing runs without samples; give them with --data, or leave it out")
    progress.stage(f"reading {path.name}")
    netx = read_netx(path, input_shape=input_shape)
    samples = None if data is None else read_samples(data, netx, n_steps, n_samples)
    chosen: Backend = NetxBackend(path.absolute()) if backend == "netx" else get_backend(backend)
    with contextlib.ExitStack() as stack:
        if place is None:
            work_dir = folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neuroport-")))
        else:
            folder = stack.enter_context(staged_bundle(place))
            work_dir = folder / "scratch"
        done = Verified(netx, _report(path, netx), out=place)
        if samples is not None:
            done = _run(done, chosen, samples, progress, workers, work_dir, folder)
        if place is not None:
            write_network(folder / "network.h5", netx.network)
            shutil.copyfile(path, folder / NETWORK_FILE)
            write_report(folder / "report.json", done.report)
    return done


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


def _run(
    read: Verified,
    backend: Backend,
    samples: Samples,
    progress: Progress,
    workers: int | None,
    work_dir: Path,
    folder: Path,
) -> Verified:
    """Both sides run and compared, their files in `folder`."""
    network, inputs = read.netx.network, samples.inputs
    _check_record(network, inputs)

    def on_progress(n_done: int) -> None:
        progress.samples(n_done, inputs.n_samples)

    target = load_target(network.target)
    job = Job(target, network, inputs, work_dir, progress.stage, on_progress, n_workers=workers)
    progress.stage(f"preparing backend {backend.name}")
    backend.check(job)
    found = {**versions(), **backend.prepare(target, progress.stage)}
    progress.stage(f"{inputs.n_samples} samples on the core")
    core = run_core(network, inputs, record="spikes", memory_mb=_MEMORY_MB)
    progress.stage(f"{inputs.n_samples} samples on {backend.summary}")
    trace = backend.run(job)
    write_inputs(folder / "inputs.h5", inputs)
    write_trace(folder / "core.h5", core.trace.spikes, core.trace.potentials)
    write_trace(folder / "backend.h5", trace.spikes, trace.potentials)
    comparison = compare(network, inputs, core.trace, trace)
    accuracy = None if samples.labels is None else float((core.readout.argmax(1) == samples.labels).mean())
    report = {
        **read.report,
        "steps": inputs.n_steps,
        "samples": inputs.n_samples,
        "accuracy": accuracy,
        "layers": _rows(network, core),
        "backend": {"name": backend.name, **comparison.as_json()},
        "versions": found,
    }
    return Verified(read.netx, report, comparison, accuracy, read.out)


def _check_record(network: IntNetwork, inputs: IntInputs) -> None:
    """Before anything runs: how many samples can be compared at a time."""
    record = record_of("spikes", network)

    def is_too_large(n_samples: int) -> bool:
        try:
            check_memory(record, network, n_samples, inputs.n_steps, _MEMORY_MB)
        except UsageError:
            return True
        return False

    n_fit = bisect.bisect_left(range(1, inputs.n_samples + 1), True, key=is_too_large)
    if n_fit < inputs.n_samples:
        do = f"give --samples {n_fit}" if n_fit else "give samples of fewer steps"
        raise UsageError(
            f"the spikes of {inputs.n_samples} samples of {inputs.n_steps} steps take more than the {_MEMORY_MB} MB "
            f"that load keeps, {n_fit} samples fit; {do}"
        )


def _report(path: Path, netx: NetxNetwork) -> dict[str, Any]:
    network = netx.network
    return {
        "schema": SCHEMA,
        "model": path.name,
        "target": network.target,
        "network": {"neurons": network.n_neurons, "synapses": network.n_synapses, "readout": network.readout},
        "input": {"shape": list(network.populations[0].shape), "transform": netx.transform},
        "layers": _rows(network, None),
        "notes": list(netx.notes),
        "versions": versions(),
    }


def _rows(network: IntNetwork, core: CoreRun | None) -> list[dict[str, Any]]:
    """One per population with neurons; what it did, where it ran."""
    rows: list[dict[str, Any]] = []
    for p in network.populations:
        if p.role == "input":
            continue
        row = {
            "name": p.name,
            "shape": list(p.shape),
            "neurons": p.n_neurons,
            "synapses": sum(n_synapses(j.synapse) for j in network.incoming[p.name]),
            "threshold_mantissa": p.threshold_mantissa,
            "current_decay": p.current_decay,
            "voltage_decay": p.decay,
        }
        if core is not None:
            row["spikes"] = int(core.totals[p.name].sum())
            row["overflows"], row["floored"] = int(core.overflows[p.name]), int(core.floored[p.name])
        rows.append(row)
    return rows
