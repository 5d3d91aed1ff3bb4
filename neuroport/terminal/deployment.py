"""What a deployment gave: the ladder, the layers, the exact comparison, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from neuroport.terminal.console import PipedConsole, open_console
from neuroport.terminal.mapping import mapping_lines
from neuroport.validation.rounding import rounding_line

if TYPE_CHECKING:
    from neuroport.verbs.deployment import Deployment


def show_deployment(result: Deployment) -> None:
    """The ladder, the layers, the exact comparison and the verdict."""
    console, report = open_console(), result.report
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
        console.say(neuron_line(neuron))
    if total["compartments"] > total["neurons"]:
        text = f"{total['compartments']:,} compartments: a reset by subtraction takes two on {report['target']}"
        console.say(text)
    for line in mapping_lines(report["mapping"]):
        console.say(line)
    if len(report["outputs"]) > 1:
        console.print(_outputs_table(report["outputs"]))
    for warning in report["warnings"]:
        console.say(f"note: {warning}")
    c, mapped = result.comparison, result.mapped
    if mapped is not None:
        console.say(f"mapping: {mapped.summary}")
    if c is not None:
        console.say(
            f"exact comparison with {report['backend']['name']}: {c.samples} samples, {c.populations} populations, "
            f"{c.compared_spikes:,} spikes, {c.mismatches:,} mismatches"
        )
    if result.bounded is not None:
        console.say(rounding_line(result.bounded))
    verdict = _verdict(result)
    console.say(f"{verdict}; bundle, report.html and report.json in {result.out}")


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


def show_blame(console: PipedConsole, insight: Mapping[str, Any]) -> None:
    """What each layer costs, where that was measured, and numbers that rounding does not explain."""
    for name, phrases in insight["faults"].items():
        text = f"layer '{name}' is not what was rounded: {'; '.join(phrases)}"
        console.say(text)
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
    console.say(found["verdict"])


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
