"""Networks as files of other tools: a deployed network written for lava-dl's netx, one of netx's read and verified."""

from __future__ import annotations

import bisect
import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import n_synapses
from neuroport.chip.target import load_target
from neuroport.errors import BundleError, DoesNotFitError, UsageError
from neuroport.progress import Progress
from neuroport.snn.operators import Shape
from neuroport.validation.diagnosis import backend_row
from neuroport.validation.divergence import Comparison, compare, joined
from neuroport.validation.html.tables import write_verified_page
from neuroport.validation.report import SCHEMA, versions, write_report
from neuroport.verbs.exchange_samples import Samples, read_samples

_BACKENDS = ("netx", "lava", "cpu")
_MEMORY_MB = 2048  # for the spikes of the core
_BYTE = 8  # bits that a spike takes while it is compared
_SOURCES = "give a bundle made by `neuroport deploy`, or its network.h5"


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
    target: str = "loihi-sim",
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
        target: the chip whose ranges it must fit, and onto which its bundle can be mapped.
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
    netx = read_netx(path, input_shape=input_shape, target=target)
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
            done = _run(done, chosen, samples, progress, workers, work_dir, None if place is None else folder)
        if place is not None:
            write_network(folder / "network.h5", netx.network)
            shutil.copyfile(path, folder / NETWORK_FILE)
            write_report(folder / "report.json", done.report)
            write_verified_page(folder, done.report)
    return done


def _run(
    read: Verified,
    backend: Backend,
    samples: Samples,
    progress: Progress,
    workers: int | None,
    work_dir: Path,
    folder: Path | None,
) -> Verified:
    """Both sides run and compared; their files go to `folder`, which takes all samples at a time."""
    network, inputs = read.netx.network, samples.inputs
    n_fit = _samples_that_fit(network, inputs)
    if not n_fit:
        raise UsageError(
            f"the spikes of one sample of {inputs.n_steps} steps take more than the {_MEMORY_MB} MB that load keeps; "
            f"give samples of fewer steps"
        )
    if folder is not None and n_fit < inputs.n_samples:
        raise UsageError(
            f"a bundle holds the spikes of all {inputs.n_samples} samples of {inputs.n_steps} steps, which take more "
            f"than the {_MEMORY_MB} MB that load keeps, {n_fit} samples fit; give --samples {n_fit}, or leave --out out"
        )
    target = load_target(network.target)
    job = Job(target, network, inputs, work_dir, progress.stage, n_workers=workers)
    progress.stage(f"preparing backend {backend.name}")
    backend.check(job)
    found = {**versions(), **backend.prepare(target, progress.stage)}
    parts: list[tuple[CoreRun, Comparison, dict[str, Any] | None]] = []
    n_at_once = inputs.n_samples if folder is not None else max(1, _samples_that_fit(network, inputs, _BYTE))
    for first in range(0, inputs.n_samples, n_at_once):
        samples_now = slice(first, first + n_at_once)
        parts.append(_run_part(job, backend, samples_now, progress, folder, read.netx.never))
    cores = [core for core, _, _ in parts]
    comparison = joined([part for _, part, _ in parts])
    divergence = next((cause for _, _, cause in parts if cause is not None), None)
    answers = np.concatenate([core.readout.argmax(1) for core in cores])
    accuracy = None if samples.labels is None else float((answers == samples.labels).mean())
    report = {
        **read.report,
        "steps": inputs.n_steps,
        "samples": inputs.n_samples,
        "accuracy": accuracy,
        "layers": _rows(network, cores),
        "backend": {"name": backend.name, **comparison.as_json(), "divergence": divergence},
        "versions": found,
    }
    return Verified(read.netx, report, comparison, accuracy, read.out)


def _run_part(
    job: Job, backend: Backend, samples: slice, progress: Progress, folder: Path | None, never: Sequence[str]
) -> tuple[CoreRun, Comparison, dict[str, Any] | None]:
    """These samples on both sides; no more than the core's sums and the comparison stay in memory or on disk.

    Where the sides differ, what makes them differ comes third.
    """
    inputs, n_total = job.inputs.part(samples), job.inputs.n_samples

    def on_progress(n_done: int) -> None:
        progress.samples(samples.start + n_done, n_total)

    which = "" if inputs.n_samples == n_total else f" from number {samples.start}"
    progress.stage(f"{inputs.n_samples} samples{which} on the core")
    core = run_core(job.network, inputs, record="spikes", memory_mb=_MEMORY_MB)
    _check_never(never, core, samples.start)
    progress.stage(f"{inputs.n_samples} samples{which} on {backend.summary}")
    with tempfile.TemporaryDirectory(dir=job.work_dir) as place:
        trace = backend.run(replace(job, inputs=inputs, work_dir=Path(place), on_progress=on_progress))
    if folder is not None:
        write_inputs(folder / "inputs.h5", inputs)
        write_trace(folder / "core.h5", core.trace.spikes, core.trace.potentials)
        write_trace(folder / "backend.h5", trace.spikes, trace.potentials)
    comparison = compare(job.network, inputs, core.trace, trace)
    divergence = backend_row(backend.name, comparison, replace(job, inputs=inputs), core.trace, trace)["divergence"]
    for origin in divergence["origins"] if divergence else ():
        origin["first"]["sample"] += samples.start
    return replace(core, rasters={}, potentials={}), comparison, divergence


def _check_never(never: Sequence[str], core: CoreRun, first: int) -> None:
    """Refuse a run in which a layer fired whose threshold in the file nothing reaches.

    Raises:
        DoesNotFitError: layer and sample are named.
    """
    for name in never:
        fired = np.flatnonzero(core.trace.spikes[name].reshape(len(core.trace.spikes[name]), -1).any(1))
        if fired.size:
            raise DoesNotFitError(
                f"layer '{name}': in sample {first + fired[0]} its potential is at the end of Loihi's 24 bits, where "
                f"the largest threshold of 17 bits fires and the file's, which no chip holds, does not; scale its "
                f"weights and biases down, or show fewer steps"
            )


def _samples_that_fit(network: IntNetwork, inputs: IntInputs, bits: int = 1) -> int:
    """How many samples' spikes are kept at a time, each spike in so many bits."""
    record = record_of("spikes", network)

    def is_too_large(n_samples: int) -> bool:
        try:
            check_memory(record, network, bits * n_samples, inputs.n_steps, _MEMORY_MB)
        except UsageError:
            return True
        return False

    return bisect.bisect_left(range(1, inputs.n_samples + 1), True, key=is_too_large)


def _report(path: Path, netx: NetxNetwork) -> dict[str, Any]:
    network = netx.network
    return {
        "schema": SCHEMA,
        "model": path.name,
        "target": network.target,
        "network": {"neurons": network.n_neurons, "synapses": network.n_synapses, "readout": network.readout},
        "input": {"shape": list(network.populations[0].shape), "transform": netx.transform},
        "layers": _rows(network, ()),
        "notes": list(netx.notes),
        "versions": versions(),
    }


def _rows(network: IntNetwork, cores: Sequence[CoreRun]) -> list[dict[str, Any]]:
    """One per population with neurons; what it did, where it ran, in all parts."""
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
        if cores:
            row["spikes"] = sum(int(core.totals[p.name].sum()) for core in cores)
            row["overflows"] = sum(core.overflows[p.name] for core in cores)
            row["floored"] = sum(core.floored[p.name] for core in cores)
        rows.append(row)
    return rows
