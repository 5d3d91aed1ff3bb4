"""What the command line shows: progress while it runs, then tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from neuroport.chip.target import Target, load_target
from neuroport.datasheets import names, read_text
from neuroport.normalize.recipe import Recipe, load_recipe
from neuroport.terminal.mapping import mapping_lines
from neuroport.terminal.sources import show_sources
from neuroport.toolchains import status
from neuroport.validation.rounding import rounding_line
from neuroport.verbs.curve import Curve
from neuroport.verbs.deployment import Deployment

_QUIET_S = 10.0  # between two lines of progress


class _Console(Console):
    """Rich's own answer to a closed pipe is exit code 1, which means something else here."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command line."""
        raise BrokenPipeError


class _Speed(ProgressColumn):
    """Samples a second, once there are some."""

    def render(self, task: Task) -> Text:
        """The cell."""
        return Text(f"{task.speed:.3g} a second" if task.speed and task.total else "")


class TerminalProgress:
    """Stages and sample counts on standard error: a live line on a terminal, plain lines anywhere else."""

    def __init__(self) -> None:
        self.console = _Console(stderr=True)
        self.live = self.console.is_terminal
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), _Speed())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, *times, console=self.console, transient=True)
        self.task = self.bar.add_task("starting", total=None)
        self.began = self.said = time.monotonic()

    def __enter__(self) -> Self:
        """Start the live line."""
        if self.live:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live line away."""
        if self.live:
            self.bar.stop()

    def stage(self, text: str) -> None:
        """A new stage begins."""
        if self.live:
            self.bar.remove_task(self.task)
            self.task = self.bar.add_task(text, total=None)
        else:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.began = self.said = time.monotonic()

    def samples(self, n_done: int, n_total: int) -> None:
        """Samples finished on the backend; where nothing moves on the screen, a line now and then."""
        if self.live:
            self.bar.update(self.task, completed=n_done, total=n_total)
            return
        now = time.monotonic()
        if n_done and n_done < n_total and now - self.said >= _QUIET_S:
            self.said = now
            speed = n_done / (now - self.began)
            text = f"  {n_done:,} of {n_total:,} samples, {speed:.3g} a second, {(n_total - n_done) / speed:.0f} s left"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_deployment(result: Deployment) -> None:
    """The ladder, the layers, the exact comparison and the verdict."""
    console, report = _Console(), result.report
    ladder = Table(
        "rung", title=escape(f"{report['model']} on {report['target']} ({report['recipe']}, {report['steps']} steps)")
    )
    for heading in ("samples", "accuracy", "same class as the rung before"):
        ladder.add_column(heading, justify="right")
    for rung in result.rungs:
        agreement = "" if rung.agreement is None else f"{100 * rung.agreement:.2f} %"
        ladder.add_row(rung.name, str(rung.samples), f"{100 * rung.accuracy:.2f} %", agreement)
    console.print(ladder)
    layers = Table(Column("layer", overflow="fold"), "shape", title="layers")
    for heading in ("neurons", "synapses", "weight error", "spikes/step", "silent"):
        layers.add_column(heading, justify="right")
    for row in report["layers"]:
        layers.add_row(*_layer_cells(row, fires=row["name"] not in report["network"]["membrane_readouts"]))
    total, neuron = report["network"], report["neuron"]
    layers.add_row("all", "", f"{total['neurons']:,}", f"{total['synapses']:,}", "", "", "", style="bold")
    console.print(layers)
    show_blame(console, report["insight"])
    if neuron is not None:
        console.print(neuron_line(neuron), markup=False, highlight=False, soft_wrap=True)
    if total["compartments"] > total["neurons"]:
        text = f"{total['compartments']:,} compartments: a reset by subtraction takes two on {report['target']}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for line in mapping_lines(report["mapping"]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if len(report["outputs"]) > 1:
        console.print(_outputs_table(report["outputs"]))
    for warning in report["warnings"]:
        console.print(f"note: {warning}", markup=False, highlight=False, soft_wrap=True)
    c, mapped = result.comparison, result.mapped
    if mapped is not None:
        console.print(f"mapping: {mapped.summary}", markup=False, highlight=False, soft_wrap=True)
    if c is not None:
        console.print(
            f"exact comparison with {report['backend']['name']}: {c.samples} samples, {c.populations} populations, "
            f"{c.compared_spikes:,} spikes, {c.mismatches:,} mismatches",
            highlight=False,
            soft_wrap=True,
        )
    if result.bounded is not None:
        console.print(rounding_line(result.bounded), highlight=False, soft_wrap=True)
    verdict = _verdict(result)
    console.print(f"{verdict}; bundle and report.json in {result.out}", markup=False, highlight=False, soft_wrap=True)


def neuron_line(row: dict[str, Any]) -> str:
    """`neuron a: right most often on calibration samples (a 95.0 %, b: layer ... does not fit)`."""
    shares = [
        f"{t['neuron']} {100 * t['accuracy']:.1f} %" if t["accuracy"] is not None else f"{t['neuron']}: {t['problem']}"
        for t in row["tried"]
    ]
    return f"neuron {row['name']}: {row['reason']}" + (f" ({', '.join(shares)})" if shares else "")


def _verdict(result: Deployment) -> str:
    if not result.is_equal:
        return "DIFFERENT"
    if result.comparison is None:
        return "mapped; nothing ran"
    return "equal but for rounding, which explains every difference" if result.bounded else "every spike equal"


def _outputs_table(rows: list[dict[str, Any]]) -> Table:
    """Of a network with several outputs, how far each is from the ANN's on every rung."""
    table = Table("output", "shape", title="relative error of each output")
    for rung in rows[0]["error"]:
        table.add_column(rung, justify="right")
    for row in rows:
        errors = (f"{100 * error:.2f} %" for error in row["error"].values())
        table.add_row(escape(row["name"]), "x".join(map(str, row["shape"])), *errors)
    return table


def show_blame(console: Console, insight: Mapping[str, Any]) -> None:
    """What each layer costs, where that was measured, and numbers that rounding does not explain."""
    for name, phrases in insight["faults"].items():
        text = f"layer '{name}' is not what was rounded: {'; '.join(phrases)}"
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    if (found := insight.get("blame")) is None:
        return
    table = Table(Column("computed exactly", overflow="fold"), title=f"what layers cost, {found['samples']} samples")
    for heading in ("points regained", "rounding", "spiking", "clipping", "smaller error"):
        table.add_column(heading, justify="right")
    for row in found["layers"][:5]:
        causes = [f"{100 * of_one['accuracy']:+.1f}" for of_one in row["causes"].values()]
        points = f"{100 * row['regained']['accuracy']:+.1f} ± {100 * row['standard_error']:.1f}"
        table.add_row(escape(row["name"]), points, *causes, f"{row['regained']['error']:+.3f}")
    console.print(table)
    console.print(found["verdict"], markup=False, highlight=False, soft_wrap=True)


def _layer_cells(row: dict[str, Any], *, fires: bool) -> tuple[str, ...]:
    """Cells of one layer; the input currents of a driven layer are no synapses, a membrane readout does not fire."""
    return (
        escape(row["name"]),
        "x".join(map(str, row["shape"])),
        f"{row['neurons']:,}",
        f"{row['synapses']:,}" if row["synapses"] else "currents",
        f"{100 * row['weight_error']:.2f} %" if row["synapses"] else "",
        f"{row['mean_rate']:.3f}" if fires else "membrane",
        f"{100 * row['silent_fraction']:.0f} %" if fires else "",
    )


def show_curve(result: Curve) -> None:
    """Accuracy at the last step, and the latencies, of every recipe."""
    console, report = _Console(), result.report
    ann = report["ann_accuracy"]
    title = f"{report['model']} on {report['samples']:,} samples of {report['data']}: ANN {100 * ann:.2f} %"
    table = Table(Column("recipe", overflow="fold", min_width=12), "readout", title=escape(title))
    for heading in (f"accuracy at step {report['steps']}", "difference", "within 1 % from step", "0.5 % from step"):
        table.add_column(heading, justify="right")
    for row in report["recipes"]:
        last = row["accuracy"][-1]
        steps = ("never" if step is None else str(step) for step in row["latency_steps"].values())
        table.add_row(escape(row["name"]), row["readout"], f"{100 * last:.2f} %", f"{100 * (last - ann):+.2f}", *steps)
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"curves and numbers in {result.out}", markup=False, highlight=False, soft_wrap=True)


def show_recipes() -> None:
    """All recipes: which activation becomes a rate of 1, with which neurons, and what they are for."""
    table = Table(Column("recipe", no_wrap=True), Column("scale", no_wrap=True), "neuron", "what it is")
    for name in names("calibration"):
        recipe = load_recipe(name)
        table.add_row(name, _scale_words(recipe), _neuron_words(recipe), recipe.summary)
    _Console().print(table)


def show_recipe(name: str) -> None:
    """The recipe as it stands in its file, sources included, once it has been checked."""
    load_recipe(name)
    text = read_text("calibration", name).rstrip()
    _Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _scale_words(recipe: Recipe) -> str:
    """What the scale is taken from: `channel 99.9 %`, `layer weights`, `threshold 1`."""
    if recipe.scale == "none":
        return f"threshold {recipe.threshold:g}"
    if recipe.search is not None:
        return f"{recipe.granularity} search"
    return f"{recipe.granularity} {f'{recipe.percentile:g} %' if recipe.scale == 'activation' else recipe.scale}"


def _neuron_words(recipe: Recipe) -> str:
    """Reset, and what is not plain: `subtract, v_init 0.5, clamp 1, poisson`."""
    words: list[str] = [recipe.reset]
    words += [f"v_init {recipe.v_init:g}"] if recipe.v_init else []
    words += [f"leak {recipe.leak:g}"] if recipe.leak != 1 else []
    words += [f"clamp {recipe.clamp:g}"] if recipe.clamp else []
    words += [recipe.input] if recipe.input != "current" else []
    words += [recipe.readout] if recipe.readout != "membrane" else []
    return ", ".join(words)


def show_targets() -> None:
    """All targets with their backends and the state of their toolchains."""
    table = Table("target", "what it is", "backends", "toolchain")
    for name in names("targets"):
        target = load_target(name)
        table.add_row(name, target.summary, ", ".join(target.backends), _toolchain_state(target))
    _Console().print(table)


def show_target(name: str) -> None:
    """A datasheet with the source of each number as tables, or as its file has it, and its toolchain."""
    target = load_target(name)
    console = _Console()
    if target.sources:
        show_sources(target)
    else:
        console.print(read_text("targets", name).rstrip(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\ntoolchain: {_toolchain_state(target)}", markup=False, highlight=False, soft_wrap=True)


def _toolchain_state(target: Target) -> str:
    if target.toolchain is None:
        return "none needed"
    found = status(target.toolchain.spec)
    detail = f" ({found.detail})" if found.state == "broken" else ""
    hint = "; made on first use" if found.state == "not installed" else ""
    return f"{target.toolchain.name}: {found.state}{detail}{hint}"
