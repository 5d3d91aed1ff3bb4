"""`search`: the frontier of conversions of one network for one chip, found by Optuna, measured on held-out samples."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from neuroport.ann.graph import AnnGraph
from neuroport.ann.load import LoadedAnn
from neuroport.bundle import check_place
from neuroport.chip.target import Target, load_target
from neuroport.data import Dataset
from neuroport.engine import open_engine
from neuroport.engine.shards import Engine
from neuroport.errors import ConversionError, DataError, DoesNotFitError, UsageError
from neuroport.normalize.recipe import NoiseSearch, Recipe, load_recipe
from neuroport.normalize.search import choose_percentile
from neuroport.progress import Progress, Silent
from neuroport.validation.outputs import TestSet
from neuroport.verbs.conversion import Conversion, calibration_set
from neuroport.verbs.loading import check_labels, load_source, take_samples
from neuroport.verbs.search.bench import Bench, part_of, right
from neuroport.verbs.search.options import SearchOptions, check_options, check_target
from neuroport.verbs.search.points import Share, share_of
from neuroport.verbs.search.report import Baseline, Measured, Outcome, make_report, write_result
from neuroport.verbs.search.space import Space
from neuroport.verbs.search.study import Study, directions_of, name_of, opened, optuna_module
from neuroport.verbs.search.trials import Found, Trials
from neuroport.version import __version__

MARGIN = 0.1  # of accuracy below the ANN's, where no --min-accuracy is given: below it nothing is worth a trial
_LEAST_TESTS = 2
_NOISE = NoiseSearch(kind="noise", percentiles=(99.0, 99.9, 99.99, 100.0))


@dataclass(frozen=True, eq=False)
class Search:
    """What came of it: where the files lie, and search.json as data."""

    out: Path
    report: Mapping[str, Any] = field(repr=False)

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C ended it; what was found until then is in the files."""
        return bool(self.report["ended"] == "interrupted")


@dataclass(frozen=True, eq=False)
class _Subject:
    """What was read: network, data, and three sets of samples; `samples` and the held-out `tests` share none."""

    ann: LoadedAnn
    dataset: Dataset
    calibration: TestSet
    samples: TestSet
    tests: TestSet
    steps: tuple[int, int]


def search(options: SearchOptions, progress: Progress | None = None) -> Search:
    """Search, and write search.json (see report.py), report.html and recipes/*.yaml, or nothing if it fails.

    The same storage goes on where it stopped; the same options, seed and number of trials give the same frontier. The
    first Ctrl-C ends the trials and measures what was found, a second one leaves at once; finished trials are kept.

    Raises:
        UsageError: wrong options or files, no Optuna, no storage (exit code 2). ConversionError: nothing is converted,
        or meets the constraints (3); where only the held-out samples miss them, the result is written first.
    """
    progress = progress or Silent()
    began = time.monotonic()
    check_options(options)
    optuna_module()
    target = load_target(options.target)
    check_target(options, target)
    base = load_recipe(options.recipe or target.default_recipe)
    progress.stage("reading model and data")
    subject = _read(options, base)
    out = options.out or Path("neuroport-out") / f"{subject.ann.name}-{target.name}-search"
    check_place(out)
    storage = options.storage or Path(f"{out}.sqlite3")
    ann_right = right(subject.ann, subject.samples)
    least = options.min_accuracy if options.min_accuracy is not None else float(ann_right.mean()) - MARGIN
    name = name_of(_identity(options, target, base, subject, least))
    shared_by = open_engine(options.scheduler, workers=options.workers, shared=options.shared)
    with opened(storage, name, directions_of(options.objectives)) as study, shared_by as engine:
        bench = _bench(options, target, subject, engine)
        space = Space(target, base, subject.steps, "cores" in bench.wants)
        deadline = began + options.budget_s
        baseline = _baseline(bench, base, subject, progress, deadline)
        n_held = len(subject.tests)
        limits = (least, options.max_cores, n_held, deadline)
        trials = Trials(bench, space, study, options.objectives, ann_right, *limits, progress)
        ended = trials.run(options.trials, space.starts(_noise_percentile(study, base, subject, options.seed)))
        measured = _measured(bench, trials.frontier(), subject.tests, progress)
        outcome = Outcome(
            target,
            subject.ann.name,
            subject.dataset.name,
            study,
            storage,
            ended,
            time.monotonic() - began,
            least,
            subject.steps,
            ann=(share_of(ann_right), share_of(right(subject.ann, subject.tests))),
            n_calibration=len(subject.calibration),
            baseline=baseline,
            measured=measured,
            out=out,
        )
        report = make_report(options, outcome)
        progress.stage(f"writing {out}")
        write_result(options, outcome, report)
    if report["best"] is None:
        raise DoesNotFitError(
            f"{len(measured)} trials meet the constraints on the samples searched on, none on {n_held} held-out ones "
            f"(at least {100 * least:.4g} % accuracy); ask for less, or search on more --samples; see '{out}'"
        )
    return Search(out, report)


def _measured(bench: Bench, found: Sequence[Found], tests: TestSet, progress: Progress) -> list[Measured]:
    """The points made again, and shown the held-out samples; a point that cannot hold one of them is left out.

    Raises:
        DoesNotFitError: none of them can.
    """
    measured, problem = [], None
    for k, point in enumerate(found, 1):
        progress.stage(f"frontier {k} of {len(found)}: {len(tests)} held-out samples")
        try:
            run = bench.on_core(bench.made(point.candidate), tests, point.candidate.recipe.steps)
        except DoesNotFitError as error:
            problem = error
            progress.stage(f"trial {point.trial + 1} is left out: {error}")
            continue
        measured.append(Measured(point, Share(run.n_right, run.n)))
    if problem is not None and not measured:
        raise problem
    return measured


def _read(options: SearchOptions, base: Recipe) -> _Subject:
    ann, dataset = load_source(options, base.steps)
    most = options.max_steps or base.steps
    steps = (1, most)
    if dataset.has_events:  # recorded and binned for one number of steps
        steps = (dataset.n_steps or most,) * 2
    n_steps = steps[1]
    calibration = calibration_set(ann, dataset, base, n_steps, options.seed)
    order = dataset.choose("test", None, options.seed)
    if len(order) < _LEAST_TESTS:
        raise DataError(
            f"'{dataset.name}': its test part holds {len(order)} sample; a search needs some to search on and "
            f"others to measure the result: give at least {_LEAST_TESTS}, better hundreds"
        )
    n_held = min(options.eval_samples or len(order), max(len(order) - options.samples, len(order) // 2))
    n_all = min(len(order), n_held + options.samples)
    both = take_samples(ann, dataset, "test", n_all, seed=options.seed, n_steps=n_steps)
    check_labels(both.labels, ann)
    tests, samples = (part_of(both, k) for k in (slice(0, n_held), slice(n_held, n_all)))
    return _Subject(ann, dataset, calibration, samples, tests, steps)


def _bench(options: SearchOptions, target: Target, subject: _Subject, engine: Engine) -> Bench:
    wants = frozenset(options.objectives) | ({"cores"} if options.max_cores is not None else set())
    events = subject.dataset.has_events
    sets = (subject.calibration, subject.samples)
    return Bench(subject.ann, target, *sets, events, options.seed, wants, engine)


def _baseline(bench: Bench, base: Recipe, subject: _Subject, progress: Progress, deadline: float) -> Baseline:
    """The recipe to beat, deployed as `deploy` does, on the held-out samples.

    Raises:
        UsageError: that alone takes longer than the budget.
    """

    def on_shard() -> None:
        if time.monotonic() > deadline:
            raise UsageError(
                f"--budget was over while the recipe to beat, {base.name}, was measured on {len(subject.tests)} "
                f"held-out samples; give more time, or fewer samples (--eval)"
            )

    progress.stage(f"the recipe to beat, {base.name}: {len(subject.tests)} held-out samples")
    n_steps = subject.steps[1] if bench.events else base.steps
    conversion = Conversion(bench.ann, bench.calibration, n_steps, bench.events, bench.seed, lambda _: None)
    made = conversion.made(bench.target, base)
    run = bench.on_core(made, subject.tests, n_steps, on_shard)
    return Baseline(base.name, n_steps, Share(run.n_right, run.n), np.array(run.over_time))


def _noise_percentile(study: Study, base: Recipe, subject: _Subject, seed: int) -> float | None:
    """The percentile with the least loss on noise, once for all runs of a study; None where noise says nothing."""
    if subject.dataset.has_events:
        return None
    known = study.study.user_attrs
    if "noise_percentile" not in known:
        images = subject.calibration.images
        recipe = base.model_copy(update={"search": _NOISE, "scale": "activation", "corrections": ()})
        try:
            found = choose_percentile(
                subject.ann.graph,
                recipe,
                subject.ann.graph.input_shape,
                (float(images.min()), float(images.max())),
                min(base.steps, subject.steps[1]),
                seed,
            )
            study.study.set_user_attr("noise_percentile", found.percentile)
        except ConversionError:
            study.study.set_user_attr("noise_percentile", None)
    percentile: float | None = study.study.user_attrs["noise_percentile"]
    return percentile


def _identity(options: SearchOptions, target: Target, base: Recipe, subject: _Subject, least: float) -> dict[str, Any]:
    """All that trials depend on: where any of it differs they cannot be compared."""
    sets = (subject.samples, subject.calibration)
    data = [x for s in sets for x in (s.images, s.labels, s.spikes) if x is not None]
    return {
        "version": __version__,
        "model": [subject.ann.name, _digest(subject.ann.graph)],
        "data": [sha256(x.tobytes()).hexdigest() for x in data],
        "target": target.model_dump(mode="json"),
        "recipe": base.model_dump(mode="json"),
        "objectives": options.objectives,
        "steps": subject.steps,
        "least": least,
        "max_cores": options.max_cores,
        "seed": options.seed,
    }


def _digest(graph: AnnGraph) -> str:
    """Of every number of a network: its answers alone may be those of another one."""
    found = sha256(repr(graph.outputs).encode())
    for node in graph:
        found.update(repr((node.name, type(node.op).__name__, node.inputs, node.shape)).encode())
        for field_ in fields(node.op):
            value = getattr(node.op, field_.name)
            found.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()
