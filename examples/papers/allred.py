"""Allred & Roy 2021, "L4-Norm Weight Adjustments": leaky and hard-reset networks with Poisson input on CIFAR-10.

    python allred.py --data DIR --models DIR

reads cifar10.npz and rueckauer_cifar10.pt2, or with --net another network that takes pixels in [0, 1]. As in the paper:
75 steps (250 for ResNet-20); soft and hard reset; several leak factors per step, 1 for none; the output accumulates.
For every leak and reset one factor on all thresholds is chosen, and with the adjustment its smoothing alpha too, on
training images (sections 4.3 and 5); then both networks see the test images. The sweep of thresholds is the same for
both. Pixels come as signed spikes of 2 x - 1, the network begins with (s + 1) / 2: spikes of x itself have twice the
deviation, with which no network reads CIFAR-10 in 75 steps, not even an ANN that sees their mean.

The paper gives its accuracies in figures (6 and 7). In the text stand those of VGG-5 with soft reset and without leak:
ANN 89.32 %, baseline 86.05 %, adjusted 1.13 points more; that the gain grows with the leak; and that ResNet-20 (ANN
92.79 %) gains with fast leak and with hard reset only. Its networks have neither biases nor batch norm, ours have both:
other thresholds leave a layer's biases in proportion to its weights, but not to the spikes that then arrive. The leak
factors and the range of the sweep are ours. --seed (0; in result.json) chooses images and draws spikes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from common import (
    Cell,
    Draw,
    Result,
    Table,
    ann_accuracy,
    calibration_images,
    find_model,
    line_plot,
    load_data,
    load_model,
    make_parser,
    positive,
    run_script,
    test_images,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroport import convert, load_ann, load_recipe, simulate
from neuroport.ann.load import LoadedAnn, read_exported
from neuroport.data import Scaling
from neuroport.normalize.channels import with_gain
from neuroport.normalize.l4 import adjusted
from neuroport.progress import Progress
from neuroport.snn.network import Neuron, SpikingNetwork
from neuroport.validation.outputs import TestSet
from neuroport.verbs.loading import take_samples

Reset = Literal["subtract", "zero"]
RESETS: Mapping[Reset, str] = {"subtract": "soft", "zero": "hard"}
NETS = ("rueckauer_cifar10", "resnet20_cifar10", "resnet18half_cifar10")
LEAKS = (1.0, 0.98, 0.95, 0.9, 0.8)
THRESHOLDS = (1.2, 1.0, 0.8, 0.6, 0.4)
ALPHAS = (0.1, 0.3, 1.0)
PROFILED = 128  # training images of the one batch over which mean potentials are taken
PAPER = {"ann": 0.8932, "baseline": 0.8605, "gain": 0.0113}  # VGG-5, soft reset, no leak, 75 steps
SIMULATED = 50  # images at a time


class Signed(nn.Module):
    """A network that takes pixels in [0, 1], for inputs in [-1, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images."""
        scores: Tensor = self.network((x + 1) / 2)
        return scores


@dataclass(frozen=True)
class Case:
    """One leak and reset: what the tuning chose for a network, and its accuracy on tuning and test images."""

    reset: Reset
    leak: float
    alpha: float | None
    threshold: float
    tuned: float
    accuracy: float


def work(args: argparse.Namespace, progress: Progress) -> Result:
    """Baseline and adjusted network at every leak and reset."""
    dataset = load_data(args, "cifar10")
    dataset = replace(dataset, scaling=Scaling(dataset.scaling.factor, (0.5,), (0.5,)))
    progress.stage(f"{args.net}: reading, ANN")
    ann = signed_network(args)
    tests, calibration = test_images(args, ann, dataset), calibration_images(args, ann, dataset)
    drawn = take_samples(ann, dataset, "train", args.calibration + args.tuning, seed=args.seed, n_steps=1)
    tuning = TestSet(drawn.images[args.calibration :], drawn.labels[args.calibration :])
    reference = ann_accuracy(ann, tests)
    cases: list[tuple[Case, Case]] = []
    for reset, leak in product(args.resets, args.leaks):
        progress.stage(f"{RESETS[reset]} reset, leak {leak:g}: {len(tuning):,} and {len(tests):,} images")
        made = networks(args, ann, calibration, reset)
        baseline = best(args, {None: made.pop(None)}, reset, leak, tuning, tests)
        changed = best(args, made, reset, leak, tuning, tests)
        progress.stage(f"accuracy {baseline.accuracy:.4f} before the adjustment, {changed.accuracy:.4f} after it")
        cases.append((baseline, changed))
    numbers = {
        "paper": "Allred & Roy 2021, L4-Norm Weight Adjustments for Converted Spiking Neural Networks",
        "network": args.net,
        "ann_accuracy": reference,
        "cases": [{"baseline": asdict(a), "adjusted": asdict(b), "gain": b.accuracy - a.accuracy} for a, b in cases],
    }
    return Result([table(args, cases, reference)], numbers, {"accuracy.png": plot(args, cases, reference)})


def signed_network(args: argparse.Namespace) -> LoadedAnn:
    """The trained network, for inputs in [-1, 1]."""
    plain = load_model(args, args.net)
    path = find_model(args, args.net)
    if path is None:
        return plain
    return load_ann(Signed(read_exported(path).module()), examples=[torch.zeros(2, *plain.input_shape)])


def networks(
    args: argparse.Namespace, ann: LoadedAnn, calibration: NDArray[np.float32], reset: Reset
) -> dict[float | None, SpikingNetwork]:
    """The baseline (None), and the networks with adjusted first layers by alpha; thresholds of 1, no leak yet."""
    recipe = load_recipe("l4").model_copy(update={"corrections": (), "reset": reset})
    base = convert(ann.graph, calibration, recipe, args.steps, seed=args.seed).network
    return {None: base, **{alpha: adjusted(base, calibration[:PROFILED], alpha) for alpha in args.alphas}}


def with_leak_and_threshold(network: SpikingNetwork, leak: float, threshold: float) -> SpikingNetwork:
    """The network whose neurons leak, and fire at so many times their threshold; the output neither leaks nor fires.

    A threshold of 1 is part of a population's units, so it is everything that arrives that is divided: the neuron
    fires at the same steps.
    """
    chosen = [p.name for p in network.populations if p.role == "hidden" and isinstance(p.neuron, Neuron)]
    for name in chosen:
        p = network.by_name[name]
        network = with_gain(network, p, np.full(p.shape[0], 1.0 / threshold))
    populations = tuple(
        replace(p, neuron=replace(p.neuron, leak=leak)) if p.name in chosen and isinstance(p.neuron, Neuron) else p
        for p in network.populations
    )
    return replace(network, populations=populations)


def best(
    args: argparse.Namespace,
    made: Mapping[float | None, SpikingNetwork],
    reset: Reset,
    leak: float,
    tuning: TestSet,
    tests: TestSet,
) -> Case:
    """The network and threshold that do best on the tuning images (of equals the first), and how the tests go."""
    tried = {
        (alpha, threshold): accuracy(with_leak_and_threshold(net, leak, threshold), tuning, args.steps)
        for (alpha, net), threshold in product(made.items(), args.thresholds)
    }
    alpha, threshold = max(tried, key=lambda chosen: tried[chosen])
    found = accuracy(with_leak_and_threshold(made[alpha], leak, threshold), tests, args.steps)
    return Case(reset, leak, alpha, threshold, tried[alpha, threshold], found)


def accuracy(network: SpikingNetwork, tests: TestSet, n_steps: int) -> float:
    """Fraction that is right after the last step, by the potentials of the output."""
    n_correct = 0
    for start in range(0, len(tests), SIMULATED):
        part = slice(start, start + SIMULATED)
        n_correct += int((simulate(network, tests.images[part], n_steps).readout.argmax(1) == tests.labels[part]).sum())
    return n_correct / len(tests)


def table(args: argparse.Namespace, cases: Sequence[tuple[Case, Case]], reference: float) -> Table:
    """Figure 6 or 7 in numbers."""
    rows: list[list[Cell]] = []
    for base, changed in cases:
        theirs: list[Cell] = [None, None]
        if base.reset == "subtract" and base.leak == 1:
            theirs = [PAPER["baseline"], f"{100 * PAPER['gain']:+.2f}"]
        gain = f"{100 * (changed.accuracy - base.accuracy):+.2f}"
        chosen = f"{base.threshold:g}; {changed.threshold:g}, {changed.alpha:g}"
        rows.append([RESETS[base.reset], f"{base.leak:g}", *theirs, base.accuracy, changed.accuracy, gain, chosen])
    headings = [
        "reset",
        "leak",
        "paper: VGG-5 baseline",
        "paper: gain",
        "ours: baseline",
        "ours: adjusted",
        "ours: gain",
    ]
    title = f"{args.net}, {args.steps} steps, ANN {100 * reference:.2f} % (paper: VGG-5 {100 * PAPER['ann']:.2f} %)"
    return Table(title, [*headings, "chosen (threshold; threshold, alpha)"], rows)


def plot(args: argparse.Namespace, cases: Sequence[tuple[Case, Case]], reference: float) -> Draw:
    """Figure 6 or 7."""
    lines = {}
    for reset, k in product(args.resets, (0, 1)):
        chosen = [pair[k] for pair in cases if pair[k].reset == reset]
        name = f"{RESETS[reset]} reset, {('baseline', 'L4-adjusted')[k]}"
        lines[name] = ([1 - c.leak for c in chosen], [100 * c.accuracy for c in chosen])
    title = f"{args.net}, {args.steps} steps (Allred & Roy 2021, Figures 6 and 7)"
    return line_plot(
        lines,
        title=title,
        x_label="1 - leak factor per step",
        y_label="accuracy in %",
        references={"ANN": 100 * reference},
    )


def main() -> int:
    """Exit code."""
    parser = make_parser("allred", "Reproduces Allred & Roy 2021, Figures 6 and 7.", samples=300, steps=75)
    parser.add_argument("--net", choices=NETS, default=NETS[0], help="[%(default)s]")
    parser.add_argument("--tuning", type=positive, default=100, help="training images of the sweeps [%(default)s]")
    parser.add_argument("--resets", nargs="+", choices=get_args(Reset), default=list(RESETS), help="[both]")
    for name, values in (("leaks", LEAKS), ("thresholds", THRESHOLDS), ("alphas", ALPHAS)):
        shown = " ".join(f"{x:g}" for x in values)
        parser.add_argument(f"--{name}", nargs="+", type=float, default=values, help=f"[{shown}]")
    return run_script(parser, work)


if __name__ == "__main__":
    raise SystemExit(main())
