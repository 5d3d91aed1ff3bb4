"""How a difference between backend and core is told: the verdict, and both sides around its first neuron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ROWS = {
    "core_input": "input, core",
    "backend_input": "input, backend",
    "core_v": "v, core",
    "rule_v": "v, core's rule on the backend's input",
    "backend_v": "v, backend",
    "core_spikes": "spike, core",
    "backend_spikes": "spike, backend",
}


def origin_rows(origin: Mapping[str, Any]) -> list[tuple[str, Sequence[int]]]:
    """Both sides around the first difference of a population: titles, and values at each step; the steps come first.

    origin: of `divergence` of report.json.
    """
    first = origin["first"]
    return [("step", first["steps"])] + [(title, first[key]) for key, title in _ROWS.items() if first[key] is not None]


def origin_place(origin: Mapping[str, Any]) -> str:
    """Which population, neuron and sample that is."""
    first = origin["first"]
    axes = {3: " (channel, row, column)"}.get(len(first["neuron"]), "")
    return f"population '{origin['population']}', neuron {list(first['neuron'])}{axes}, sample {first['sample']}"


def divergence_text(found: Mapping[str, Any]) -> str:
    """The verdict, and for the first population that differs by itself its neuron around the first such step.

    found: `divergence` of report.json.
    """
    lines = [str(found["verdict"])]
    for origin in found["origins"][:1]:
        lines.append(origin_place(origin))
        rows = origin_rows(origin)
        width = max(len(f"{value:,}") for _, values in rows for value in values)
        side = max(len(title) for title, _ in rows)
        lines += [f"  {title:{side}}" + "".join(f"  {value:{width},}" for value in values) for title, values in rows]
    return "\n".join(lines)
