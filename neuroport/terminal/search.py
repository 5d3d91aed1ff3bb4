"""What `neuroport search` shows: the frontier, and what stands at the top of its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from neuroport.terminal.console import open_console
from neuroport.validation.html.frontier import (
    cost_heading,
    cost_text,
    notes_of,
    params_text,
    search_says,
    share_text,
)

if TYPE_CHECKING:
    from neuroport.verbs.search.run import Search


def show_search(result: Search) -> None:
    """The points of the frontier, cheapest first, then what to do with them."""
    console, report = open_console(), result.report
    costs = [name for name in report["objectives"] if name != "accuracy"]
    n = report["samples"]["held_out"]
    table = Table(Column("recipe", no_wrap=True), title=escape(f"{report['model']} on {report['target']}"))
    for name in costs:
        table.add_column(cost_heading(name), justify="right")
    for heading in (f"{n:,} held-out samples", "searched on"):
        table.add_column(heading, justify="right")
    table.add_column("notes", overflow="fold")
    table.add_column("chosen", overflow="fold")
    for k, row in enumerate(report["frontier"]):
        table.add_row(
            row["recipe"],
            *(cost_text(name, row["costs"][name]) for name in costs),
            share_text(row["held_out"]),
            f"{100 * row['searched_on']['accuracy']:.2f} %",
            escape("; ".join(notes_of(report, k))),
            escape(params_text(row["params"])),
        )
    console.print(table)
    lines = [f"{say.headline}{': ' if say.text else ''}{say.text}" for say in search_says(report)]
    if report["best"] is not None:
        lines.append(f"deploy the best: {report['frontier'][report['best']]['command']}")
    for line in (*lines, f"search.json, report.html and recipes in {result.out}; trials in {report['storage']}"):
        console.say(line)
