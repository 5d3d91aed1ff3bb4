"""report.html of the verbs that deploy nothing: mapping, curves, networks of other tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from neuroport.validation.divergence_text import origin_place, origin_rows
from neuroport.validation.html.plots import Line, lines
from neuroport.validation.html.template import filled, inline
from neuroport.validation.html.verdict import Report, Say, comparison_says, mapping_says

PAGE = "report.html"
_DASHES = ("", "6 3", "2 2", "8 3 2 3")


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A picture of the page."""

    heading: str
    svg: Markup


def write_mapping_page(folder: Path, report: Report, mesh: str) -> None:
    """report.html of `map`: mapping.json's numbers and the picture."""
    rows = [
        (
            row["name"],
            "x".join(map(str, row["shape"])),
            f"{row['neurons']:,}",
            f"{row['compartments']:,}",
            str(row["cores"]),
            f"{row['binds']}: {row['used']:,} of {row['limit']:,}" if row["limit"] else row["binds"],
        )
        for row in report["layers"]
    ]
    layers = Table("Layers", ("layer", "shape", "neurons", "compartments", "cores", "what binds"), rows)
    write_tables_page(
        folder,
        f"{report['model']} on the cores of {report['target']}",
        f"recipe {report['recipe']}" if report["recipe"] else "a quantized network",
        mapping_says(report, ""),
        "mapping.json",
        report["versions"],
        tables=[layers],
        mapping=report,
        mesh=inline(mesh),
    )


def write_curve_page(folder: Path, report: Report) -> None:
    """report.html of `curve`: curve.json's numbers."""
    ann, recipes = report["ann_accuracy"], report["recipes"]
    steps = list(range(1, report["steps"] + 1))
    curves = [Line(row["name"], row["accuracy"], _DASHES[k % len(_DASHES)]) for k, row in enumerate(recipes)]
    curves.append(Line("ANN", [ann] * len(steps), "1 3"))
    plot = lines("accuracy after each step, by recipe", steps, curves, ("step", "accuracy"), percent=True)
    latencies = list(recipes[0]["latency_steps"])
    rows = [
        (
            row["name"],
            f"{100 * row['accuracy'][-1]:.2f} %",
            *("never" if row["latency_steps"][key] is None else str(row["latency_steps"][key]) for key in latencies),
        )
        for row in recipes
    ]
    columns = (
        "recipe",
        f"after {report['steps']} steps",
        *(f"first step {key.replace('_', ' ').replace('percent', 'points')}" for key in latencies),
    )
    write_tables_page(
        folder,
        f"{report['model']}: accuracy over time",
        f"{report['samples']:,} samples of {report['data']}; the ANN: {100 * ann:.2f} %",
        [_fastest(recipes, latencies[0])],
        "curve.json",
        report["versions"],
        figures=[Figure("Accuracy after each step", Markup(plot))],
        tables=[Table("Recipes", columns, rows)],
    )


def _fastest(recipes: Sequence[Report], key: str) -> Say:
    """Which recipe comes within a point of the ANN's accuracy first, and stays there."""
    steps = {row["name"]: row["latency_steps"][key] for row in recipes if row["latency_steps"][key] is not None}
    if not steps:
        best = max(recipes, key=lambda row: row["accuracy"][-1])
        text = f"The nearest at the last step is {best['name']}; more steps (--steps) or another recipe may help."
        return Say("warn", "No recipe stays within a point of the ANN", text)
    name = min(steps, key=lambda one: steps[one])
    return Say(
        "ok", f"{name} is the fastest", f"It stays within a point of the ANN's accuracy from step {steps[name]}."
    )


def write_verified_page(folder: Path, report: Report) -> None:
    """report.html of `load`: a network of another tool, and what ran of it."""
    rows = [
        (
            row["name"],
            "x".join(map(str, row["shape"])),
            f"{row['neurons']:,}",
            f"{row['synapses']:,}",
            str(row["threshold_mantissa"]),
            "" if row["current_decay"] is None else str(row["current_decay"]),
            str(row["voltage_decay"]),
        )
        for row in report["layers"]
    ]
    columns = ("layer", "shape", "neurons", "synapses", "threshold", "current decay", "voltage decay")
    says = comparison_says(report["backend"]) if "backend" in report else []
    if report.get("accuracy") is not None:
        text = f"of {report['samples']:,} samples in {report['steps']} steps"
        says.append(Say("ok", f"{100 * report['accuracy']:.2f} % right", text))
    says += [Say("warn", "Mind this", note) for note in report["notes"]]
    write_tables_page(
        folder,
        f"{report['model']} in the integers of {report['target']}",
        f"{report['network']['neurons']:,} neurons, {report['network']['synapses']:,} synapses",
        says,
        "report.json",
        report["versions"],
        tables=[*_difference_tables(report.get("backend") or {}), Table("Layers", columns, rows)],
    )


def _difference_tables(backend: Report) -> list[Table]:
    """Both sides around the first difference of each population that computes differently by itself."""
    found = []
    for origin in (backend.get("divergence") or {}).get("origins", []):
        (title, steps), *rows = origin_rows(origin)
        cells = [(name, *(f"{value:,}" for value in values)) for name, values in rows]
        found.append(Table(f"Difference: {origin_place(origin)}", (title, *map(str, steps)), cells))
    return found


def write_tables_page(
    folder: Path,
    title: str,
    subtitle: str,
    says: Sequence[Say],
    source: str,
    versions: Mapping[str, str],
    *,
    tables: Sequence[Table] = (),
    figures: Sequence[Figure] = (),
    mapping: Mapping[str, Any] | None = None,
    mesh: Markup | None = None,
) -> None:
    """report.html of statements, figures and tables; source: the file with all numbers of the page."""
    page = filled(
        "tables.html.j2",
        title=title,
        subtitle=subtitle,
        statements=says,
        source=source,
        versions=versions,
        tables=tables,
        figures=figures,
        mapping=mapping,
        mesh=mesh,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
