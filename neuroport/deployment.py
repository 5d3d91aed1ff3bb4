"""The line from end to end: trained network in, verified chip program out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from neuroport.ann.load import LoadedAnn, load_ann, names_callable
from neuroport.ann.simplify import simplify
from neuroport.backends.base import Backend, Job
from neuroport.backends.registry import get_backend
from neuroport.bundle import check_place, staged_bundle
from neuroport.chip.core import run_core
from neuroport.chip.files import write_inputs, write_network, write_trace
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.quantize import Quantized, quantize
from neuroport.chip.target import Target, load_target
from neuroport.chip.trace import Trace
from neuroport.data import Dataset, candidate_shapes, load_npz
from neuroport.datasheets import data_dir
from neuroport.errors import DataError, ToolchainError, UsageError
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import Recipe, load_recipe
from neuroport.normalize.scales import Normalized
from neuroport.validation.divergence import Comparison, compare
from neuroport.validation.ladder import Ladder, LayerActivity, Rung
from neuroport.validation.report import SCHEMA, layer_rows, versions, write_report

_CALIBRATION_SAMPLES = 1000
_MIN_CLASSES = 2
_WORTH_SAYING = 1e-4  # fraction of neuron-steps outside a register
_EXAMPLES = 3  # samples a module is traced with


class Progress(Protocol):
    """Told what a deployment is doing."""

    def stage(self, text: str) -> None:
        """A new stage begins."""

    def samples(self, n_done: int, n_total: int) -> None:
        """Samples finished on the backend."""


class Silent:
    """Progress nobody looks at."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def samples(self, n_done: int, n_total: int) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class DeployOptions:
    """What `neuroport deploy` can be told.

    model: `.pt2` file, `package.module:callable`, an nn.Module, or None for the embedded digits example. target,
    recipe: names or YAML files; recipe None is the target's default. samples: to the backend; eval_samples: test
    images for accuracy, at least as many as `samples`, None for all. out: bundle directory, None for
    neuroport-out/<model>-<target>.
    """

    model: str | Path | torch.nn.Module | None = None
    weights: Path | None = None
    data: Path | None = None
    scale: float | None = None
    target: str | Path = "loihi-sim"
    backend: str | None = None
    recipe: str | Path | None = None
    steps: int | None = None
    samples: int = 20
    eval_samples: int | None = 1000
    out: Path | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Deployment:
    """What came of it: where the bundle lies, the ladder, the exact comparison, and report.json as data."""

    out: Path
    rungs: tuple[Rung, ...]
    comparison: Comparison
    report: Mapping[str, Any] = field(repr=False)

    @property
    def is_equal(self) -> bool:
        """Whether every spike and every readout potential of the backend equals the core's."""
        return self.comparison.mismatches == 0


def deploy(options: DeployOptions, progress: Progress | None = None) -> Deployment:
    """Convert, quantize, run and compare; write the bundle.

    Raises:
        UsageError: wrong options or files (exit code 2). ConversionError: the network cannot be converted or does not
        fit (3). ToolchainError (4): missing, before anything was run; or failed, and then the rungs up to the integer
        core and the worker's log are in the bundle.
    """
    return _Deploy(options, progress or Silent()).run()


class _Deploy:
    """One deployment, stage by stage."""

    def __init__(self, options: DeployOptions, progress: Progress) -> None:
        self.options, self.progress = options, progress
        if options.samples < 1 or (options.eval_samples is not None and options.eval_samples < 1):
            raise UsageError("at least one sample is needed for the backend (--samples) and for accuracy (--eval)")
        if options.steps is not None and options.steps < 1:
            raise UsageError(f"--steps must be at least 1, got {options.steps}")
        self.target: Target = load_target(options.target)
        self.recipe: Recipe = load_recipe(options.recipe or self.target.default_recipe)
        self.n_steps = options.steps or self.recipe.steps
        self.backend: Backend = get_backend(options.backend or self.target.backends[0])

    def run(self) -> Deployment:
        self.progress.stage("reading model and data")
        ann, dataset = self._load()
        out = self.options.out or Path("neuroport-out") / f"{ann.name}-{self.target.name}"
        check_place(out)
        wanted = self.options.eval_samples
        index = dataset.choose("test", wanted and max(wanted, self.options.samples), self.options.seed)
        images, labels = dataset.images("test", index, ann.input_shape), dataset.y_test[index]
        _check_labels(labels, ann)
        normalized, quantized = self._convert(ann, dataset)
        with staged_bundle(out) as stage:
            job = self._job(normalized, quantized, images, stage / "scratch")
            self.progress.stage(f"preparing backend {self.backend.name}")
            self.backend.check(job)
            backend_versions = self.backend.prepare(self.target, self.progress.stage)
            ladder = Ladder(labels, lambda name: self.progress.stage(f"rung {name}: {len(images)} samples"))
            ladder.climb_float(ann, simplify(ann.graph), normalized, images, self.n_steps)
            activity = ladder.climb_core(normalized.network, quantized.network, images, self.n_steps)
            report = self._report(ann, quantized, normalized, activity, len(images))
            report["versions"].update(backend_versions)
            failure = self._climb_backend(stage, job, ladder, report)
            report["rungs"] = [asdict(rung) for rung in ladder.rungs]
            write_report(stage / "report.json", report)
        if isinstance(failure, ToolchainError):
            raise type(failure)(f"{failure}\nthe rungs up to the integer core are in '{out}'") from failure
        return Deployment(out, tuple(ladder.rungs), failure, report)

    def _load(self) -> tuple[LoadedAnn, Dataset]:
        o = self.options
        if o.model is None:
            if o.weights is not None:
                raise UsageError("--weights needs a MODEL to load them into")
            folder = data_dir("digits")
            ann = load_ann(folder / "digits.pt2")
            return ann, load_npz(o.data or folder / "digits.npz", scale=o.scale, seed=o.seed)
        if not isinstance(o.model, torch.nn.Module) and not names_callable(o.model):
            ann = load_ann(o.model, weights=o.weights)
            return ann, load_npz(_needed(o.data), scale=o.scale, seed=o.seed)
        dataset = load_npz(_needed(o.data), scale=o.scale, seed=o.seed)
        raw = dataset.x_train[:_EXAMPLES].astype(np.float32) * np.float32(dataset.scale)
        examples = [torch.from_numpy(np.ascontiguousarray(x)) for x in candidate_shapes(raw)]
        return load_ann(o.model, examples=examples, weights=o.weights), dataset

    def _convert(self, ann: LoadedAnn, dataset: Dataset) -> tuple[Normalized, Quantized]:
        n = self.recipe.calibration_samples or _CALIBRATION_SAMPLES
        index = dataset.choose("train", n, self.options.seed)
        calibration = dataset.images("train", index, ann.input_shape)
        self.progress.stage(f"normalizing ({self.recipe.name}) on {len(calibration)} samples")
        normalized = convert(ann.graph, calibration, self.recipe)
        self.progress.stage(f"quantizing for {self.target.name}")
        quantized = quantize(
            normalized.network, self.target, self.n_steps, images=calibration, input_range=normalized.input_range
        )
        return normalized, quantized

    def _job(self, normalized: Normalized, quantized: Quantized, images: NDArray[np.float32], work_dir: Path) -> Job:
        chosen = images[: self.options.samples]
        inputs = encode_inputs(normalized.network, quantized.network, chosen, self.n_steps)

        def on_progress(n_done: int) -> None:
            self.progress.samples(n_done, inputs.n_samples)

        return Job(self.target, quantized.network, inputs, work_dir, self.progress.stage, on_progress)

    def _climb_backend(
        self, stage: Path, job: Job, ladder: Ladder, report: dict[str, Any]
    ) -> Comparison | ToolchainError:
        """The last rung: the program is written, run, and compared with the core bit for bit."""
        core = run_core(job.network, job.inputs, record="spikes").trace
        self._write_program(stage, job, core)
        self.progress.stage(f"rung backend: {job.inputs.n_samples} samples on {self.backend.summary}")
        try:
            trace = self.backend.run(job)
        except ToolchainError as error:
            report["backend"] = {"name": self.backend.name, "samples": job.inputs.n_samples, "error": str(error)}
            log = job.work_dir / "worker.log"
            if log.is_file():
                shutil.copyfile(log, stage / "worker.log")
            return error
        write_trace(stage / "backend.h5", trace.spikes, trace.potentials)
        comparison = compare(job.network, job.inputs, core, trace)
        ladder.add("backend", readout_scores(job.network, trace))
        report["backend"] = {"name": self.backend.name, **comparison.as_json()}
        return comparison

    def _write_program(self, stage: Path, job: Job, core: Trace) -> None:
        write_network(stage / "network.h5", job.network)
        write_inputs(stage / "inputs.h5", job.inputs)
        write_trace(stage / "core.h5", core.spikes, core.potentials)
        for name, model in (("target", self.target), ("recipe", self.recipe)):
            text = yaml.safe_dump(model.model_dump(mode="json", exclude_none=True), sort_keys=False)
            (stage / f"{name}.yaml").write_text(text, encoding="utf-8")

    def _report(
        self,
        ann: LoadedAnn,
        quantized: Quantized,
        normalized: Normalized,
        activity: Mapping[str, LayerActivity],
        n_images: int,
    ) -> dict[str, Any]:
        network = quantized.network
        rows = layer_rows(network, {q.name: q for q in quantized.layers}, activity)
        silent = {name: n for name, n in normalized.n_silent_channels.items() if n}
        return {
            "schema": SCHEMA,
            "target": self.target.name,
            "recipe": self.recipe.name,
            "steps": self.n_steps,
            "seed": self.options.seed,
            "model": ann.name,
            "rungs": [],
            "backend": {},
            "network": {
                "populations": len(rows),
                "neurons": network.n_neurons,
                "synapses": network.n_synapses,
                "depth": max(network.depth.values()),
                "membrane_readout": network.output.name if network.readout == "membrane" else None,
            },
            "layers": rows,
            "silent_channels": silent,
            "warnings": warnings(rows, n_neuron_steps=self.n_steps * n_images, readout=network.readout),
            "versions": versions(),
        }


def readout_scores(network: IntNetwork, trace: Trace) -> NDArray[np.float64]:
    """Class scores [S, n_out] of a trace: spike counts, or potentials after the last step."""
    name = network.output.name
    if network.readout == "count":
        spikes = trace.spikes[name]
        return np.asarray(spikes.sum(1).reshape(len(spikes), -1), np.float64)
    v = trace.potentials[name]
    return np.asarray(v[:, -1].reshape(len(v), -1), np.float64)


def warnings(rows: Sequence[Mapping[str, Any]], *, n_neuron_steps: int, readout: str) -> list[str]:
    """What a user should know although nothing failed, one sentence each.

    rows: of layer_rows, the readout last; n_neuron_steps: samples times steps, per neuron.
    """
    found = []
    for row in rows[:-1]:
        lost = row["overflows"] / (row["neurons"] * n_neuron_steps)
        if row["mean_rate"] == 0:
            found.append(f"layer '{row['name']}' never fired: nothing reaches the layers behind it; use more steps")
        elif lost > _WORTH_SAYING:
            found.append(
                f"layer '{row['name']}': a current or potential left its register in {100 * lost:.3f} % of all steps; "
                f"its rates are too low"
            )
    last = rows[-1]
    spoiled = last["overflows"] + last["floored"] + (last["mean_rate"] > 0 if readout == "membrane" else 0)
    if spoiled:
        found.append(
            f"readout '{last['name']}': potentials reached the end of their register; scores are wrong for some "
            f"samples; use fewer steps, or calibrate on data like the test data"
        )
    return found


def _needed(data: Path | None) -> Path:
    if data is None:
        raise UsageError("--data is needed with a MODEL: calibration and accuracy need images and labels (.npz)")
    return data


def _check_labels(labels: NDArray[np.int64], ann: LoadedAnn) -> None:
    n_classes = int(np.prod(ann.graph.by_name[ann.graph.output].shape))
    if n_classes < _MIN_CLASSES:
        raise DataError(f"the model has {n_classes} output; accuracy is measured on class scores of 2 or more")
    if int(labels.max()) >= n_classes:
        raise DataError(
            f"labels go up to {int(labels.max())}, the model has {n_classes} outputs (classes 0 to {n_classes - 1}); "
            f"is this the data set it was trained on?"
        )
