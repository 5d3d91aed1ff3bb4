"""The result of a search: search.json, report.html, and one recipe for each point of the frontier.

search.json, schema `neuroport-search/1`; accuracies are fractions, energies joules per inference:

- model, data, target, recipe (the base), objectives, seed, command, storage (without its password), study: what was
  searched; the command goes on with the same trials.
- ended: `trials`, `budget` or `interrupted`; seconds: of this run; trials: {finished, complete, and by the rung that
  they ended at}.
- constraints: {min_accuracy, max_cores, max_steps}.
- samples: {calibration, searched_on, held_out}: calibration of the training part, the others of the test part, no
  sample in both.
- ann: {searched_on, held_out}, default: {recipe, steps, held_out, steps_to_lossless}. A share is {right, samples,
  accuracy, low, high}, the last two Wilson's interval of 95 %. Lossless is at most 0.005 below the ANN on the held-out
  samples: for the default recipe the first step from which it stays so, for the search (`steps_to_lossless`) the fewest
  steps of a point that is.
- frontier: points that meet the constraints and that no other dominates on the samples searched on, cheapest first:
  {trial, recipe, target, neuron, weight_bits, steps, costs, energy_notes (marks of the coefficients, and what the
  energy leaves out as not known; empty where energy is no objective), searched_on, held_out, is_dominated (by another's
  held-out accuracy), is_allowed (constraints, held-out), lossless, digest (of the integer network), params, command}.
  recipe and target: files of this directory; target is null unless weights have fewer bits.
- best: number of the point (from 0) with the smallest cost (the first objective but accuracy) of those allowed, without
  --min-accuracy of those that are lossless, or else the most accurate; null if none is allowed.
- versions.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from neuroport.bundle import staged_bundle
from neuroport.chip.target import Target
from neuroport.mapping.precision import coarser
from neuroport.normalize.recipe import Recipe
from neuroport.snn.over_time import first_step_within
from neuroport.validation.html.frontier import write_search_page
from neuroport.validation.report import versions, write_report
from neuroport.verbs.options import DeployOptions, command_of
from neuroport.verbs.search.options import MAXIMIZED, SearchOptions
from neuroport.verbs.search.points import Share, dominates
from neuroport.verbs.search.study import Study, shown_url, storage_url
from neuroport.verbs.search.trials import Ended, Found

SCHEMA = "neuroport-search/1"
_SOURCE = ("model", "weights", "data", "scale", "mean", "std", "image_size", "seed")
LOSSLESS = 0.005  # of accuracy below the ANN's


@dataclass(frozen=True, eq=False)
class Baseline:
    """The recipe to beat on the held-out samples, at its last step and after each."""

    recipe: str
    steps: int
    share: Share
    over_time: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """A point of the frontier, and what it has right of the held-out samples."""

    found: Found
    share: Share


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a search has to report besides its options. ann: right on the samples searched on, and on the held-out."""

    target: Target
    model: str
    data: str
    study: Study
    storage: str | Path
    ended: Ended
    seconds: float
    least: float
    steps: tuple[int, int]
    ann: tuple[Share, Share]
    n_calibration: int
    baseline: Baseline
    measured: Sequence[Measured]
    out: Path


def make_report(options: SearchOptions, outcome: Outcome) -> dict[str, Any]:
    """search.json as data; see the head of this file."""
    rows = _rows(options, outcome)
    lossless = [row["steps"] for row in rows if row["lossless"]]
    base, ann_tests = outcome.baseline, outcome.ann[1]
    return {
        "schema": SCHEMA,
        "model": outcome.model,
        "data": outcome.data,
        "target": outcome.target.name,
        "recipe": base.recipe,
        "objectives": list(options.objectives),
        "seed": options.seed,
        "command": _command(options),
        "storage": shown_url(storage_url(outcome.storage)),
        "study": outcome.study.study.study_name,
        "ended": outcome.ended,
        "seconds": round(outcome.seconds, 1),
        "trials": _counts(outcome.study),
        "constraints": {
            "min_accuracy": outcome.least,
            "max_cores": options.max_cores,
            "max_steps": outcome.steps[1],
        },
        "samples": {
            "calibration": outcome.n_calibration,
            "searched_on": outcome.ann[0].n,
            "held_out": ann_tests.n,
        },
        "ann": {"searched_on": outcome.ann[0].as_json(), "held_out": ann_tests.as_json()},
        "default": {
            "recipe": base.recipe,
            "steps": base.steps,
            "held_out": base.share.as_json(),
            "steps_to_lossless": first_step_within(base.over_time, ann_tests.accuracy, LOSSLESS),
        },
        "steps_to_lossless": min(lossless, default=None),
        "best": _best(rows, options),
        "frontier": rows,
        "versions": versions() | {"optuna": version("optuna")},
    }


def write_result(options: SearchOptions, outcome: Outcome, report: Mapping[str, Any]) -> None:
    """The directory, whole or not at all."""
    with staged_bundle(outcome.out) as stage:
        (stage / "recipes").mkdir()
        for row, point in zip(report["frontier"], outcome.measured, strict=True):
            recipe = _named(point, options, outcome)
            _dump(stage / row["recipe"], recipe.model_dump(mode="json", exclude_none=True))
            if row["target"] is not None and point.found.candidate.weight_bits is not None:
                coarse = coarser(outcome.target, point.found.candidate.weight_bits) or outcome.target
                _dump(stage / row["target"], coarse.model_dump(mode="json", exclude_none=True))
        write_report(stage / "search.json", report)
        write_search_page(stage, report)


def _rows(options: SearchOptions, outcome: Outcome) -> list[dict[str, Any]]:
    points = [{**_objectives(m, options), MAXIMIZED: m.share.accuracy} for m in outcome.measured]
    rows = []
    for k, m in enumerate(outcome.measured):
        candidate, found = m.found.candidate, m.found
        name = f"recipes/{k + 1:02d}.yaml"
        coarse = None if candidate.weight_bits is None else f"recipes/{k + 1:02d}.target.yaml"
        rows.append(
            {
                "trial": found.trial,
                "recipe": name,
                "target": coarse,
                "neuron": candidate.neuron,
                "weight_bits": candidate.weight_bits,
                "steps": candidate.recipe.steps,
                "costs": found.costs | {"steps": candidate.recipe.steps},
                "energy_notes": found.energy_notes,
                "searched_on": found.share.as_json(),
                "held_out": m.share.as_json(),
                "is_dominated": any(dominates(other, points[k]) for other in points),
                "is_allowed": m.share.accuracy >= outcome.least,
                "lossless": m.share.accuracy >= outcome.ann[1].accuracy - LOSSLESS - 1e-9,
                "digest": found.digest,
                "params": found.params,
                "command": _deploy_command(options, outcome, m, name, coarse),
            }
        )
    return rows


def _objectives(point: Measured, options: SearchOptions) -> dict[str, float]:
    return {name: value for name, value in point.found.costs.items() if name in options.objectives}


def _deploy_command(options: SearchOptions, outcome: Outcome, m: Measured, recipe: str, coarse: str | None) -> str:
    return command_of(
        DeployOptions(
            **_source(options),
            target=options.target if coarse is None else outcome.out / coarse,
            recipe=outcome.out / recipe,
            neuron=m.found.candidate.neuron,
            steps=m.found.candidate.recipe.steps,
        )
    )


def _named(point: Measured, options: SearchOptions, outcome: Outcome) -> Recipe:
    """The recipe with a name of its own, and where it comes from."""
    found, recipe = point.found, point.found.candidate.recipe
    low, high = (100 * end for end in point.share.interval)
    chip = outcome.target.name if found.candidate.neuron is None else f"{outcome.target.name} {found.candidate.neuron}"
    bits = "" if found.candidate.weight_bits is None else f", weights of {found.candidate.weight_bits} bits"
    return recipe.model_copy(
        update={
            "name": f"search-{found.trial}",
            "summary": f"{100 * point.share.accuracy:.2f} % ({low:.2f} to {high:.2f}) of {point.share.n} held-out "
            f"samples in {recipe.steps} steps on {chip}{bits}",
            "source": f"neuroport search, trial {found.trial} of {outcome.study.study.study_name}, seed "
            f"{options.seed}; what was not searched is of recipe {outcome.baseline.recipe}",
        }
    )


def _counts(study: Study) -> dict[str, int]:
    finished = study.finished()
    rungs = [str(trial.user_attrs["rung"]) for trial in finished]
    return {"finished": len(finished), "complete": len(study.complete())} | {
        rung: rungs.count(rung) for rung in dict.fromkeys(rungs)
    }


def _command(options: SearchOptions) -> str:
    """The command line that goes on with this search."""
    defaults = SearchOptions()
    flags: dict[str, Any] = {
        "target": options.target,
        "recipe": options.recipe,
        "objective": ",".join(options.objectives),
        "trials": options.trials,
        "budget": f"{options.budget_s:g}s",
        "storage": None if options.storage is None else shown_url(storage_url(options.storage)),
        "out": options.out,
        "samples": options.samples,
        "max-steps": options.max_steps,
        "min-accuracy": None if options.min_accuracy is None else f"{100 * options.min_accuracy:g}",
        "max-cores": options.max_cores,
        "scheduler": options.scheduler,
        "workers": options.workers,
        "shared": options.shared,
    }
    told = {flag: v for flag, v in flags.items() if v is not None and v != getattr(defaults, flag, None)}
    parts = [f"--{flag} {shlex.quote(str(value))}" for flag, value in told.items()]
    parts += [] if options.eval_samples == defaults.eval_samples else [f"--eval {options.eval_samples or 0}"]
    return " ".join([command_of(DeployOptions(**_source(options))).replace(" deploy", " search", 1), *parts])


def _source(options: SearchOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in _SOURCE}


def _best(rows: Sequence[Mapping[str, Any]], options: SearchOptions) -> int | None:
    allowed = [k for k, row in enumerate(rows) if row["is_allowed"]]
    if options.min_accuracy is None:
        top = max((_accuracy(rows[k]) for k in allowed), default=0.0)
        allowed = [k for k in allowed if rows[k]["lossless"]] or [k for k in allowed if _accuracy(rows[k]) == top]
    cost = next((name for name in options.objectives if name != MAXIMIZED), "steps")
    return min(allowed, key=lambda k: (rows[k]["costs"][cost], -_accuracy(rows[k])), default=None)


def _accuracy(row: Mapping[str, Any]) -> float:
    return float(row["held_out"]["accuracy"])


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
