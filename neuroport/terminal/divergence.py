"""How a difference between backend and core is told: the verdict, and both sides around its first neuron."""

from __future__ import annotations

from collections.abc import Mapping
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


def divergence_text(found: Mapping[str, Any]) -> str:
    """The verdict, and for the first population that differs by itself its neuron around the first such step.

    found: `divergence` of report.json.
    """
    lines = [str(found["verdict"])]
    for origin in found["origins"][:1]:
        first = origin["first"]
        axes = {3: " (channel, row, column)"}.get(len(first["neuron"]), "")
        lines.append(
            f"population '{origin['population']}', neuron {list(first['neuron'])}{axes}, sample {first['sample']}"
        )
        rows = [("step", first["steps"])]
        rows += [(title, first[key]) for key, title in _ROWS.items() if first[key] is not None]
        width = max(len(f"{value:,}") for _, values in rows for value in values)
        side = max(len(title) for title, _ in rows)
        lines += [f"  {title:{side}}" + "".join(f"  {value:{width},}" for value in values) for title, values in rows]
    return "\n".join(lines)
