"""The whole test part of a data set through a network in a chip's integers, shared by as many workers as there are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroport.backends.registry import get_backend
from neuroport.chip.suit import suited
from neuroport.chip.target import Target, load_target
from neuroport.engine import Evaluation, evaluate_samples, open_engine
from neuroport.engine.samples import DataSamples
from neuroport.engine.work import Networks
from neuroport.errors import EngineError, UsageError
from neuroport.normalize.recipe import load_recipe
from neuroport.progress import Progress, Silent
from neuroport.validation.report import versions, write_report
from neuroport.verbs.conversion import Conversion, calibration_set
from neuroport.verbs.loading import Source, load_data, load_source
from neuroport.verbs.new_samples import bundle_shapes, opened, samples_of, scaled_alike

SCHEMA = "neuroport-evaluate/1"
_SHOWN = 5  # numbers of samples that failed; evaluation.json has all


@dataclass(frozen=True)
class EvaluateOptions(Source):
    """What `neuroport evaluate` can be told; model, data and seed: see Source.

    model: also a bundle of `neuroport deploy`. target, recipe, steps: of a model; a bundle has its own. backend: what
    answers instead of the core. samples: of the test part, all if None. scheduler, workers, shared: see open_engine.
    out: where evaluation.json goes, None for nowhere.
    """

    target: str | Path | None = None
    recipe: str | Path | None = None
    steps: int | None = None
    backend: str | None = None
    samples: int | None = None
    scheduler: str = "none"
    workers: int | None = None
    shared: Path | None = None
    out: Path | None = None


@dataclass(frozen=True, eq=False)
class EvaluateRun:
    """What came of it, and evaluation.json as data."""

    evaluation: Evaluation
    report: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        """A line or two."""
        e, where = self.evaluation, self.report["backend"] or "the core"
        low, high = (100 * end for end in e.interval)
        text = f"{100 * e.accuracy:.2f} % of {e.n:,} samples right on {where} (95 % interval {low:.2f} to {high:.2f} %)"
        for shard in e.failed:
            n = len(shard.numbers)
            shown = ", ".join(map(str, shard.numbers[:_SHOWN])) + (", ..." if n > _SHOWN else "")
            text += f"\n{n} samples failed, numbers {shown}: {shard.reason}"
        return text


@dataclass(frozen=True, eq=False)
class _Subject:
    """What is evaluated, and on what."""

    name: str
    recipe: str
    networks: Networks
    samples: DataSamples


def evaluate(options: EvaluateOptions, progress: Progress | None = None) -> EvaluateRun:
    """Accuracy with its confidence interval, on the core or a backend.

    Raises:
        UsageError: wrong options or files. ConversionError: the model cannot be converted, or does not fit.
        EngineError: the scheduler is gone, or no sample could be evaluated; what was done before is in `out`.
    """
    progress = progress or Silent()
    for flag, value in (("--steps", options.steps), ("--eval", options.samples)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} must be at least 1, got {value}")
    if options.backend is not None:
        get_backend(options.backend)  # a wrong name is told before anything is started
    if options.out is not None:
        _check_out(options.out)
    with open_engine(options.scheduler, workers=options.workers, shared=options.shared) as engine:
        is_bundle = isinstance(options.model, str | Path) and Path(options.model).is_dir()
        subject = _of_bundle(options, progress) if is_bundle else _of_model(options, progress)
        n = subject.networks
        progress.stage(f"{len(subject.samples):,} samples, {n.n_steps} steps each: {engine.summary}")
        try:
            found = evaluate_samples(
                n.network,
                n.normalized,
                subject.samples,
                n.n_steps,
                scheduler=engine,
                seed=n.seed,
                backend=n.backend,
                target=n.target,
                on_progress=progress.samples,
            )
        except EngineError as error:
            if not isinstance(error.partial, Evaluation):
                raise
            kept = _report(subject, options, error.partial)
            if options.out is None:
                raise EngineError(f"{error}; {kept.evaluation.n:,} samples were done: {kept}") from error
            _write(options.out, kept)
            raise EngineError(
                f"{error}; {kept.evaluation.n:,} samples were done: see {options.out / 'evaluation.json'}"
            ) from error
    result = _report(subject, options, found)
    if options.out is not None:
        _write(options.out, result)
    return result


def _of_bundle(options: EvaluateOptions, progress: Progress) -> _Subject:
    given = [f"--{name}" for name in ("target", "recipe", "steps", "weights") if getattr(options, name) is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: bundle '{options.model}' was made for its own; leave it out")
    place = Path(str(options.model))
    report, normalized, network = opened(place, progress)
    target = _with_arithmetic(load_target(place / "target.yaml"), network.arithmetic)
    n_steps = int(report["steps"])
    progress.stage("reading data")
    dataset = load_data(scaled_alike(options, report))
    samples = samples_of(bundle_shapes(report), dataset, options.samples, seed=options.seed, n_steps=n_steps)
    networks = Networks(network, normalized, n_steps, options.seed, options.backend, target)
    return _Subject(place.resolve().name, report["recipe"], networks, samples)


def _of_model(options: EvaluateOptions, progress: Progress) -> _Subject:
    target = load_target(options.target or "loihi-sim")
    recipe = suited(load_recipe(options.recipe or target.default_recipe), target)
    progress.stage("reading model and data")
    ann, dataset = load_source(options, recipe.steps)
    n_steps = options.steps or dataset.n_steps or recipe.steps
    samples = samples_of(ann, dataset, options.samples, seed=options.seed, n_steps=n_steps)
    calibration = calibration_set(ann, dataset, recipe, n_steps, options.seed)
    made = Conversion(ann, calibration, n_steps, dataset.has_events, options.seed, progress.stage).made(target, recipe)
    network = made.recalibrated.quantized.network
    sheet = _with_arithmetic(made.target, network.arithmetic)
    networks = Networks(network, made.recalibrated.normalized, n_steps, options.seed, options.backend, sheet)
    return _Subject(ann.name, made.recipe.name, networks, samples)


def _with_arithmetic(target: Target, arithmetic: Any) -> Target:
    return target.model_copy(update={"arithmetic": arithmetic})


def _report(subject: _Subject, options: EvaluateOptions, found: Evaluation) -> EvaluateRun:
    n = subject.networks
    return EvaluateRun(
        found,
        {
            "schema": SCHEMA,
            "model": subject.name,
            "target": n.network.target,
            "recipe": subject.recipe,
            "backend": n.backend,
            "steps": n.n_steps,
            "seed": n.seed,
            "samples": len(subject.samples),
            "evaluated": found.n,
            "right": found.n_right,
            "is_complete": found.is_complete,
            "accuracy": found.accuracy,
            "confidence_interval_95": list(found.interval),
            "accuracy_over_time": list(found.over_time),
            "failed": [{"numbers": list(shard.numbers), "reason": shard.reason} for shard in found.failed],
            "scheduler": options.scheduler,
            "shards_by_worker": dict(found.workers),
            "sample_numbers": subject.samples.index.tolist(),
            "classes": found.classes.tolist(),
            "versions": versions(),
        },
    )


def _check_out(out: Path) -> None:
    """Refuse a place that the result cannot be written to, before hours of work."""
    if (out / "manifest.json").exists():
        raise UsageError(f"--out '{out}' is a bundle, which one more file would damage; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(
            f"--out '{out}' cannot be written: {error.strerror or error}; give a folder, new or there, that can be"
        ) from error


def _write(out: Path, result: EvaluateRun) -> None:
    write_report(out / "evaluation.json", result.report)
