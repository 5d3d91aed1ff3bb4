"""What `neuroport load` shows: what was read, and where it ran, how the two sides compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from neuroport.terminal.console import open_console

if TYPE_CHECKING:
    from neuroport.verbs.exchange import Verified


def show_verified(result: Verified) -> None:
    """The layers, the notes, and the exact comparison with the verdict."""
    console, report = open_console(), result.report
    has_run = result.comparison is not None
    table = Table(Column("layer", overflow="fold"), "shape", title=escape(report["model"]))
    headings = ("neurons", "synapses", "threshold", "decays u, v")
    for heading in (*headings, *(("spikes",) if has_run else ())):
        table.add_column(heading, justify="right")
    for row in report["layers"]:
        table.add_row(*_cells(row, has_run=has_run))
    total = report["network"]
    table.add_row("all", "", f"{total['neurons']:,}", f"{total['synapses']:,}", style="bold")
    console.print(table)

    shape = "x".join(map(str, report["input"]["shape"]))
    transform = report["input"]["transform"]
    kind = "spikes" if transform is None else f"currents ({transform[0]} x + {transform[1]})"
    console.say(f"input: {shape} {kind}; answer: {total['readout']} of the last layer")
    for note in report["notes"]:
        console.say(f"note: {note}")
    for row in report["layers"]:
        lost = row.get("overflows", 0) + row.get("floored", 0)
        if lost:
            console.say(f"note: layer '{row['name']}': a current or potential was at its register's end {lost:,} times")
    if result.accuracy is not None:
        console.say(f"accuracy of the core: {100 * result.accuracy:.2f} % of {report['samples']} samples")
    c = result.comparison
    if c is not None:
        console.say(
            f"exact comparison with {report['backend']['name']}: {c.samples} samples, {c.populations} populations, "
            f"{c.compared_spikes:,} spikes, {c.mismatches:,} mismatches"
        )
        console.say("every spike equal" if result.is_equal else "DIFFERENT")
    if result.out is not None:
        console.say(f"bundle and report.html in {result.out}")


def _cells(row: dict[str, Any], *, has_run: bool) -> tuple[str, ...]:
    cells = (
        escape(row["name"]),
        "x".join(map(str, row["shape"])),
        f"{row['neurons']:,}",
        f"{row['synapses']:,}" if row["synapses"] else "currents",
        f"{row['threshold_mantissa']:,}",
        f"{row['current_decay']}, {row['voltage_decay']}",
    )
    return (*cells, f"{row['spikes']:,}") if has_run else cells
