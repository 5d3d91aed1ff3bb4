"""What `neuroport diff` shows: one table for each kind of change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from neuroport.terminal.console import open_console
from neuroport.validation.network_diff import Side

if TYPE_CHECKING:
    from neuroport.verbs.bundle_diff import BundleDiff

_SHOWN = 20  # rows of one kind; all that was added or removed
_TITLES = {
    "accuracy": "accuracy",
    "settings": "settings, datasheets, versions",
    "network": "populations and projections",
    "weights": "weights (mantissa << exponent)",
    "neurons": "thresholds, biases, resets",
    "spikes": "spikes",
    "cores": "size on the chip",
}


def show_diff(diff: BundleDiff) -> None:
    """The changes, the worst of each kind first, or that there are none."""
    console = open_console()

    if diff.is_equal:
        console.say(f"{diff.a} and {diff.b} are equal: settings, network, weights, spikes, accuracy")
        return
    console.say(f"A: {diff.a}\nB: {diff.b}")
    for kind, title in _TITLES.items():
        changes = [c for c in diff.changes if c.kind == kind]
        if not changes:
            continue
        table = Table(Column("where", overflow="fold"), "what", title=title, title_justify="left")
        for heading in ("A", "B"):
            table.add_column(heading, justify="right", overflow="fold")
        table.add_column("difference", overflow="fold")
        shown = changes if kind == "network" else changes[:_SHOWN]
        for c in shown:
            table.add_row(escape(c.where), escape(c.what), _side(c.a), _side(c.b), escape(c.note))
        console.print(table)
        if len(changes) > len(shown):
            console.say(f"and {len(changes) - len(shown)} more; --json has all of them")
    console.say(f"{len(diff.changes)} difference{'s' if len(diff.changes) > 1 else ''}")


def _side(value: Side) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else escape(f"{value:.4g}" if isinstance(value, float) else str(value))
