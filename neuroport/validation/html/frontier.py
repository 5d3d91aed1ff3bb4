"""report.html of `search`: search.json's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from neuroport.validation.html.plots import Point, points
from neuroport.validation.html.tables import Figure, Table, write_tables_page
from neuroport.validation.html.verdict import Report, Say

_UNITS = {"steps": "steps", "cores": "cores", "energy": "nJ per inference"}
_IN_UNITS = {"energy": 1e9}
_ENDED = {
    "trials": "all trials are done",
    "budget": "the budget was over; the same command goes on",
    "interrupted": "interrupted; the same command goes on",
}


def write_search_page(folder: Path, report: Report) -> None:
    """report.html beside search.json."""
    trials, samples = report["trials"], report["samples"]
    costs = [name for name in report["objectives"] if name in _UNITS] or ["steps"]
    write_tables_page(
        folder,
        f"{report['model']} on {report['target']}: the best conversions",
        f"{trials['finished']} trials, {trials['complete']} of them on all {samples['searched_on']:,} samples searched "
        f"on; accuracies of {samples['held_out']:,} held-out samples on the integer core, with intervals of 95 %",
        search_says(report),
        "search.json",
        report["versions"],
        figures=[_figure(report, name) for name in costs],
        tables=[_frontier_table(report, costs), _ends_table(report)],
    )


def search_says(report: Report) -> list[Say]:
    """What came of it, in a few sentences."""
    default, found = report["default"], report["steps_to_lossless"]
    says = [Say("ok" if report["ended"] == "trials" else "warn", _ENDED[report["ended"]].capitalize(), "")]
    if report["best"] is None:
        says.append(Say("bad", "No point meets the constraints", "on the held-out samples"))
    else:
        row = report["frontier"][report["best"]]
        says.append(Say("ok", f"Best: {row['recipe']}", f"{share_text(row['held_out'])} in {row['steps']} steps"))
    before = default["steps_to_lossless"]
    says.append(
        Say(
            "ok" if found is not None and (before is None or found < before) else "warn",
            f"Lossless in {_steps(found)}; {default['recipe']}: in {_steps(before)}",
            f"within 0.5 points of the ANN ({share_text(report['ann']['held_out'])})",
        )
    )
    notes = next((row["energy_notes"] for row in report["frontier"] if row["energy_notes"]), None)
    if notes is not None:
        left = f"not in it, as not known: {', '.join(notes['leaves_out'])}" if notes["leaves_out"] else ""
        says.append(Say("warn" if left else "ok", f"Energies are of {', '.join(notes['marks'])} numbers", left))
    return says


def share_text(share: Report) -> str:
    """`98.40 % (97.40 to 99.02)`."""
    return f"{100 * share['accuracy']:.2f} % ({100 * share['low']:.2f} to {100 * share['high']:.2f})"


def params_text(params: Report) -> str:
    """`steps 8, scale mmse, ...`, without what other columns say."""
    shown = {name: value for name, value in params.items() if name not in ("steps", "neuron", "weight_bits")}
    return ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in shown.items())


def cost_text(name: str, value: float) -> str:
    """A cost in the unit of its column."""
    return f"{_IN_UNITS.get(name, 1) * value:,.4g}"


def cost_heading(name: str) -> str:
    """The heading of a cost's column."""
    return _UNITS[name]


def _figure(report: Report, name: str) -> Figure:
    found = [
        Point(
            Path(row["recipe"]).stem,
            _IN_UNITS.get(name, 1) * row["costs"][name],
            row["held_out"]["accuracy"],
            row["held_out"]["low"],
            row["held_out"]["high"],
            "warn" if row["is_dominated"] else "plain",
        )
        for row in report["frontier"]
    ]
    svg = points(f"accuracy over {name}", found, (_UNITS[name], "accuracy"), report["ann"]["held_out"]["accuracy"])
    return Figure(f"Accuracy over {name} (dashed: the ANN)", Markup(svg))


def _frontier_table(report: Report, costs: list[str]) -> Table:
    columns = ("recipe", *(_UNITS[name] for name in costs), "held-out", "searched on", "notes", "chosen")
    rows = [
        (
            row["recipe"],
            *(cost_text(name, row["costs"][name]) for name in costs),
            share_text(row["held_out"]),
            share_text(row["searched_on"]),
            "; ".join(notes_of(report, k)),
            params_text(row["params"]),
        )
        for k, row in enumerate(report["frontier"])
    ]
    return Table("Frontier", columns, rows)


def notes_of(report: Report, k: int) -> list[str]:
    """What is to be said of a point."""
    row: dict[str, Any] = report["frontier"][k]
    said = {
        "best": k == report["best"],
        "lossless": row["lossless"],
        "dominated on held-out": row["is_dominated"],
        "below the constraint": not row["is_allowed"],
        f"neuron {row['neuron']}": row["neuron"] is not None,
        f"{row['weight_bits']}-bit weights: {row['target']}": row["weight_bits"] is not None,
    }
    return [text for text, holds in said.items() if holds]


def _ends_table(report: Report) -> Table:
    rows = [(rung, str(n)) for rung, n in report["trials"].items() if rung not in ("finished", "complete")]
    return Table("Where trials ended", ("rung", "trials"), rows)


def _steps(n: int | None) -> str:
    return "no point" if n is None else f"{n} steps"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()
