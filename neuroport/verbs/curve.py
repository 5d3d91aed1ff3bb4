"""Accuracy over time of several conversion recipes on one network, as CSV, JSON and a plot."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.load import LoadedAnn
from neuroport.bundle import check_place, staged_bundle
from neuroport.data import Dataset
from neuroport.errors import NeuroportError, UsageError
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import Recipe, load_recipe
from neuroport.progress import Progress, Silent
from neuroport.snn.over_time import accuracy_over_time, first_step_within
from neuroport.validation.html.tables import write_curve_page
from neuroport.validation.outputs import TestSet
from neuroport.validation.report import versions, write_report
from neuroport.verbs.loading import CALIBRATION_SAMPLES, Source, check_labels, load_source, take_samples
from neuroport.verbs.plot import HOW_TO_GET, draw_curves

SCHEMA = "neuroport-curve/1"
TOLERANCES = {"within_1_percent": 0.01, "within_0.5_percent": 0.005}  # points of accuracy below the ANN's


@dataclass(frozen=True)
class CurveOptions(Source):
    """What `neuroport curve` can be told; model, data and seed: see Source.

    recipes: names or YAML files, one curve each. steps: None for those of recorded spikes, or the most that a recipe
    has. eval_samples: test images, None for all. out: directory, None for neuroport-out/<model>-curve.
    """

    recipes: tuple[str | Path, ...] = ("max-norm", "robust")
    steps: int | None = None
    eval_samples: int | None = 1000
    out: Path | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """What came of it: where the files lie, accuracy [T] by recipe, curve.json as data, and what did not work."""

    out: Path
    accuracy: Mapping[str, NDArray[np.float64]]
    report: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()


def curve(options: CurveOptions, progress: Progress | None = None) -> Curve:
    """Convert with every recipe, simulate, and write curve.csv, curve.json and curve.png, or nothing if it fails.

    curve.csv: step, counted from 1, and one column of accuracies per recipe. curve.json: these, those of the other
    readouts, the ANN's accuracy on the same samples, and under `latency_steps` the first step from which accuracy stays
    within 1 and 0.5 points of the ANN's to the end (null: never). curve.png needs matplotlib. Recipes that are made
    for a number of steps (scale: mmse, corrections) are made for the last step.

    Raises:
        UsageError: wrong options or files (exit code 2). ConversionError: a recipe cannot convert the network (3).
    """
    progress = progress or Silent()
    recipes = _checked_recipes(options)
    progress.stage("reading model and data")
    most_steps = max(recipe.steps for recipe in recipes)
    ann, dataset = load_source(options, most_steps)
    out = options.out or Path("neuroport-out") / f"{ann.name}-curve"
    check_place(out)
    n_steps = options.steps or dataset.n_steps or most_steps
    tests = take_samples(ann, dataset, "test", options.eval_samples, seed=options.seed, n_steps=n_steps)
    check_labels(tests.labels, ann)
    progress.stage(f"ANN: {len(tests)} samples")
    ann_accuracy = float((ann.run_framework(tests.images).argmax(1) == tests.labels).mean())
    rows = []
    for recipe in recipes:
        try:
            rows.append(_row(options, ann, dataset, tests, recipe, n_steps, progress))
        except NeuroportError as error:
            name = f"recipe '{recipe.name}'"
            raise type(error)(str(error) if name in str(error) else f"{name}: {error}") from error
    for row in rows:
        row["latency_steps"] = {
            key: first_step_within(np.array(row["accuracy"]), ann_accuracy, points)
            for key, points in TOLERANCES.items()
        }
    report = _report(options, ann, dataset, len(tests), n_steps, ann_accuracy, rows)
    return _write(out, report)


def _checked_recipes(options: CurveOptions) -> list[Recipe]:
    if options.eval_samples is not None and options.eval_samples < 1:
        raise UsageError("at least one test sample is needed for accuracy (--eval)")
    if options.steps is not None and options.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {options.steps}")
    recipes = [load_recipe(name) for name in options.recipes]
    if not recipes:
        raise UsageError("no recipe is given; give one --recipe for each curve")
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{names.count(name)} recipes are named '{name}'; give each curve a name of its own")
    return recipes


def _row(
    options: CurveOptions,
    ann: LoadedAnn,
    dataset: Dataset,
    tests: TestSet,
    recipe: Recipe,
    n_steps: int,
    progress: Progress,
) -> dict[str, Any]:
    """One recipe's part of curve.json, without its latency."""
    n = recipe.calibration_samples or CALIBRATION_SAMPLES
    calibration = take_samples(ann, dataset, "train", n, seed=options.seed, n_steps=n_steps).images
    progress.stage(f"{recipe.name}: converting on {len(calibration)} samples")
    normalized = convert(ann.graph, calibration, recipe, n_steps, events=dataset.has_events, seed=options.seed)
    progress.stage(f"{recipe.name}: simulating {len(tests)} samples for {n_steps} steps")
    accuracy = accuracy_over_time(
        normalized.network,
        tests.samples(slice(None)),
        tests.labels,
        n_steps,
        seed=options.seed,
        on_samples=lambda n_done: progress.samples(n_done, len(tests)),
    )
    by_readout = {readout: values.tolist() for readout, values in accuracy.items()}
    own = next(iter(by_readout))
    return {
        "name": recipe.name,
        "readout": own,
        "accuracy": by_readout.pop(own),
        "other_readouts": by_readout,
        "percentile": normalized.percentile if recipe.scale == "activation" else None,
        "calibration_samples": len(calibration),
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
    }


def _report(
    options: CurveOptions,
    ann: LoadedAnn,
    dataset: Dataset,
    n_samples: int,
    n_steps: int,
    ann_accuracy: float,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    scaling = dataset.scaling
    return {
        "schema": SCHEMA,
        "model": ann.name,
        "data": dataset.name,
        "scaling": {"factor": scaling.factor, "mean": list(scaling.mean), "std": list(scaling.std)},
        "samples": n_samples,
        "steps": n_steps,
        "seed": options.seed,
        "ann_accuracy": ann_accuracy,
        "recipes": rows,
        "versions": versions(),
    }


def _write(out: Path, report: Mapping[str, Any]) -> Curve:
    rows = report["recipes"]
    accuracy = {row["name"]: np.array(row["accuracy"]) for row in rows}
    notes = []
    with staged_bundle(out) as stage:
        with (stage / "curve.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["step", *accuracy])
            for t in range(report["steps"]):
                table.writerow([t + 1, *(f"{values[t]:.6f}" for values in accuracy.values())])
        write_report(stage / "curve.json", report)
        write_curve_page(stage, report)
        key, tolerance = next(iter(TOLERANCES.items()))
        has_plot = draw_curves(
            stage / "curve.png",
            accuracy,
            {row["name"]: row["latency_steps"][key] for row in rows},
            reference=report["ann_accuracy"],
            tolerance=tolerance,
            title=f"{report['model']}, {report['samples']:,} samples of {report['data']}",
        )
        if not has_plot:
            notes.append(f"curve.png was not drawn: {HOW_TO_GET}")
    return Curve(out, accuracy, report, tuple(notes))
