"""The line from end to end: trained network in, verified chip program out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neuroport.ann.load import LoadedAnn
from neuroport.ann.simplify import simplify
from neuroport.backends.base import Bounded, Job, Mapped
from neuroport.bundle import check_place, staged_bundle
from neuroport.chip.core import run_core
from neuroport.chip.files import write_inputs, write_network, write_trace
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.recalibrate import Recalibrated
from neuroport.chip.suit import suited
from neuroport.chip.target import Target, load_target
from neuroport.chip.trace import Trace
from neuroport.data import Dataset, Part
from neuroport.engine import evaluate_samples, open_engine
from neuroport.engine.shards import Engine
from neuroport.errors import UsageError
from neuroport.mapping.cost import n_macs
from neuroport.mapping.report import Section, mapping_section
from neuroport.normalize.files import write_normalized
from neuroport.normalize.recipe import Recipe, load_recipe
from neuroport.progress import Progress, Silent
from neuroport.validation.divergence import Comparison
from neuroport.validation.html.page import write_page
from neuroport.validation.insight import blame_rows, is_worth_blaming, profile_rows
from neuroport.validation.ladder import CoreRung, Ladder, Rung
from neuroport.validation.outputs import Reading, TestSet
from neuroport.validation.remarks import input_warnings, output_rows, warnings
from neuroport.validation.report import SCHEMA, layer_rows, versions, write_report
from neuroport.validation.rounding import is_explained
from neuroport.verbs.conversion import Conversion, Made, calibration_set, default_reason, neuron_row
from neuroport.verbs.last_rung import LastRung
from neuroport.verbs.loading import check_labels, load_data, load_source, take_samples
from neuroport.verbs.options import DeployOptions, command_of
from neuroport.verbs.spiking import LoadedSnn, load_spiking


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
        return (c is None or is_explained(c, b)) and (self.mapped is None or self.mapped.differences == 0)


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
        o = options
        self.snn = load_spiking(o.model, weights=o.weights, recipe=o.recipe, reset=o.reset, dt_s=o.dt_s)
        self.target: Target = load_target(options.target)
        if options.neuron is not None:
            self.target = self.target.with_neuron(options.neuron)
        self.last = LastRung(_backend_name(options, self.target), self.target)
        default, reason = self.target.default_recipe, default_reason(self.target)
        if self.last.narrow is not None:
            self.target = self.last.narrow.narrowed(self.target)
        if self.last.file is not None:
            default, reason = self.last.file.default_recipe, f"the default of {self.last.name}"
        self.recipe: Recipe = self.snn.recipe if self.snn else load_recipe(options.recipe or default)
        self.reason = self.snn.reason if self.snn else "asked for" if options.recipe else reason
        if self.last.file is not None:
            r = self.recipe
            self.last.file.refuse_neurons(r.name, reset=r.reset, v_init=r.v_init, clamp=r.clamp)
        if self.snn is None:
            suited(self.recipe, self.target)
        else:
            self.snn.check(self.target)
        self.n_steps = options.steps or self.recipe.steps

    def run(self) -> Deployment:
        with ExitStack() as stack:
            # opened first: an address where nobody answers is told at once
            engine = stack.enter_context(open_engine(self.options.scheduler, shared=self.options.shared))
            return self._run(engine, stack.close)

    def _run(self, engine: Engine, release: Callable[[], None]) -> Deployment:
        self.progress.stage(f"recipe {self.recipe.name}: {self.reason}")
        self.progress.stage("reading model and data")
        ann, dataset = self._load()
        out = self.options.out or Path("neuroport-out") / f"{ann.name}-{self.target.name}"
        check_place(out)
        self.n_steps = self.options.steps or dataset.n_steps or self.recipe.steps
        wanted = self.options.eval_samples
        chosen = self.options.sample_numbers
        tests = self._samples(ann, dataset, "test", wanted and max(wanted, self.options.n_backend), chosen)
        check_labels(tests.labels, ann)
        conversion = self._convert(ann, dataset)
        self.target, self.recipe = conversion.target, conversion.recipe
        normalized, made = conversion.normalized, conversion.recalibrated
        with staged_bundle(out) as stage:
            job = self._job(made, tests, stage / "scratch")
            mapping = self._mapping(ann, job)
            self.progress.stage(f"preparing backend {self.last.name}")
            backend_versions = self.last.prepare(job)
            ladder = Ladder(tests.labels, lambda name: self.progress.stage(f"rung {name}: {len(tests)} samples"))
            seed = self.options.seed
            if isinstance(ann, LoadedSnn):
                ladder.climb_snn(normalized, tests, self.n_steps, seed)
            else:
                ladder.climb_float(ann, simplify(ann.graph), normalized, tests, self.n_steps, seed)
            core = self._climb_core(engine, made, ladder, tests)
            release()  # backends have processes of their own
            report = self._report(ann, conversion, core, tests)
            report["insight"] = self._insight(made, ladder, tests)
            write_normalized(stage / "float.h5", made.normalized)
            report["versions"].update(backend_versions)
            report["mapping"] = mapping.report
            if mapping.picture is not None:
                (stage / "mesh.svg").write_text(mapping.picture, encoding="utf-8")
            trace = run_core(job.network, job.inputs, record="spikes").trace
            self._write_program(stage, job, trace)
            ran = self.last.climb(stage, job, trace, ladder, Reading(normalized, self.n_steps, seed))
            report["backend"] = ran.report
            report["warnings"] += ran.mapped.warnings if ran.mapped else ()
            report["rungs"] = [asdict(rung) for rung in ladder.rungs]
            report["outputs"] = output_rows(ann.outputs, normalized, ladder)
            write_report(stage / "report.json", report)
            write_page(stage, report, job.network, tests.images, tests.labels)
        if ran.failure is not None:
            text = f"{ran.failure}\nthe rungs up to the integer core are in '{out}'"
            raise type(ran.failure)(text) from ran.failure
        return Deployment(out, tuple(ladder.rungs), ran.comparison, report, ran.mapped, ran.bounded)

    def _climb_core(self, engine: Engine, made: Recalibrated, ladder: Ladder, tests: TestSet) -> CoreRung:
        self.progress.stage(f"rung integer_core: {len(tests)} samples, {engine.summary}")
        found = evaluate_samples(
            made.quantized.network,
            made.normalized,
            tests,
            self.n_steps,
            scheduler=engine,
            seed=self.options.seed,
            keeps_batches=True,
            on_progress=self.progress.samples,
        )
        return ladder.add_core(found.complete().batches.whole())

    def _insight(self, made: Recalibrated, ladder: Ladder, tests: TestSet) -> dict[str, Any]:
        """Profiles of the layers, and if it is wanted or worth it, what each costs."""
        normalized, network = made.normalized, made.quantized.network
        self.progress.stage(f"activations and rates of {len(network.populations)} populations")
        rows = profile_rows(normalized, network, tests, self.n_steps)
        if self.options.blame or (self.options.blame is None and is_worth_blaming(ladder)):
            self.progress.stage(f"what each layer costs: {len(tests)} samples")
            rows["blame"] = blame_rows(
                normalized,
                network,
                tests,
                ladder.reference,
                self.n_steps,
                seed=self.options.seed,
                on_progress=self.progress.samples,
            )
        return rows

    def _load(self) -> tuple[LoadedAnn | LoadedSnn, Dataset]:
        if self.snn is None:
            return load_source(self.options, self.recipe.steps)
        dataset = load_data(self.options)
        return self.snn.shown_events() if dataset.has_events else self.snn, dataset

    def _samples(
        self, ann: LoadedAnn | LoadedSnn, dataset: Dataset, part: Part, n: int | None, first: tuple[int, ...] = ()
    ) -> TestSet:
        """n samples of a part, all if None; those numbered `first` before others."""
        return take_samples(ann, dataset, part, n, seed=self.options.seed, n_steps=self.n_steps, first=first)

    def _convert(self, ann: LoadedAnn | LoadedSnn, dataset: Dataset) -> Made:
        """The networks, and the neuron they are made for."""
        calibration = calibration_set(ann, dataset, self.recipe, self.n_steps, self.options.seed)
        conversion = Conversion(
            ann, calibration, self.n_steps, dataset.has_events, self.options.seed, self.progress.stage
        )
        return conversion.made(self.target, self.recipe)

    def _job(self, made: Recalibrated, tests: TestSet, work_dir: Path) -> Job:
        network = made.quantized.network
        chosen = tests.samples(slice(0, self.options.n_backend))
        inputs = encode_inputs(made.normalized.network, network, chosen, self.n_steps)

        def on_progress(n_done: int) -> None:
            self.progress.samples(n_done, inputs.n_samples)

        return Job(
            self.target, network, inputs, work_dir, self.progress.stage, on_progress, n_workers=self.options.workers
        )

    def _mapping(self, ann: LoadedAnn | LoadedSnn, job: Job) -> Section:
        """Cores, chips and cost, where cores are known; refused here if it does not fit, before anything runs."""
        self.progress.stage(f"mapping onto {self.target.name}")
        macs = None if isinstance(ann, LoadedSnn) else n_macs(ann.graph)
        title = f"{ann.name} on {self.target.name}"
        return mapping_section(job.network, self.target, job.inputs, title=title, n_macs=macs, seed=self.options.seed)

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
        ann: LoadedAnn | LoadedSnn,
        conversion: Made,
        core: CoreRung,
        tests: TestSet,
    ) -> dict[str, Any]:
        made = conversion.recalibrated
        normalized, network = made.normalized, made.quantized.network
        rows = layer_rows(network, {q.name: q for q in made.quantized.layers}, core.activity)
        numbers = [] if tests.numbers is None else tests.numbers[: self.options.n_backend].tolist()
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
            "sample_numbers": numbers,  # of the test part: those that went to the backend, in the bundle's order
            "model": ann.name,
            "inputs": {
                "shape": list(ann.input_shape),
                "shapes": [list(shape) for shape in ann.input_shapes],
                "scale": self.options.scale,
                "mean": list(self.options.mean),
                "std": list(self.options.std),
            },
            "command": command_of(self.options),
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
            "accuracy_over_time": list(core.over_time),
            "silent_channels": silent,
            "outputs": [],
            "warnings": [
                *(ann.remarks(network) if isinstance(ann, LoadedSnn) else ()),
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
        found = f"backend '{options.backend}'" if options.backend else f"target '{target.name}', which has no Lava"
        raise UsageError(f"--via netx runs on Lava, not with {found}; use a Loihi target and leave --backend out")
    return options.via
