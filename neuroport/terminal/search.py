"""What `neuroport search` shows: the frontier, and what stands at the top of its page."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from neuroport.validation.html.frontier import (
    cost_heading,
    cost_text,
    notes_of,
    params_text,
    search_says,
    share_text,
)
from neuroport.verbs.search.run import Search

_WIDTH = 150  # where the output is no terminal


class _Console(Console):
    """Rich's own answer to a closed pipe is exit code 1, which means something else here."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command line."""
        raise BrokenPipeError


def show_search(result: Search) -> None:
    """The points of the frontier, cheapest first, then what to do with them."""
    console, report = _Console(), result.report
    if not console.is_terminal:
        console = _Console(width=_WIDTH)
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
        console.print(line, markup=False, highlight=False, soft_wrap=True)
