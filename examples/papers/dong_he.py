"""Tables 1 and 2 and Figs. 3 and 4 of Dong & He, "Replication of ... Weight and Threshold Balancing" (Diehl 2015).

    python dong_he.py --data FOLDER [--models FOLDER]

An MLP 784-1200-1200-10 and a CNN 12c5-2s-64c5-2s-10, ReLU, no biases, average pools, on MNIST and Fashion-MNIST,
converted by direct copy (two thresholds), model-based and data-based normalization; neurons reset to zero. FOLDER holds
mnist.npz and fashion_mnist.npz. Networks (mlp_mnist.pt2, cnn_mnist.pt2, mlp_fashion_mnist.pt2, cnn_fashion_mnist.pt2)
that are not in --models are trained, and kept beside --out for the next run.

Two setups are measured, as the report and its code differ from the paper they replicate:

    current   what Dong & He ran, as the recipes do: constant current, pools without neurons, outputs that accumulate
    poisson   what Diehl 2015 describes: Poisson spikes, spiking pools, output spikes counted

Source: papers as above; accuracy over time from the authors' result.json (github.com/hehao98/SNN-Balancing), whose
main.py also shows the setup: the image is fed at every step, IFNode stands behind hidden layers only. The same code
measures the ANNs of table 1 with dropout active, which is why its SNNs are the better ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import (
    Cell,
    Draw,
    Measured,
    Result,
    Table,
    accuracy_plot,
    ann_accuracy,
    calibration_images,
    find_model,
    latency,
    load_data,
    make_parser,
    measure,
    positive,
    require_folders,
    run_script,
    test_images,
)
from torch import Tensor, nn

from neuroport.ann.load import LoadedAnn, load_ann
from neuroport.data import Dataset
from neuroport.normalize.recipe import Recipe, load_recipe
from neuroport.progress import Progress
from neuroport.verbs.loading import take_samples

DATASETS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
NETWORKS = {"mlp": "MLP", "cnn": "CNN"}
SETUPS: dict[str, dict[str, str]] = {  # what differs from the recipes
    "current": {},
    "poisson": {"input": "poisson", "pool": "spiking", "readout": "count"},
}
TUNED = {"mlp": 4.0, "cnn": 20.0}  # thresholds of the direct copy, table 2
NEAR = 0.002  # of accuracy
EARLY = (30, 100)  # steps: the text says that data-based converges before 30 (MNIST) and 100 (Fashion-MNIST CNN)
BATCH_SIZE, LEARNING_RATE = 100, 2e-3

PAPER_ANN = {  # table 1: train, test
    ("mnist", "mlp"): (0.9981, 0.9791),
    ("mnist", "cnn"): (0.9979, 0.9893),
    ("fashion_mnist", "mlp"): (0.9344, 0.8810),
    ("fashion_mnist", "cnn"): (0.9269, 0.8950),
}


@dataclass(frozen=True)
class Printed:
    """What the paper prints of one conversion.

    final: accuracy after 10,000 steps (table 2). Of figs. 3 and 4, from the authors' result.json: accuracy after 30 and
    100 steps, and the first step from which it stays within 0.2 points of its last value.
    """

    final: float
    at_30: float | None = None
    at_100: float | None = None
    near: int | None = None


PAPER_SNN = {  # (data, network): direct copy at 1, tuned, model-based, data-based
    ("mnist", "mlp"): (
        Printed(0.9864),
        Printed(0.9868, 0.9832, 0.9863, 36),
        Printed(0.9865, 0.0980, 0.0980, 1863),
        Printed(0.9866, 0.9863, 0.9867, 19),
    ),
    ("mnist", "cnn"): (
        Printed(0.9887),
        Printed(0.9911, 0.0980, 0.7789, 384),
        Printed(0.9910, 0.4587, 0.9877, 155),
        Printed(0.9910, 0.9900, 0.9906, 27),
    ),
    ("fashion_mnist", "mlp"): (
        Printed(0.8975),
        Printed(0.9000, 0.8355, 0.8976, 162),
        Printed(0.8969, 0.1000, 0.1000, 7905),
        Printed(0.8985, 0.8581, 0.8986, 85),
    ),
    ("fashion_mnist", "cnn"): (
        Printed(0.8933),
        Printed(0.9018, 0.1000, 0.2064, 2043),
        Printed(0.9015, 0.1000, 0.2811, 3563),
        Printed(0.9020, 0.8680, 0.9006, 105),
    ),
}


class Mlp(nn.Module):
    """784-1200-1200-10 (section 4): scores [N, 10] of images [N, 1, 28, 28]."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (784, 1200, 1200, 10)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images."""
        x = torch.flatten(x, 1)
        for layer in list(self.layers)[:-1]:
            x = self.dropout(torch.relu(layer(x)))
        scores: Tensor = self.layers[-1](x)
        return scores


class Cnn(nn.Module):
    """28x28-12c5-2s-64c5-2s-10 (section 4): scores [N, 10] of images [N, 1, 28, 28]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 5, bias=False)
        self.conv2 = nn.Conv2d(12, 64, 5, bias=False)
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(0.1)
        self.linear = nn.Linear(1024, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images."""
        x = self.dropout(self.pool(torch.relu(self.conv1(x))))
        x = self.dropout(self.pool(torch.relu(self.conv2(x))))
        scores: Tensor = self.linear(torch.flatten(x, 1))
        return scores


def train(kind: str, dataset: Dataset, n_epochs: int, seed: int, progress: Progress) -> nn.Module:
    """A trained network in eval mode, from all training images; Adam, one learning rate cycle."""
    torch.manual_seed(seed)
    model = Mlp() if kind == "mlp" else Cnn()
    index = np.arange(len(dataset.train))
    x = torch.from_numpy(dataset.images("train", index, (1, 28, 28)))
    y = torch.from_numpy(dataset.train.labels)
    n_batches = n_epochs * -(-len(x) // BATCH_SIZE)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=n_batches)
    model.train()
    done = 0
    for _ in range(n_epochs):
        for chosen in torch.split(torch.randperm(len(x)), BATCH_SIZE):
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            done += 1
            progress.samples(done, n_batches)
    return model.eval()


def save(model: nn.Module, path: Path) -> None:
    """Write the network as .pt2, whole or not at all."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    program = torch.export.export(model, (torch.zeros(2, 1, 28, 28),), dynamic_shapes=({0: batch},))
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder, path.name)
        torch.export.save(program, whole)
        whole.replace(path)


def network(args: argparse.Namespace, data: str, kind: str, dataset: Dataset, progress: Progress) -> LoadedAnn:
    """The given network, the one trained in an earlier run, or one trained now."""
    name = f"{kind}_{data}"
    kept = args.out.with_name(f"{args.out.name}-networks") / f"{name}-{args.epochs}-epochs-seed-{args.seed}.pt2"
    given = None if args.train else find_model(args, name)
    if given is None and not kept.is_file():
        progress.stage(f"training {name}: {args.epochs} epochs, batches of {BATCH_SIZE}")
        save(train(kind, dataset, args.epochs, args.seed, progress), kept)
    return load_ann(given or kept)


def recipes(kind: str, setup: str) -> Iterator[tuple[str, Recipe]]:
    """The four conversions of table 2, in its order."""
    changes = SETUPS[setup]
    for threshold in (1.0, TUNED[kind]):
        recipe = load_recipe("direct-copy").model_copy(update={**changes, "threshold": threshold})
        yield f"direct copy, threshold {threshold:g}", recipe
    yield "model-based", load_recipe("model-based").model_copy(update=changes)
    yield "data-based", load_recipe("data-based").model_copy(update=changes)


def work(args: argparse.Namespace, progress: Progress) -> Result:
    """All chosen data sets, networks and setups."""
    require_folders(args)
    rows: list[dict[str, Any]] = []
    plots: dict[str, Draw] = {}
    anns: list[list[Cell]] = []
    for data in args.datasets:
        dataset = load_data(args, data)
        for kind in args.networks:
            ann = network(args, data, kind, dataset, progress)
            tests, calibration = test_images(args, ann, dataset), calibration_images(args, ann, dataset)
            trained = take_samples(ann, dataset, "train", args.samples or None, seed=args.seed, n_steps=1)
            progress.stage(f"{kind}_{data}: ANN")
            reference = ann_accuracy(ann, tests)
            name = f"{DATASETS[data]} {NETWORKS[kind]}"
            anns.append([name, *PAPER_ANN[data, kind], ann_accuracy(ann, trained), reference])
            for setup in args.setups:
                curves = {}
                for k, (method, recipe) in enumerate(recipes(kind, setup)):
                    n_steps = args.slow_steps if method == "model-based" else args.steps
                    label = f"{kind}_{data}, {setup}, {method}"
                    found = measure(
                        ann, calibration, tests, recipe, n_steps, seed=args.seed, progress=progress, label=label
                    )
                    curves[method] = found.accuracy
                    rows.append(_row(data, kind, setup, method, PAPER_SNN[data, kind][k], found, reference))
                title = f"{name}, {setup}, {len(tests):,} images"
                plots[f"{data}-{kind}-{setup}.png"] = accuracy_plot(curves, reference=reference, title=title)
    numbers = {"ann": [dict(zip(_ANN_HEADINGS, row, strict=True)) for row in anns], "snn": rows}
    return Result(_tables(args, anns, rows), numbers, plots)


def _row(
    data: str, kind: str, setup: str, method: str, paper: Printed, found: Measured, reference: float
) -> dict[str, Any]:
    return {
        "data": data,
        "network": kind,
        "setup": setup,
        "method": method,
        "paper_accuracy": paper.final,
        "paper_at_30": paper.at_30,
        "paper_at_100": paper.at_100,
        "paper_near": paper.near,
        "ann_accuracy": reference,
        "steps": len(found.accuracy),
        "final": float(found.accuracy[-1]),
        "near": latency(found.accuracy, reference, NEAR),
        "seconds": found.seconds,
        "accuracy": {readout: values.tolist() for readout, values in found.by_readout.items()},
    }


_ANN_HEADINGS = ("network", "paper: train", "paper: test", "ours: train", "ours: test")


def _tables(args: argparse.Namespace, anns: list[list[Cell]], rows: list[dict[str, Any]]) -> list[Table]:
    number = f"{args.samples:,}" if args.samples else "all"
    steps = f"{args.steps:,}, model-based {args.slow_steps:,}"
    names = [f"ours: {setup}" for setup in args.setups]
    final = Table(
        f"Table 2: accuracy of the SNNs in percent (paper: 10,000 steps; ours: {steps}; {number} images)",
        ["network", "conversion", "paper", *names, "ours: ANN"],
        [[*_head(c[0]), c[0]["paper_accuracy"], *(r["final"] for r in c), c[0]["ann_accuracy"]] for c in _cases(rows)],
    )
    early = [f"{who} {t}" for t in EARLY for who in ("paper", *args.setups)]
    over_time = Table(
        f"Figs. 3 and 4: accuracy in percent at steps {EARLY[0]} and {EARLY[1]}",
        ["network", "conversion", *early],
        [[*_head(c[0]), *_early_cells(c, 0), *_early_cells(c, 1)] for c in _cases(rows)],
    )
    near = Table(
        "Figs. 3 and 4: step from which it stays within 0.2 points (paper: of its last value; ours: of the ANN)",
        ["network", "conversion", "paper", *names],
        [[*_head(c[0]), c[0]["paper_near"], *(r["near"] or "never" for r in c)] for c in _cases(rows)],
    )
    first = Table(f"Table 1: accuracy of the ANNs in percent ({number} images)", _ANN_HEADINGS, anns)
    return [first, final, over_time, near]


def _cases(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of one network and conversion, one for each setup."""
    cases: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault((row["data"], row["network"], row["method"]), []).append(row)
    return list(cases.values())


def _head(row: dict[str, Any]) -> list[Cell]:
    return [f"{DATASETS[row['data']]} {NETWORKS[row['network']]}", row["method"]]


def _early_cells(case: list[dict[str, Any]], k: int) -> list[Cell]:
    """Accuracy at the k-th of the EARLY steps: the paper's, and of each setup."""
    curves = [next(iter(row["accuracy"].values())) for row in case]
    ours = [curve[EARLY[k] - 1] if len(curve) >= EARLY[k] else None for curve in curves]
    return [case[0][f"paper_at_{EARLY[k]}"], *ours]


def main() -> int:
    """Exit code 0 with the results in --out."""
    parser = make_parser("dong_he", "Dong & He's replication of Diehl 2015, tables 1-2.", samples=1000, steps=200)
    parser.add_argument("--slow-steps", type=positive, default=1000, help="of model-based [%(default)s]")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS), help="[both]")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="[both]")
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=list(SETUPS), help="see the file's head [both]")
    parser.add_argument("--train", action="store_true", help="train all networks, whatever --models holds")
    parser.add_argument("--epochs", type=positive, default=10, help="of training [%(default)s]")
    return run_script(parser, work)


if __name__ == "__main__":
    raise SystemExit(main())
