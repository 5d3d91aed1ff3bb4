"""Mueller et al. 2021b, "Normalization Hyperparameter Search": Figure 1, the percentile found on noise.

    python mueller_search.py --data DIR --models DIR

For each network: the loss over percentiles on uniform noise that the ANN labels itself (recipe noise-search), beside
the loss on test images of networks normalized on training images, and how much worse than the best percentile the
chosen one is there. The loss is looked at after the recipe's last step and, as the area under the loss over time, on
average over the steps: the paper wants "the fastest converging SNN with the highest accuracy at that speed".

Networks: mlp_mnist, cnn_fashion_mnist, rueckauer_cifar10, resnet20_cifar10 (.pt2), and mlp_biases, the paper's 3-layer
fully connected network, trained here on Fashion-MNIST with biases (784-256-256-10, torch seed 0, 3 epochs of Adam,
about a minute). --seed (0; in result.json) chooses the images and draws the noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    Cell,
    Draw,
    Result,
    Table,
    ann_accuracy,
    calibration_images,
    latency,
    line_plot,
    load_data,
    load_model,
    make_parser,
    measure,
    run_script,
    test_images,
)
from numpy.typing import NDArray

from neuroport import choose_percentile, load_ann, load_recipe
from neuroport.ann.load import LoadedAnn
from neuroport.data import Dataset
from neuroport.normalize.search import SearchResult
from neuroport.progress import Progress

DATA = {
    "mlp_biases": "fashion_mnist",
    "mlp_mnist": "mnist",
    "cnn_fashion_mnist": "fashion_mnist",
    "rueckauer_cifar10": "cifar10",
    "resnet20_cifar10": "cifar10",
}
TRAINED = "mlp_biases"
N_EPOCHS, BATCH, LEARNING_RATE, HIDDEN = 3, 100, 1e-3, 256
CLOSE = 0.005  # the chosen percentile is to lose no more than this against the best one on test images
PAPER = (96.5, 0.012)  # percentile found for the paper's 3-layer MLP, and its loss

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sweep:
    """One network: the search on noise, and accuracy [n_percentiles, T] on test images beside the ANN's."""

    name: str
    search: SearchResult
    accuracy: FloatArray
    reference: float

    @property
    def percentiles(self) -> tuple[float, ...]:
        """Those tried."""
        return self.search.percentiles

    @property
    def test_loss(self) -> tuple[FloatArray, FloatArray]:
        """Accuracy of the ANN minus that of the SNN, [n_percentiles]: at the last step, and on average over steps."""
        loss = self.reference - self.accuracy
        return loss[:, -1], loss.mean(1)

    @property
    def noise_loss(self) -> tuple[FloatArray, FloatArray]:
        """The same on noise: at the last step, and on average, which is what the search minimizes."""
        return self.search.loss[:, -1], self.search.mean_loss

    @property
    def chosen(self) -> int:
        """Place of the percentile that the search found."""
        return self.percentiles.index(self.search.percentile)

    @property
    def chosen_at_end(self) -> int:
        """Place of the percentile it would have found by the loss at the last step; of equal ones the largest."""
        last = self.noise_loss[0]
        return max(range(len(last)), key=lambda k: (-last[k], self.percentiles[k]))

    def excess(self, k: int) -> tuple[float, float]:
        """How much more than the best percentile loses the one at place k: at the last step, and on average."""
        at_end, mean = self.test_loss
        return float(at_end[k] - at_end.min()), float(mean[k] - mean.min())


def work(args: argparse.Namespace, progress: Progress) -> Result:
    """Every network's sweep, and how the search did."""
    sweeps = [sweep(args, name, progress) for name in args.nets]
    tables = [table_of(found) for found in sweeps] + [summary(sweeps)]
    numbers = {"paper": "Mueller et al. 2021b, Normalization Hyperparameter Search", "nets": list(map(report, sweeps))}
    return Result(tables, numbers, {f"{s.name}-figure-1.png": loss_plot(s) for s in sweeps})


def sweep(args: argparse.Namespace, name: str, progress: Progress) -> Sweep:
    """The search of the recipe noise-search, and each of its percentiles on test images."""
    recipe = load_recipe("noise-search")
    progress.stage(f"{name}: reading, ANN")
    dataset = load_data(args, DATA[name])
    ann = train_mlp(dataset, progress) if name == TRAINED else load_model(args, name)
    tests, calibration = test_images(args, ann, dataset), calibration_images(args, ann, dataset)
    n_steps = args.steps
    value_range = (float(calibration.min()), float(calibration.max()))
    progress.stage(f"{name}: search on noise")
    found = choose_percentile(ann.graph, recipe, ann.input_shape, value_range, n_steps, args.seed)
    rows = []
    for p in found.percentiles:
        fixed = recipe.model_copy(update={"percentile": p, "search": None})
        label = f"{name}, percentile {p:g}"
        measured = measure(ann, calibration, tests, fixed, n_steps, seed=args.seed, progress=progress, label=label)
        rows.append(measured.accuracy)
    return Sweep(name, found, np.stack(rows), ann_accuracy(ann, tests))


def train_mlp(dataset: Dataset, progress: Progress) -> LoadedAnn:
    """A 3-layer fully connected network with biases, trained on the whole training part."""
    progress.stage(f"{TRAINED}: training, {N_EPOCHS} epochs")
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(784, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, HIDDEN)]
    net = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10))
    index = np.arange(len(dataset.train))
    x = torch.from_numpy(dataset.images("train", index, (1, 28, 28)))
    y = torch.from_numpy(dataset.train.labels)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    for epoch in range(N_EPOCHS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for part in torch.split(order, BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x[part]), y[part]))
            optimizer.step()
    return load_ann(net.eval(), examples=[x[:2]])


def table_of(s: Sweep) -> Table:
    """Figure 1 in numbers."""
    rows: list[list[Cell]] = []
    for k, p in enumerate(s.percentiles):
        losses = [float(x[k]) for x in (*s.noise_loss, *s.test_loss)]
        mark = "*" if k == s.chosen else ""
        rows.append([f"{p:g}{mark}", *losses, latency(s.accuracy[k], s.reference)])
    headings = [
        "percentile",
        "noise: last step",
        "noise: mean",
        "test: last step",
        "test: mean",
        "steps within 1 point",
    ]
    n_steps = s.search.loss.shape[1]
    return Table(
        f"{s.name}: ours: conversion loss in points at step {n_steps}, on average over steps; *: chosen", headings, rows
    )


def summary(sweeps: Sequence[Sweep]) -> Table:
    """What the search chose, by the mean loss as neuroport does and by the loss at the last step, and what that costs.

    The costs are points of test accuracy below the best percentile of the sweep.
    """
    rows: list[list[Cell]] = [["paper: 3-layer MLP", str(PAPER[0]), None, None, "-", None, None]]
    for s in sweeps:
        by_mean, by_end = s.excess(s.chosen), s.excess(s.chosen_at_end)
        other = f"{s.percentiles[s.chosen_at_end]:g}"
        rows.append([f"ours: {s.name}", f"{s.search.percentile:g}", *by_mean, other, *by_end])
    headings = [
        "network",
        "p by mean loss",
        "cost, last step",
        "cost, mean",
        "p by last step",
        "cost, last",
        "cost, mean",
    ]
    return Table("Percentile chosen on noise, and its cost in points on test images", headings, rows)


def report(s: Sweep) -> dict[str, Any]:
    """The numbers of one network, and whether the search does what the paper says."""
    at_end, mean = s.test_loss
    return {
        "network": s.name,
        "ann_accuracy": s.reference,
        "steps": int(s.accuracy.shape[1]),
        "percentiles": list(s.percentiles),
        "chosen": s.search.percentile,
        "chosen_by_last_step": s.percentiles[s.chosen_at_end],
        "noise_loss_last": s.noise_loss[0].tolist(),
        "noise_loss_mean": s.noise_loss[1].tolist(),
        "test_loss_last": at_end.tolist(),
        "test_loss_mean": mean.tolist(),
        "cost_last": s.excess(s.chosen)[0],
        "cost_mean": s.excess(s.chosen)[1],
        "is_close_last": s.excess(s.chosen)[0] <= CLOSE + 1e-9,
        "is_close_mean": s.excess(s.chosen)[1] <= CLOSE + 1e-9,
        "accuracy_over_time": np.round(s.accuracy, 6).tolist(),
        "noise_loss_over_time": np.round(s.search.loss, 6).tolist(),
    }


def loss_plot(s: Sweep) -> Draw:
    """Figure 1: loss on noise and on the test set over percentiles, shown by what they leave to 100."""
    places = list(map(float, range(len(s.percentiles))))
    named = zip(("noise, mean", "test, mean", "test, last step"), (s.noise_loss[1], *s.test_loss[::-1]), strict=True)
    return line_plot(
        {name: (places, (100 * values).tolist()) for name, values in named},
        title=f"{s.name}: conversion loss, {s.search.percentile:g} chosen (Mueller 2021b, Figure 1)",
        x_label="percentile",
        ticks=[f"{p:g}" for p in s.percentiles],
        y_label="loss in points",
    )


def main() -> int:
    """Exit code."""
    steps = load_recipe("noise-search").steps
    parser = make_parser("mueller_search", "Reproduces Mueller et al. 2021b, Figure 1.", samples=500, steps=steps)
    parser.add_argument("--nets", nargs="+", choices=list(DATA), default=list(DATA), help="networks [all]")
    return run_script(parser, work)


if __name__ == "__main__":
    raise SystemExit(main())
