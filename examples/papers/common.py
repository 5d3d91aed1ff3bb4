"""What the scripts of this folder share: arguments, data, one measured recipe, tables, and results written whole.

A script is `raise SystemExit(run_script(make_parser(...), work))`. `work(args, progress)` measures and returns a
Result; its tables are printed, and written to --out together with result.json and the plots when all is done.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from neuroport.ann.load import LoadedAnn, load_ann
from neuroport.bundle import check_place, staged_bundle
from neuroport.data import Dataset, load_npz
from neuroport.errors import DataError, ModelFileError, NeuroportError, UsageError
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import Recipe
from neuroport.progress import Progress
from neuroport.snn.over_time import accuracy_over_time, first_step_within
from neuroport.terminal.progress import TerminalProgress
from neuroport.validation.outputs import TestSet
from neuroport.validation.report import versions, write_report
from neuroport.verbs.loading import CALIBRATION_SAMPLES, check_labels, take_samples
from neuroport.verbs.plot import HOW_TO_GET, draw_curves

SCHEMA = "neuroport-paper/1"
TOLERANCE = 0.01  # of accuracy below the ANN's: the band of accuracy plots, and where their dots stand
_GREY = "#666666"
_WIDTH = 120  # of tables that are not printed on a terminal

Cell = str | float | int | None  # a float is a fraction and is shown in percent; None is shown as a dash
Draw = Callable[[Path], bool]  # draws a PNG to a path; False where matplotlib is missing
Curves = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Table:
    """A table to print and to write as Markdown; name the columns `paper: ...` and `ours: ...`."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def show(self) -> None:
        """Print it to standard output."""
        table = RichTable(title=escape(self.title), title_justify="left")
        for k, heading in enumerate(self.headings):
            is_number = all(not isinstance(row[k], str) for row in self.rows)
            table.add_column(escape(heading), justify="right" if is_number else "left")
        for row in self.rows:
            table.add_row(*(escape(cell_text(cell)) for cell in row))
        console = Console()
        Console(width=console.width if console.is_terminal else max(console.width, _WIDTH)).print(table)

    def markdown(self) -> str:
        """The same for a README."""
        lines = [list(self.headings), ["---"] * len(self.headings), *([cell_text(c) for c in row] for row in self.rows)]
        return f"{self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True)
class Result:
    """What a script found. numbers: goes into result.json as it is; plots: by file name, `....png`."""

    tables: Sequence[Table]
    numbers: Mapping[str, Any]
    plots: Mapping[str, Draw] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Measured:
    """Accuracy [T] after every step by readout, the recipe's own first, and the seconds of conversion and simulation.

    percentile: the recipe's, or what its search found.
    """

    by_readout: Curves
    percentile: float
    seconds: float

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """By the recipe's own readout."""
        return next(iter(self.by_readout.values()))


def cell_text(cell: Cell) -> str:
    """A cell as it is shown: 0.9866 as 98.66."""
    if cell is None:
        return "-"
    return f"{100 * cell:.2f}" if isinstance(cell, float) else str(cell)


def make_parser(script: str, description: str, *, samples: int, steps: int | None = None) -> argparse.ArgumentParser:
    """Arguments that all scripts have. script: its name without .py; samples, steps: defaults, no --steps if None."""
    parser = argparse.ArgumentParser(prog=f"{script}.py", description=description)
    parser.set_defaults(script=script)
    parser.add_argument(
        "--data", type=Path, help="folder with the .npz data sets, or one such file [variable NEUROPORT_DATA]"
    )
    parser.add_argument("--models", type=Path, help="folder with trained networks, .pt2 [variable NEUROPORT_MODELS]")
    parser.add_argument("--samples", type=whole_number, default=samples, help="test images, 0 for all [%(default)s]")
    if steps is not None:
        parser.add_argument("--steps", type=positive, default=steps, help="simulated per image [%(default)s]")
    parser.add_argument(
        "--calibration",
        type=positive,
        default=CALIBRATION_SAMPLES,
        help="training images to calibrate on [%(default)s]",
    )
    parser.add_argument("--seed", type=whole_number, default=0, help="chooses images, draws spikes [%(default)s]")
    parser.add_argument(
        "--threads", type=positive, default=1, help="of torch; more help large networks on free cores [%(default)s]"
    )
    parser.add_argument("--out", type=Path, help=f"folder of the results [neuroport-out/papers/{script}]")
    return parser


def whole_number(text: str) -> int:
    """An integer of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def positive(text: str) -> int:
    """An integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def run_script(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, Progress], Result],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, work, print the tables, write --out; the exit code: 2 wrong use, 3 not convertible, 130 interrupted."""
    args = parser.parse_args(argv)
    args.out = args.out or Path("neuroport-out", "papers", args.script)
    torch.set_num_threads(args.threads)

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
    started = time.perf_counter()
    try:
        check_place(args.out)
        with TerminalProgress() as progress:
            result = work(args, progress)
        for table in result.tables:
            table.show()
        notes = _write(args, result, time.perf_counter() - started)
    except NeuroportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; no result was written", file=sys.stderr)
        return 130
    for note in notes:
        print(f"note: {note}")
    print(f"tables, numbers and plots in {args.out}")
    return 0


def _write(args: argparse.Namespace, result: Result, seconds: float) -> list[str]:
    """tables.md, result.json and the plots, all or none; what could not be drawn."""
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    places = {"data", "models", "out"}  # of this machine
    report = {
        "schema": SCHEMA,
        "script": args.script,
        "options": {key: value for key, value in options.items() if key not in places},
        "seconds": round(seconds, 1),
        **result.numbers,
        "versions": versions(),
    }
    missing = []
    with staged_bundle(args.out) as stage:
        (stage / "tables.md").write_text("\n".join(t.markdown() for t in result.tables), encoding="utf-8")
        write_report(stage / "result.json", report)
        missing = [name for name, draw in result.plots.items() if not draw(stage / name)]
    return [f"{', '.join(missing)} not drawn: {HOW_TO_GET}"] if missing else []


def load_data(args: argparse.Namespace, name: str) -> Dataset:
    """The data set `name`: NAME.npz in the folder given by --data or NEUROPORT_DATA, or the file itself.

    uint8 images become float32 in [0, 1]. Raises: DataError, UsageError.
    """
    place = _place(args.data, "NEUROPORT_DATA")
    if place is None:
        raise UsageError(f"no data: give --data (or the variable NEUROPORT_DATA) a folder with {name}.npz, or the file")
    path = place / f"{name}.npz" if place.is_dir() else place
    if not path.is_file():
        raise DataError(
            f"data file '{path}' does not exist; {name}.npz with x_train, y_train, x_test, y_test is read; "
            f"give --data its folder, or the file"
        )
    return load_npz(path, seed=args.seed)


def find_model(args: argparse.Namespace, name: str) -> Path | None:
    """NAME.pt2 in the folder given by --models or NEUROPORT_MODELS, or that file; None if it is not there."""
    place = _place(args.models, "NEUROPORT_MODELS")
    if place is None:
        return None
    path = place / f"{name}.pt2" if place.is_dir() else place
    return path if path.is_file() else None


def load_model(args: argparse.Namespace, name: str) -> LoadedAnn:
    """The trained network `name` (see find_model). Raises: UsageError, ModelFileError."""
    path = find_model(args, name)
    if path is not None:
        return load_ann(path)
    place = _place(args.models, "NEUROPORT_MODELS")
    if place is None:
        raise UsageError(f"no network: give --models (or the variable NEUROPORT_MODELS) a folder with {name}.pt2")
    raise ModelFileError(f"model '{name}.pt2' is not in '{place}'; give --models its folder, or the file")


def require_folders(args: argparse.Namespace) -> None:
    """For scripts that read several files: refuse a single file. Raises: UsageError."""
    places = {"--data": _place(args.data, "NEUROPORT_DATA"), "--models": _place(args.models, "NEUROPORT_MODELS")}
    for flag, place in places.items():
        if place is not None and not place.is_dir():
            raise UsageError(f"{flag} '{place}' is no folder; several files are read here, give the folder they are in")


def _place(argument: Path | None, variable: str) -> Path | None:
    if argument is not None:
        return argument
    found = os.environ.get(variable)
    return Path(found) if found else None


def test_images(args: argparse.Namespace, ann: LoadedAnn, dataset: Dataset) -> TestSet:
    """--samples test images float32 [N, C, H, W] as the network reads them, with labels: a seeded choice."""
    tests = take_samples(ann, dataset, "test", args.samples or None, seed=args.seed, n_steps=1)
    check_labels(tests.labels, ann)
    return tests


def calibration_images(args: argparse.Namespace, ann: LoadedAnn, dataset: Dataset) -> NDArray[np.float32]:
    """--calibration training images, [N, C, H, W]."""
    return take_samples(ann, dataset, "train", args.calibration, seed=args.seed, n_steps=1).images


def ann_accuracy(ann: LoadedAnn, tests: TestSet, batch: int = 500) -> float:
    """Fraction of the test images that the trained network itself gets right."""
    with torch.no_grad():
        starts = range(0, len(tests), batch)
        predicted = [ann.run_framework(tests.images[k : k + batch]).argmax(1) for k in starts]
    return float((np.concatenate(predicted) == tests.labels).mean())


def measure(
    ann: LoadedAnn,
    calibration: NDArray[np.float32],
    tests: TestSet,
    recipe: Recipe,
    n_steps: int,
    *,
    seed: int,
    progress: Progress,
    label: str = "",
) -> Measured:
    """Convert with a recipe and simulate the test images: accuracy after every step, by readout."""
    started = time.perf_counter()
    progress.stage(f"{label or recipe.name}: {len(tests):,} images, {n_steps:,} steps")
    normalized = convert(ann.graph, calibration, recipe, n_steps, seed=seed)
    found = accuracy_over_time(
        normalized.network,
        tests.images,
        tests.labels,
        n_steps,
        seed=seed,
        on_samples=lambda n_done: progress.samples(n_done, len(tests)),
    )
    return Measured(found, normalized.percentile, round(time.perf_counter() - started, 2))


def latency(accuracy: NDArray[np.float64], reference: float, tolerance: float = TOLERANCE) -> int | None:
    """First step, counted from 1, from which accuracy stays within the tolerance of the reference to the end."""
    return first_step_within(accuracy, reference, tolerance)


def accuracy_plot(curves: Curves, *, reference: float, title: str) -> Draw:
    """Accuracy over steps beside the ANN's, as `neuroport curve` draws it."""
    marks = {name: latency(values, reference) for name, values in curves.items()}
    return lambda path: draw_curves(path, curves, marks, reference=reference, tolerance=TOLERANCE, title=title)


def line_plot(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    references: Mapping[str, float] | None = None,
    log_x: bool = False,
    ticks: Sequence[str] = (),
) -> Draw:
    """Lines with dots, (x, y) by name, for any other figure.

    references: horizontal lines by name; ticks: words below x = 0, 1, 2, ...
    """

    def draw(path: Path) -> bool:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return False
        figure = Figure(figsize=(8.0, 5.0), dpi=160, layout="constrained")
        axes = figure.subplots()
        for name, (x, y) in lines.items():
            axes.plot(x, y, marker="o", markersize=4, linewidth=1.6, label=name)
        for name, height in (references or {}).items():
            axes.axhline(height, color=_GREY, linewidth=1, label=name)
        if log_x:
            axes.set_xscale("log")
        if ticks:
            axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(color=_GREY, alpha=0.2, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, bbox_to_anchor=(1.01, 1.0), loc="upper left")
        figure.savefig(path, metadata={"Software": None})
        return True

    return draw
