"""Mueller et al. 2021, "Minimizing Inference Time": Figure 2, Tables I and II, on residual networks for CIFAR-10.

    python mueller.py --data DIR --models DIR

reads cifar10.npz and resnet18half_cifar10.pt2, resnet20_cifar10.pt2. Table I: channel-wise normalization with unbiased
quantization and voltage clamping at five percentiles, as spiking network and as ReLU1 network. Table II: ANN, basic and
extended conversion. Figure 2: accuracy over time of the basic conversion, of each of the three methods alone (99.9th
percentile, d = 1), of two, and of them together (extended: 99.99th percentile). As in the paper a spiking network's
accuracy is the mean over its last 100 steps. The paper's Table I is of a validation set, its other numbers are of the
test set; ours are all of the test set.

--seed (0; in result.json) chooses the images.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import (
    Cell,
    Draw,
    Result,
    Table,
    accuracy_plot,
    ann_accuracy,
    calibration_images,
    latency,
    line_plot,
    load_data,
    load_model,
    make_parser,
    measure,
    positive,
    run_script,
    test_images,
)
from numpy.typing import NDArray

from neuroport import load_recipe, predict_relu1
from neuroport.ann.load import LoadedAnn
from neuroport.errors import UsageError
from neuroport.normalize.recipe import Recipe
from neuroport.progress import Progress
from neuroport.validation.outputs import TestSet

STEPS = 1000  # of every spiking network in the paper
SETTLED = 100  # last steps over which the paper averages accuracy
PERCENTILES = (99.0, 99.9, 99.99, 99.999, 100.0)
BASIC, EXTENDED = "basic", "extended"
CLOSE_STEPS, CLOSE = 200, 0.003  # the extended conversion is to lose no more than this in these steps ...
SPEED_UP = 5  # ... and to come within a point of the ANN so many times sooner than the basic one

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Paper:
    """What the paper found for the network nearest to ours.

    table_1: (SNN, ReLU1) by percentile, and the ANN, on the validation set; table_2: ANN, basic, extended, test set.
    """

    name: str
    table_1: tuple[tuple[float, float], ...]
    validation: float
    table_2: tuple[float, float, float]


PAPER_RESNET18 = Paper(
    "ResNet18",
    ((0.9224, 0.9224), (0.9371, 0.9370), (0.9385, 0.9382), (0.9380, 0.9376), (0.9387, 0.9378)),
    0.9378,
    (0.9419, 0.9413, 0.9422),
)
NETS = ("resnet18half_cifar10", "resnet20_cifar10")


@dataclass(frozen=True, eq=False)
class Setup:
    """One trained network with its images."""

    name: str
    ann: LoadedAnn
    calibration: NDArray[np.float32]
    tests: TestSet
    reference: float

    def accuracy(self, args: argparse.Namespace, recipe: Recipe, n_steps: int, label: str, progress: Progress) -> Curve:
        """Accuracy [T] of the spiking network."""
        found = measure(
            self.ann,
            self.calibration,
            self.tests,
            recipe,
            n_steps,
            seed=args.seed,
            progress=progress,
            label=f"{self.name}, {label}",
        )
        return found.accuracy


def methods() -> dict[str, Recipe]:
    """The conversions of Figure 2 and 3: basic, each method alone, two, all three; extended (99.99th percentile)."""
    basic = load_recipe(BASIC)
    changes: dict[str, dict[str, Any]] = {
        "voltage clamping": {"clamp": 1.0},
        "unbiased": {"v_init": 0.5},
        "channel-wise": {"granularity": "channel"},
        "channel-wise, unbiased": {"granularity": "channel", "v_init": 0.5},
        "all three, 99.9th percentile": {"granularity": "channel", "v_init": 0.5, "clamp": 1.0},
    }
    between = {name: basic.model_copy(update=change) for name, change in changes.items()}
    return {BASIC: basic, **between, EXTENDED: load_recipe(EXTENDED)}


def settled(accuracy: Curve) -> float:
    """Mean over the last 100 steps (the last quarter of runs shorter than 400), as in Tables I and II."""
    return float(accuracy[-min(SETTLED, max(1, len(accuracy) // 4)) :].mean())


def work(args: argparse.Namespace, progress: Progress) -> Result:
    """Both tables and the figure of every network."""
    least = load_recipe(EXTENDED)
    if args.percentile_steps > args.steps:
        raise UsageError(f"--percentile-steps {args.percentile_steps} is more than --steps {args.steps}; give less")
    tables: list[Table] = []
    numbers: dict[str, object] = {}
    plots: dict[str, Draw] = {}
    dataset = load_data(args, "cifar10")
    for name in args.nets:
        progress.stage(f"{name}: reading, ANN")
        ann = load_model(args, name)
        tests = test_images(args, ann, dataset)
        setup = Setup(name, ann, calibration_images(args, ann, dataset), tests, ann_accuracy(ann, tests))
        curves = figure_2(args, setup, progress)
        by_percentile = spiking_percentiles(args, setup, curves[EXTENDED], progress)
        progress.stage(f"{name}: ReLU1 at {len(PERCENTILES)} percentiles")
        predicted = predict_relu1(ann.graph, setup.calibration, tests.images, tests.labels, PERCENTILES, least)
        relu1 = [accuracy for _, accuracy in predicted]
        tables += [table_1(setup, by_percentile, relu1), table_2(setup, curves), table_steps(setup, curves)]
        numbers[name] = report(setup, curves, by_percentile, relu1)
        title = f"{name}: {len(tests):,} CIFAR-10 images (Mueller 2021, Figure 2)"
        plots[f"{name}-figure-2.png"] = accuracy_plot(curves, reference=setup.reference, title=title)
        plots[f"{name}-table-1.png"] = percentile_plot(setup, by_percentile, relu1)
    return Result(tables, {"paper": "Mueller et al. 2021, Minimizing Inference Time", "nets": numbers}, plots)


def figure_2(args: argparse.Namespace, setup: Setup, progress: Progress) -> dict[str, Curve]:
    """Accuracy over --steps of each conversion."""
    chosen = {name: recipe for name, recipe in methods().items() if name in (*args.methods, BASIC, EXTENDED)}
    return {name: setup.accuracy(args, recipe, args.steps, name, progress) for name, recipe in chosen.items()}


def spiking_percentiles(args: argparse.Namespace, setup: Setup, extended: Curve, progress: Progress) -> list[float]:
    """Settled accuracy of the extended conversion at each percentile; its own percentile is simulated already."""
    recipe, found = load_recipe(EXTENDED), []
    for p in PERCENTILES:
        if p == recipe.percentile:
            found.append(settled(extended[: args.percentile_steps]))
            continue
        changed = recipe.model_copy(update={"percentile": p})
        found.append(settled(setup.accuracy(args, changed, args.percentile_steps, f"percentile {p:g}", progress)))
    return found


def table_1(setup: Setup, snn: list[float], relu1: list[float]) -> Table:
    """Table I: SNN and ReLU1 by percentile."""
    paper = PAPER_RESNET18
    columns = [f"paper: SNN ({paper.name})", "paper: ReLU1", "ours: SNN", "ours: ReLU1"]
    rows: list[list[Cell]] = [
        [f"{p:g}", *theirs, *ours] for p, theirs, *ours in zip(PERCENTILES, paper.table_1, snn, relu1, strict=True)
    ]
    rows.append(["ANN", paper.validation, None, setup.reference, None])
    return Table(f"Table I, {setup.name}: accuracy in % by percentile", ["percentile", *columns], rows)


def table_2(setup: Setup, curves: dict[str, Curve]) -> Table:
    """Table II: ANN, basic, extended."""
    ours = (setup.reference, settled(curves[BASIC]), settled(curves[EXTENDED]))
    paper = PAPER_RESNET18
    names = ("ANN", "basic", "extended")
    rows: list[list[Cell]] = [list(row) for row in zip(names, paper.table_2, ours, strict=True)]
    headings = ["conversion", f"paper: {paper.name}", f"ours: {setup.name}"]
    return Table(f"Table II, {setup.name}: accuracy in %", headings, rows)


def table_steps(setup: Setup, curves: dict[str, Curve]) -> Table:
    """Figure 2 in numbers: steps from which accuracy stays within a point of the ANN's."""
    theirs: dict[str, str] = {BASIC: "about 600", EXTENDED: "56"}
    rows: list[list[Cell]] = []
    k = min(CLOSE_STEPS, len(curves[BASIC]))
    for name, curve in curves.items():
        step = latency(curve, setup.reference)
        at = float(curve[k - 1])
        rows.append([name, theirs.get(name, "-"), f"> {len(curve)}" if step is None else str(step), at, settled(curve)])
    return Table(
        f"Figure 2, {setup.name}: steps to stay within 1 point of the ANN ({100 * setup.reference:.2f} %)",
        ["conversion", "paper: to 94 % (ANN 94.19)", "ours: steps", f"ours: at step {k}", "ours: settled"],
        rows,
    )


def report(setup: Setup, curves: dict[str, Curve], snn: list[float], relu1: list[float]) -> dict[str, object]:
    """The numbers of one network, and whether it does what the paper says."""
    steps = {name: latency(curve, setup.reference) for name, curve in curves.items()}
    at = float(curves[EXTENDED][min(CLOSE_STEPS, len(curves[EXTENDED])) - 1])
    fast, slow = steps[EXTENDED], steps[BASIC] or len(curves[BASIC]) + 1  # at least
    return {
        "ann_accuracy": setup.reference,
        "percentiles": [list(row) for row in zip(PERCENTILES, snn, relu1, strict=True)],  # percentile, SNN, ReLU1
        "settled": {name: settled(curve) for name, curve in curves.items()},
        "steps_within_1_point": steps,
        "accuracy_over_time": {name: np.round(curve, 6).tolist() for name, curve in curves.items()},
        "is_close": at >= setup.reference - CLOSE - 1e-9,
        "speed_up_at_least": None if fast is None else slow / fast,
        "is_fast": fast is not None and slow >= SPEED_UP * fast,
    }


def percentile_plot(setup: Setup, snn: list[float], relu1: list[float]) -> Draw:
    """Table I as a plot."""
    places = list(map(float, range(len(PERCENTILES))))
    lines = {
        "SNN": (places, [100 * a for a in snn]),
        "ReLU1": (places, [100 * a for a in relu1]),
        "paper: ResNet18 SNN": (places, [100 * a for a, _ in PAPER_RESNET18.table_1]),
    }
    return line_plot(
        lines,
        title=f"{setup.name}: accuracy by percentile (Mueller 2021, Table I)",
        x_label="percentile",
        ticks=[f"{p:g}" for p in PERCENTILES],
        y_label="accuracy in %",
        references={"ANN": 100 * setup.reference, "paper: ANN": 100 * PAPER_RESNET18.validation},
    )


def main() -> int:
    """Exit code."""
    parser = make_parser(
        "mueller", "Reproduces Mueller et al. 2021, Figure 2, Tables I and II.", samples=500, steps=STEPS
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS, help="networks [both]")
    between = [name for name in methods() if name not in (BASIC, EXTENDED)]
    parser.add_argument("--methods", nargs="*", choices=between, default=between, help="besides basic, extended [all]")
    parser.add_argument("--percentile-steps", type=positive, default=300, help="of Table I [%(default)s]")
    return run_script(parser, work)


if __name__ == "__main__":
    raise SystemExit(main())
