"""What `neuroport targets show` says of a datasheet: every number, what it is worth, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from neuroport.chip.sources import SECTIONS, entry_of
from neuroport.chip.target import Target

_WIDTH = 150  # where the output is no terminal
_NONE = "-"


def show_sources(target: Target) -> None:
    """Name and backends, a table for each section, and what the short names of sources stand for."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    head = [f"{target.name}: {target.summary}", f"backends: {', '.join(target.backends)}"]
    for line in (*head, f"default recipe: {target.default_recipe}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for section in (*SECTIONS, *(["neurons"] if target.neurons else [])):
        table = Table(
            Column(section, overflow="fold"),
            Column("value", overflow="fold"),
            "mark",
            Column("source", overflow="fold"),
        )
        for key, value, mark, source in _rows(target, section):
            table.add_row(*(escape(cell) for cell in (key.removeprefix(f"{section}."), value, mark, source)))
        console.print(table)
    for short, full in target.references.items():
        console.print(f"{short}: {full}", markup=False, highlight=False, soft_wrap=True)


def _rows(target: Target, section: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, value, mark and source: a row for each entry, and for each number without one."""
    values = {key: value for key, value in target.values.items() if key.split(".")[0] == section}
    left = dict(values)
    for key, entry in target.sources.items():
        if key.split(".")[0] != section:
            continue
        covered = {k: v for k, v in values.items() if entry_of(k, target.sources) == key}
        for k in covered:
            left.pop(k)
        yield key, _shown(key, covered), entry.mark, entry.source
    for key, value in left.items():
        if value is not None or key in target.unsourced:
            yield key, _shown(key, {key: value}), "no source" if key in target.unsourced else "", ""


def _shown(key: str, covered: Mapping[str, Any]) -> str:
    """`128`; of a group `bits 24, overflow wrap`."""
    known = {k: v for k, v in covered.items() if v is not None}
    if not known:
        return _NONE
    return ", ".join(f"{k[len(key) + 1 :]} {_plain(v)}".strip() for k, v in known.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(v)}" for name, v in value.items())
    if isinstance(value, tuple):
        return " ".join(map(_plain, value)) or _NONE
    return f"{value:g}" if isinstance(value, float) else str(value)
