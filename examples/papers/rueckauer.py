"""Figs. 2a and 2b of Rueckauer et al. 2016, "Theory and Tools for the Conversion of Analog to Spiking CNNs".

    python rueckauer.py --data cifar10.npz --models FOLDER

A CNN 32c3-32c3-mp2-64c3-64c3-mp2-512-10 with batch norm, biases and max-pool on CIFAR-10, in FOLDER as
rueckauer_cifar10.pt2 (or your own .pt2 that reads [N, 3, 32, 32] in [0, 1]). Fig. 2a: five conversions, each with one
more of the paper's methods, after 300 steps. Fig. 2b: accuracy over time of three percentiles.

Max-pool is spiking as in section 3.6 (`--max-pools gated`), or rectifiers (`expand`). The softmax reads the potentials
as in section 3.5; what the potentials alone say (`membrane`) comes from the same simulation.

Source: the paper, sections 3 and 4, the numbers of fig. 2a as its text gives them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from common import (
    Cell,
    Measured,
    Result,
    Table,
    accuracy_plot,
    ann_accuracy,
    calibration_images,
    latency,
    load_data,
    load_model,
    make_parser,
    measure,
    run_script,
    test_images,
)
from numpy.typing import NDArray

from neuroport.ann.load import LoadedAnn
from neuroport.errors import UsageError
from neuroport.normalize.recipe import Recipe
from neuroport.progress import Progress
from neuroport.validation.outputs import TestSet

PAPER_ANN = 0.8786  # section 4.1
EXAMPLE_SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Bar:
    """One bar of fig. 2a. changes: what its recipe has besides the one before it; paper: accuracy, if in the text."""

    name: str
    paper: str
    changes: dict[str, Any]


BARS = (
    Bar(
        "no normalization, Poisson input, reset to zero",
        "16.50",
        {"scale": "none", "input": "poisson", "reset": "zero"},
    ),
    Bar("+ weights normalized by the maximum", "59.82", {"scale": "activation", "percentile": 100.0}),
    Bar("+ reset by subtraction", "about 80", {"reset": "subtract"}),
    Bar("+ analog input", "83.60", {"input": "current"}),
    Bar("+ 99.9th percentile", "87.62", {"percentile": 99.9}),
)


def recipes(max_pool: Literal["gated", "expand"]) -> list[Recipe]:
    """The recipes of the five bars; each adds to the one before."""
    fields: dict[str, Any] = {"granularity": "layer", "v_init": 0.0, "readout": "softmax", "pool": "fold"}
    made = []
    for k, bar in enumerate(BARS, 1):
        fields.update(bar.changes)
        source = "Rueckauer et al. 2016, section 4.2, fig. 2a"
        made.append(Recipe(name=f"bar-{k}", summary=bar.name, source=source, max_pool=max_pool, **fields))
    return made


class Bench:
    """Measures recipes on the same images; a recipe that both figures show is simulated once."""

    def __init__(
        self, args: argparse.Namespace, ann: LoadedAnn, calibration: NDArray[np.float32], tests: TestSet
    ) -> None:
        self.args, self.ann, self.calibration, self.tests = args, ann, calibration, tests
        self.done: list[tuple[Recipe, Measured]] = []

    def measure(self, recipe: Recipe, progress: Progress) -> Measured:
        """Accuracy over time of one recipe."""
        label = {"name": "", "summary": ""}
        for known, found in self.done:
            if known.model_copy(update=label) == recipe.model_copy(update=label):
                return found
        text = f"{recipe.max_pool} max-pool, {recipe.summary}"
        found = measure(
            self.ann,
            self.calibration,
            self.tests,
            recipe,
            self.args.steps,
            seed=self.args.seed,
            progress=progress,
            label=text,
        )
        self.done.append((recipe, found))
        return found


def work(args: argparse.Namespace, progress: Progress) -> Result:
    """Both figures, for each chosen kind of max-pool."""
    dataset = load_data(args, "cifar10")
    ann = load_model(args, "rueckauer_cifar10")
    if ann.input_shape != EXAMPLE_SHAPE:
        raise UsageError(
            f"model '{ann.name}' reads {list(ann.input_shape)}; fig. 2 is about CIFAR-10, {list(EXAMPLE_SHAPE)}; "
            f"give --models a network trained on it"
        )
    tests = test_images(args, ann, dataset)
    progress.stage(f"ANN: {len(tests):,} images")
    reference = ann_accuracy(ann, tests)
    bench = Bench(args, ann, calibration_images(args, ann, dataset), tests)
    tables, plots, numbers = [], {}, {}
    for max_pool in args.max_pools:
        bars = [bench.measure(recipe, progress) for recipe in recipes(max_pool)]
        last = recipes(max_pool)[-1]
        over_time = {}
        for p in args.percentiles:
            recipe = last.model_copy(update={"percentile": p, "summary": f"{p:g}th percentile"})
            over_time[f"{p:g}th percentile"] = bench.measure(recipe, progress)
        tables += [
            _bars_table(args, max_pool, bars, reference, len(tests)),
            _percentiles_table(args, max_pool, over_time, reference),
        ]
        title = f"{max_pool} max-pool, {len(tests):,} images of CIFAR-10"
        curves = {bar.name: found.accuracy for bar, found in zip(BARS, bars, strict=True)}
        plots[f"fig2a-{max_pool}.png"] = accuracy_plot(curves, reference=reference, title=f"Fig. 2a, {title}")
        curves = {name: found.accuracy for name, found in over_time.items()}
        plots[f"fig2b-{max_pool}.png"] = accuracy_plot(curves, reference=reference, title=f"Fig. 2b, {title}")
        numbers[max_pool] = {
            "fig2a": [
                {"bar": bar.name, "paper": bar.paper, **_numbers(found)} for bar, found in zip(BARS, bars, strict=True)
            ],
            "fig2b": [{"curve": name, **_numbers(found)} for name, found in over_time.items()],
        }
    return Result(tables, {"ann_accuracy": reference, "paper_ann_accuracy": PAPER_ANN, **numbers}, plots)


def _numbers(found: Measured) -> dict[str, Any]:
    return {"seconds": found.seconds, "accuracy": {name: a.tolist() for name, a in found.by_readout.items()}}


def _bars_table(args: argparse.Namespace, max_pool: str, bars: list[Measured], reference: float, n: int) -> Table:
    rows: list[list[Cell]] = []
    for bar, found in zip(BARS, bars, strict=True):
        last = {readout: float(values[-1]) for readout, values in found.by_readout.items()}
        rows.append([bar.name, bar.paper, last["softmax"], last["membrane"]])
    rows.append(["ANN", PAPER_ANN, reference, reference])
    title = (
        f"Fig. 2a: accuracy in percent after 300 steps (ours: {args.steps} steps, {n:,} images, {max_pool} max-pool)"
    )
    return Table(title, ("conversion", "paper", "ours: softmax", "ours: membrane"), rows)


def _percentiles_table(
    args: argparse.Namespace, max_pool: str, over_time: dict[str, Measured], reference: float
) -> Table:
    """The paper draws fig. 2b without a number; of it the text says that 99 and 99.9 are quick and end at the ANN's."""
    marks = [t for t in (25, 50, 100, 200, 300, 500, 1000) if t <= args.steps]
    rows: list[list[Cell]] = []
    for name, found in over_time.items():
        near = latency(found.accuracy, reference)
        row: list[Cell] = [name, *(float(found.accuracy[t - 1]) for t in marks)]
        rows.append([*row, "never" if near is None else near])
    title = f"Fig. 2b (ours, {max_pool} max-pool): accuracy in percent at steps, and from which it is within 1 point"
    return Table(title, ("curve", *map(str, marks), "within 1 point"), rows)


def percentile(text: str) -> float:
    """A number above 0, at most 100."""
    number = float(text)
    if not 0 < number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 100")
    return number


def main() -> int:
    """Exit code 0 with the results in --out."""
    parser = make_parser("rueckauer", "Rueckauer et al. 2016, figs. 2a and 2b.", samples=400, steps=300)
    parser.add_argument(
        "--max-pools", nargs="+", choices=("gated", "expand"), default=["gated"], help="kinds to measure [gated]"
    )
    parser.add_argument(
        "--percentiles", nargs="*", type=percentile, default=[99.0, 99.9, 100.0], help="curves of fig. 2b [%(default)s]"
    )
    return run_script(parser, work)


if __name__ == "__main__":
    raise SystemExit(main())
