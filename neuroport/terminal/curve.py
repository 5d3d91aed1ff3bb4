"""What a comparison of recipes gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from neuroport.terminal.console import open_console

if TYPE_CHECKING:
    from neuroport.verbs.curve import Curve


def show_curve(result: Curve) -> None:
    """Accuracy at the last step, and the latencies, of every recipe."""
    console, report = open_console(), result.report
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
        console.say(f"note: {note}")
    console.say(f"curves and numbers in {result.out}; report.html shows them")
