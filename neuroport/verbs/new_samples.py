"""New samples through a bundle, on any machine: accuracy on the core, and backends compared with it spike for spike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuroport.bundle import verify
from neuroport.chip.core import run_core
from neuroport.chip.files import read_network
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.target import load_target
from neuroport.data import Dataset
from neuroport.engine import evaluate_samples
from neuroport.engine.samples import DataSamples
from neuroport.errors import BundleError
from neuroport.normalize.files import read_normalized
from neuroport.normalize.scales import Normalized
from neuroport.progress import Progress, Silent
from neuroport.validation.ladder import Rung
from neuroport.validation.recorded import Recorded
from neuroport.validation.report import versions
from neuroport.validation.rerun import Rerun, Reruns
from neuroport.verbs.loading import Loaded, Source, check_labels, load_data

_SCHEMA = "neuroport-evaluation/1"
_NEEDED = ("network.h5", "float.h5", "report.json", "target.yaml")


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What new samples gave: the core's rung on all of them, and each backend beside the core on the first ones.

    interval: 95 % confidence (Wilson).
    """

    place: Path
    rung: Rung
    interval: tuple[float, float]
    n_steps: int
    reruns: tuple[Rerun, ...]

    @property
    def is_equal(self) -> bool:
        """Whether no spike and no readout potential of a backend differs from the core's."""
        return all(rerun.is_equal for rerun in self.reruns)

    @property
    def report(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema": _SCHEMA,
            "bundle": self.place.resolve().name,
            "samples": self.rung.samples,
            "steps": self.n_steps,
            "accuracy": self.rung.accuracy,
            "standard_error": self.rung.standard_error,
            "confidence_interval_95": list(self.interval),
            "reruns": [rerun.as_json() for rerun in self.reruns],
            "versions": versions(),
        }

    def __str__(self) -> str:
        """One line."""
        r = self.rung
        return (
            f"{100 * r.accuracy:.2f} % of {r.samples:,} samples right on the core (standard error "
            f"{100 * r.standard_error:.2f} points; 95 % interval {100 * self.interval[0]:.2f} to "
            f"{100 * self.interval[1]:.2f} %)"
        )


@dataclass(frozen=True)
class BundleShapes:
    """What a bundle's report says of its network's inputs and outputs, as the data have to fit them."""

    input_shape: tuple[int, ...]
    input_shapes: list[tuple[int, ...]]
    outputs: list[tuple[str, tuple[int, ...]]]


def evaluate_bundle(
    bundle: str | Path,
    source: Source,
    progress: Progress | None = None,
    *,
    n_samples: int | None = None,
    backends: Sequence[str] = (),
    n_backend: int = 20,
    workers: int | None = None,
) -> Evaluated:
    """Show a bundle's network the test part of a data set.

    Args:
        bundle: made by `neuroport deploy`, here or elsewhere; every file is compared with its checksum first.
        source: data, and how they are scaled, as the bundle's were where it does not say.
        progress: told of stages and samples.
        n_samples: of the test part, all if None.
        backends: to run the first n_backend samples on.
        n_backend: samples to each backend.
        workers: simulator processes that share them.

    Raises:
        BundleError: no bundle, one that was changed, or one that holds no float network to encode samples with.
        UsageError, DataError: wrong data or options. ToolchainError: a backend's.
    """
    place, progress = Path(bundle), progress or Silent()
    report, normalized, network = opened(place, progress)
    shapes, n_steps = bundle_shapes(report), int(report["steps"])
    progress.stage("reading data")
    dataset = load_data(scaled_alike(source, report))
    n = None if n_samples is None else max(n_samples, n_backend if backends else 1)
    samples = samples_of(shapes, dataset, n, seed=source.seed, n_steps=n_steps)
    progress.stage(f"{len(samples):,} samples on the core")
    found = evaluate_samples(network, normalized, samples, n_steps, seed=source.seed, on_progress=progress.samples)
    found.complete()
    reruns: tuple[Rerun, ...] = ()
    if backends:
        few = samples.shown(samples.raw(slice(0, n_backend))).samples(slice(None))
        inputs = encode_inputs(normalized.network, network, few, n_steps)
        trace = run_core(network, inputs, record="spikes").trace
        recorded = Recorded(network, inputs, trace, sheet=load_target(place / "target.yaml"))
        again = Reruns(progress.stage, progress.samples, workers)
        reruns = tuple(again.backend(recorded, name) for name in backends)
    return Evaluated(place, Rung("integer_core", found.n, found.accuracy, None), found.interval, n_steps, reruns)


def opened(place: Path, progress: Progress) -> tuple[dict[str, Any], Normalized, IntNetwork]:
    """The report of a bundle, its float network and its integer one, once every file is as it was written.

    Raises:
        BundleError: no bundle, one that was changed, or one that lacks what new samples need.
    """
    progress.stage(f"checksums of {place}")
    verify(place)
    for name in _NEEDED:
        if not (place / name).is_file():
            raise BundleError(f"bundle '{place}' holds no {name}, which new samples need; deploy again")
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    return report, read_normalized(place / "float.h5"), read_network(place / "network.h5")


def samples_of(shapes: Loaded, dataset: Dataset, n: int | None, *, seed: int, n_steps: int) -> DataSamples:
    """n samples of the test part, all if None: a seeded choice, read shard by shard.

    Raises:
        DataError: the first does not fit the network, or labels that it has no class for.
    """
    index = dataset.choose("test", n, seed)
    check_labels(dataset.test.labels[index], shapes)
    samples = DataSamples(dataset, index, shapes.input_shape, shapes.input_shapes, n_steps)
    samples.shown(samples.raw(slice(0, 1)))
    return samples


def bundle_shapes(report: dict[str, Any]) -> BundleShapes:
    """What report.json says of the inputs and outputs."""
    shapes = [tuple(shape) for shape in report["inputs"]["shapes"]]
    outputs = [(row["name"], tuple(row["shape"])) for row in report["outputs"]]
    return BundleShapes(tuple(report["inputs"]["shape"]), shapes, outputs)


def scaled_alike(source: Source, report: dict[str, Any]) -> Source:
    """The source; scale, mean and std that it does not say are those of the deployment."""
    before = report["inputs"]
    scale = before["scale"] if source.scale is None else source.scale
    return replace(
        source, scale=scale, mean=source.mean or tuple(before["mean"]), std=source.std or tuple(before["std"])
    )
