"""The line from end to end: trained network in, verified chip program out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml

from neuroport.ann.load import LoadedAnn
from neuroport.ann.simplify import simplify
from neuroport.backends.base import Bounded, Job, Mapped
from neuroport.bundle import check_place, staged_bundle
from neuroport.chip.core import run_core
from neuroport.chip.files import write_inputs, write_network, write_trace
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.recalibrate import Recalibrated
from neuroport.chip.suit import suited
from neuroport.chip.target import Target, load_target
from neuroport.chip.trace import Trace
from neuroport.conversion import Conversion, Made, neuron_row
from neuroport.data import Dataset, Part
from neuroport.errors import UsageError
from neuroport.last_rung import LastRung
from neuroport.loading import CALIBRATION_SAMPLES, Source, check_labels, load_source, take_samples
from neuroport.normalize.recipe import Recipe, load_recipe
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import SpikingNetwork
from neuroport.validation.divergence import Comparison
from neuroport.validation.ladder import Ladder, LayerActivity, Rung
from neuroport.validation.outputs import Reading, TestSet
from neuroport.validation.report import SCHEMA, layer_rows, versions, write_report

_WORTH_SAYING = 1e-4  # fraction of neuron-steps outside a register


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
class DeployOptions(Source):
    """What `neuroport deploy` can be told; model, data and seed: see Source.

    target, recipe: names or YAML files; recipe None is the target's default. neuron: of those the target has, None for
    the one that is right most often on calibration samples. via: a format of other tools ('netx') that
    the network takes its way to the simulator through, and the bundle holds. steps: None for the recipe's, or for
    those of recorded spikes. samples: to the backend; eval_samples: test images for accuracy, at least as many as
    `samples`, None for all. workers: of the vendor's simulator that share the samples, None by processors. out: bundle
    directory, None for neuroport-out/<model>-<target>.
    """

    target: str | Path = "loihi-sim"
    backend: str | None = None
    via: str | None = None
    recipe: str | Path | None = None
    neuron: str | None = None
    steps: int | None = None
    samples: int = 20
    eval_samples: int | None = 1000
    workers: int | None = None
    out: Path | None = None


@dataclass(frozen=True, eq=False)
class Deployment:
    """What came of it: where the bundle lies, the ladder, the exact comparison, and report.json as data.

    comparison: None where the backend only maps; mapped: None where nothing maps.
    """

    out: Path
    rungs: tuple[Rung, ...]
    comparison: Comparison | None
    report: Mapping[str, Any] = field(repr=False)
    mapped: Mapped | None = None
    bounded: Bounded | None = None

    @property
    def is_equal(self) -> bool:
        """Whether every spike and every readout potential of the backend equals the core's, and all that was mapped.

        Of a backend that computes in other numbers, whether its rounding explains every difference.
        """
        c, b = self.comparison, self.bounded
        runs_equal = c is None or c.mismatches == 0 or (b is not None and b.outside == 0)
        return runs_equal and (self.mapped is None or self.mapped.differences == 0)


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
        if options.neuron is not None:
            self.target = self.target.with_neuron(options.neuron)
        self.last = LastRung(_backend_name(options, self.target), self.target)
        default, reason = self.target.default_recipe, default_reason(self.target)
        file = self.last.file
        if file is not None:
            self.target, default = file.narrowed(self.target), file.default_recipe
            reason = f"the default of {self.last.name}"
        self.recipe: Recipe = load_recipe(options.recipe or default)
        self.reason = "asked for" if options.recipe else reason
        if file is not None:
            r = self.recipe
            file.refuse_neurons(r.name, reset=r.reset, v_init=r.v_init, clamp=r.clamp)
        suited(self.recipe, self.target)
        self.n_steps = options.steps or self.recipe.steps

    def run(self) -> Deployment:
        self.progress.stage(f"recipe {self.recipe.name}: {self.reason}")
        self.progress.stage("reading model and data")
        ann, dataset = load_source(self.options, self.recipe.steps)
        out = self.options.out or Path("neuroport-out") / f"{ann.name}-{self.target.name}"
        check_place(out)
        self.n_steps = self.options.steps or dataset.n_steps or self.recipe.steps
        wanted = self.options.eval_samples
        tests = self._samples(ann, dataset, "test", wanted and max(wanted, self.options.samples))
        check_labels(tests.labels, ann)
        conversion = self._convert(ann, dataset)
        self.target, self.recipe = conversion.target, conversion.recipe
        normalized, made = conversion.normalized, conversion.recalibrated
        with staged_bundle(out) as stage:
            job = self._job(made, tests, stage / "scratch")
            self.progress.stage(f"preparing backend {self.last.name}")
            backend_versions = self.last.prepare(job)
            ladder = Ladder(tests.labels, lambda name: self.progress.stage(f"rung {name}: {len(tests)} samples"))
            seed = self.options.seed
            ladder.climb_float(ann, simplify(ann.graph), normalized, tests, self.n_steps, seed)
            activity = ladder.climb_core(made.normalized, made.quantized.network, tests, self.n_steps, seed)
            report = self._report(ann, conversion, activity, tests)
            report["versions"].update(backend_versions)
            core = run_core(job.network, job.inputs, record="spikes").trace
            self._write_program(stage, job, core)
            ran = self.last.climb(stage, job, core, ladder, Reading(normalized, self.n_steps, seed))
            report["backend"] = ran.report
            report["rungs"] = [asdict(rung) for rung in ladder.rungs]
            report["outputs"] = output_rows(ann, normalized, ladder)
            write_report(stage / "report.json", report)
        if ran.failure is not None:
            text = f"{ran.failure}\nthe rungs up to the integer core are in '{out}'"
            raise type(ran.failure)(text) from ran.failure
        return Deployment(out, tuple(ladder.rungs), ran.comparison, report, ran.mapped, ran.bounded)

    def _samples(self, ann: LoadedAnn, dataset: Dataset, part: Part, n: int | None) -> TestSet:
        """n samples of a part, all if None."""
        return take_samples(ann, dataset, part, n, seed=self.options.seed, n_steps=self.n_steps)

    def _convert(self, ann: LoadedAnn, dataset: Dataset) -> Made:
        """The networks, and the neuron they are made for."""
        calibration = self._samples(ann, dataset, "train", self.recipe.calibration_samples or CALIBRATION_SAMPLES)
        conversion = Conversion(
            ann, calibration, self.n_steps, dataset.has_events, self.options.seed, self.progress.stage
        )
        return conversion.made(self.target, self.recipe)

    def _job(self, made: Recalibrated, tests: TestSet, work_dir: Path) -> Job:
        network = made.quantized.network
        chosen = tests.samples(slice(0, self.options.samples))
        inputs = encode_inputs(made.normalized.network, network, chosen, self.n_steps)

        def on_progress(n_done: int) -> None:
            self.progress.samples(n_done, inputs.n_samples)

        return Job(
            self.target, network, inputs, work_dir, self.progress.stage, on_progress, n_workers=self.options.workers
        )

    def _write_program(self, stage: Path, job: Job, core: Trace) -> None:
        write_network(stage / "network.h5", job.network)
        if self.last.file is not None:
            self.last.file.write_files(stage, job.network)
        self.last.write_export(stage, job, core)
        write_inputs(stage / "inputs.h5", job.inputs)
        write_trace(stage / "core.h5", core.spikes, core.potentials)
        for name, model in (("target", self.target), ("recipe", self.recipe)):
            text = yaml.safe_dump(model.model_dump(mode="json", exclude_none=True), sort_keys=False)
            (stage / f"{name}.yaml").write_text(text, encoding="utf-8")

    def _report(
        self,
        ann: LoadedAnn,
        conversion: Made,
        activity: Mapping[str, LayerActivity],
        tests: TestSet,
    ) -> dict[str, Any]:
        made = conversion.recalibrated
        normalized, network = made.normalized, made.quantized.network
        rows = layer_rows(network, {q.name: q for q in made.quantized.layers}, activity)
        silent = {name: n for name, n in normalized.n_silent_channels.items() if n}
        return {
            "schema": SCHEMA,
            "target": self.target.name,
            "recipe": self.recipe.name,
            "recipe_reason": self.reason,
            "neuron": neuron_row(conversion),
            "percentile": normalized.percentile if self.recipe.reads_percentile else None,
            "calibration": {"rate_errors": list(made.rate_errors), "output_errors": list(made.output_errors)},
            "steps": self.n_steps,
            "seed": self.options.seed,
            "model": ann.name,
            "rungs": [],
            "backend": {},
            "network": {
                "populations": len(rows),
                "neurons": network.n_neurons,
                "compartments": network.n_compartments,
                "synapses": network.n_synapses,
                "depth": max(network.depth.values()),
                "membrane_readouts": [head.population for head in network.heads if head.read == "membrane"],
            },
            "layers": rows,
            "silent_channels": silent,
            "outputs": [],
            "warnings": [
                *input_warnings(normalized.network, tests),
                *warnings(rows, n_neuron_steps=self.n_steps * len(tests), network=network),
            ],
            "versions": versions(),
        }


def _backend_name(options: DeployOptions, target: Target) -> str:
    if options.via is None:
        return options.backend or target.backends[0]
    if options.via != "netx":
        raise UsageError(f"--via '{options.via}' is not known; netx is")
    if options.backend not in (None, options.via) or "lava" not in target.backends:
        found = f"backend '{options.backend}'" if options.backend else f"target '{target.name}' without Lava"
        raise UsageError(f"--via netx runs on Lava, not with {found}; use a Loihi target and leave --backend out")
    return options.via


def default_reason(target: Target) -> str:
    """Why a target's default recipe is the one it is, in a few words."""
    a = target.arithmetic
    if set(a.resets) == {"zero"}:
        return f"the default of {target.name}, whose neurons only reset to zero"
    if "subtract" in a.two_compartments:
        return f"the default of {target.name}, whose neurons reset to zero; by subtraction they take two compartments"
    return f"the default of {target.name}, whose neurons reset by subtraction"


def output_rows(ann: LoadedAnn, normalized: Normalized, ladder: Ladder) -> list[dict[str, Any]]:
    """One row per output: its shape, the population it is read from, and its relative error on each rung."""
    rows = []
    for k, (name, head) in enumerate(zip(ann.graph.outputs, normalized.network.outputs, strict=True)):
        errors = {rung: found[k] for rung, found in ladder.errors.items()}
        shape = list(ann.graph.by_name[name].shape)
        rows.append({"name": name, "shape": shape, "population": head.population, "error": errors})
    return rows


def input_warnings(network: SpikingNetwork, tests: TestSet) -> list[str]:
    """Inputs that no rate expresses: beyond the largest magnitude of the calibration data."""
    if not network.is_rate_coded:
        return []
    values = tests.images.reshape(len(tests), -1)
    beyond = np.abs(values) > network.input_scale * (1 + _WORTH_SAYING)
    lost = beyond | (values < 0) if network.n_signs == 1 else beyond
    if not lost.any():
        return []
    return [
        f"{100 * float(lost.mean()):.3f} % of the test inputs are outside the range of the calibration data "
        f"(magnitudes up to {float(network.input_scale.max()):.4g}{', none below 0' if network.n_signs == 1 else ''}) "
        f"and were held at its end, as no rate expresses them; calibrate on data like the test data"
    ]


def warnings(rows: Sequence[Mapping[str, Any]], *, n_neuron_steps: int, network: IntNetwork) -> list[str]:
    """What a user should know although nothing failed, one sentence each.

    rows: of layer_rows; n_neuron_steps: samples times steps, per neuron.
    """
    found = []
    accumulators = {head.population for head in network.heads if head.read == "membrane"}
    outputs = {head.population for head in network.heads}
    for row in rows:
        if row["name"] in outputs:
            continue
        lost = row["overflows"] / (row["neurons"] * n_neuron_steps)
        if row["mean_rate"] == 0:
            found.append(f"layer '{row['name']}' never fired: nothing reaches the layers behind it; use more steps")
        elif lost > _WORTH_SAYING:
            found.append(
                f"layer '{row['name']}': a current or potential left its register in {100 * lost:.3f} % of all steps; "
                f"its rates are too low"
            )
    for row in (row for row in rows if row["name"] in outputs):
        spoiled = row["overflows"] + row["floored"]
        if row["name"] in accumulators and row["mean_rate"] > 0:
            spoiled += 1
        if spoiled:
            found.append(
                f"readout '{row['name']}': potentials reached the end of their register; scores are wrong for some "
                f"samples; use fewer steps, or calibrate on data like the test data"
            )
    return found
