"""What `neuroport map` and `fit` show, and what `deploy` says of the mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from neuroport.terminal.console import open_console
from neuroport.units import si

if TYPE_CHECKING:
    from neuroport.verbs.fitting import Fit, MapRun


def show_map(result: MapRun) -> None:
    """Use against limit, the layers with what binds them, the placements, the cost, and where the files are."""
    console, report = open_console(), result.report
    console.print(_uses_table(report))
    console.print(_layers_table(report))
    if report["cost"] is not None:
        console.print(_cost_table(report["cost"]))
    for line in (
        *_precision_lines(report["precision"]),
        *mapping_lines(report),
        f"report.html, mapping.json, placement.json and mesh.svg in {result.out}",
    ):
        console.say(line)


def show_fit(result: Fit) -> None:
    """One row for each target, then why it does not fit."""
    console, report = open_console(), result.report
    table = Table("target", "fits", title=escape(f"{report['model']} on every target"))
    for heading in ("cores", "chips"):
        table.add_column(heading, justify="right")
    table.add_column("what binds")
    table.add_column("known energy per inference", justify="right")
    table.add_column("worth of the energies", overflow="fold")
    for row in report["rows"]:
        table.add_row(row["target"], *_fit_cells(row))
    console.print(table)
    for row in report["rows"]:
        if row["why_not"]:
            text = f"{row['target']}: {row['why_not']}"
            console.say(text)
        elif row["mapping"]["limits_unknown"]:
            unknown = ", ".join(row["mapping"]["limits_unknown"])
            text = f"{row['target']}: not known, so not checked: {unknown}"
            console.say(text)


def _fit_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row["mapping"]
    if found is None:
        return ("no" if row["fits"] is False else "unknown", "", "", "", "", "")
    first = found["uses"][0]
    binds = f"{first['resource']} {100 * first['fraction']:.0f} % ({', '.join(first['layers'])})"
    cost = found["cost"]
    return (
        "yes",
        f"{found['cores']:,}",
        f"{found['chips']:,}",
        escape(binds),
        _energy(cost["energy_per_inference_J"]),
        ", ".join(cost["energy_marks"]) or "unknown",
    )


def _uses_table(report: Mapping[str, Any]) -> Table:
    """Each limited resource on the core that uses most of it, worst first."""
    table = Table(title=escape(f"{report['model']} on {report['target']}: use of a core against its limit"))
    table.add_column("resource")
    for heading in ("most used", "limit", "", "mean"):
        table.add_column(heading, justify="right")
    table.add_column("core of layer", overflow="fold")
    for row in report["uses"]:
        shares = (f"{100 * row['fraction']:.1f} %", f"{100 * row['mean_fraction']:.1f} %")
        layers = escape(", ".join(row["layers"]))
        table.add_row(row["resource"], f"{row['used']:,}", f"{row['limit']:,}", *shares, layers)
    return table


def _layers_table(report: Mapping[str, Any]) -> Table:
    """Each layer with its cores and what binds it."""
    table = Table(Column("layer", overflow="fold"), "shape", title="layers")
    for heading in ("neurons", "compartments", "cores"):
        table.add_column(heading, justify="right")
    table.add_column("what binds its fullest core")
    for row in report["layers"]:
        limit = "" if row["limit"] is None else f" {row['used']:,} of {row['limit']:,}"
        numbers = (f"{row[key]:,}" for key in ("neurons", "compartments", "cores"))
        table.add_row(escape(row["name"]), "x".join(map(str, row["shape"])), *numbers, f"{row['binds']}{limit}")
    return table


def _cost_table(cost: Mapping[str, Any]) -> Table:
    """Each kind of event: how often, what each costs, and what that number is worth."""
    title = f"one inference ({cost['steps']} steps; spikes measured on {cost['samples']} samples)"
    table = Table("per inference", title=title)
    for heading in ("count", "energy each", "energy"):
        table.add_column(heading, justify="right")
    table.add_column("mark")
    table.add_column("source", overflow="fold")
    for row in cost["lines"]:
        each = row[f"energy_per_{row['unit']}_J"]
        table.add_row(
            row["what"],
            _count(row["count_per_inference"], row["unit"]),
            "unknown" if each is None else _energy(each),
            _energy(row["energy_J"]),
            row["mark"],
            escape(row["source"]),
        )
    return table


def mapping_lines(report: Mapping[str, Any]) -> list[str]:
    """Cores, chips, boards, placement, energy and time, in a sentence each; of a target without cores, that."""
    if report["cores"] is None:
        return [f"mapping: {report['note']}"]
    boards = " or ".join(f"{n} x {name}" for name, n in report["boards"].items())
    first = report["uses"][0]
    where = f"{_plural(report['cores'], 'core')} on {_plural(report['chips'], 'chip')} of {report['target']}"
    lines = [
        f"mapping: {where}{f' (boards: {boards})' if boards else ''}; what binds most: {first['resource']}, "
        f"{first['used']:,} of {first['limit']:,} on a core of {', '.join(first['layers'])}"
    ]
    if report["limits_unknown"]:
        lines.append(f"not known, so not checked: {', '.join(report['limits_unknown'])}; it may take more cores")
    tried = report["placement"]
    unit = "messages x hops per inference" if tried["messages_measured"] else "hops, if each neuron fires once"
    hops = ", ".join(f"{name} {value:,.0f}" for name, value in tried["message_hops_per_inference"].items())
    lines.append(f"placement: {tried['chosen']} ({unit}: {hops})")
    return [*lines, *_cost_lines(report["cost"])]


def _precision_lines(precision: Mapping[str, Any] | None) -> list[str]:
    if precision is None:
        return []
    before, after = (f"{100 * precision[key]:.1f} %" for key in ("accuracy_before", "accuracy_after"))
    return [f"{precision['summary']}; accuracy on calibration samples, on the core: {after} (before: {before})"]


def _cost_lines(cost: Mapping[str, Any] | None) -> list[str]:
    if cost is None:
        return ["energy: unknown, as no spikes were measured; map a bundle, or a trained network with --data"]
    leaves_out = cost["energy_leaves_out"]
    what = "energy, as far as known" if leaves_out else "energy"
    lines = [
        f"{what}: {_energy(cost['energy_per_inference_J'])} per inference, "
        f"{_energy(cost['energy_per_step_J'])} per step"
        + (f" ({', '.join(cost['energy_marks'])} numbers)" if cost["energy_marks"] else "")
        + (f"; not in it, as not known: {', '.join(leaves_out)}" if leaves_out else "")
    ]
    duration = cost["step_duration_s"]
    if duration is None:
        lines.append(f"time per step: unknown ({cost['step_duration_source']})")
    else:
        lines.append(f"time per step: {1e3 * duration:g} ms, per inference: {1e3 * duration * cost['steps']:g} ms")
    if cost["ann_macs"] is not None:
        events = next(row["count_per_inference"] for row in cost["lines"] if row["what"] == "synaptic events")
        lines.append(
            f"the ANN: {cost['ann_macs']:,} multiply-accumulates per inference; {events:,.0f} synaptic events here"
        )
    return lines


def _count(count: float, unit: str) -> str:
    """`1,234`, `0.064 s`, `2 chips`."""
    if unit == "event":
        return f"{count:,.0f}"
    return f"{count:.3g} s" if unit == "s" else _plural(round(count), unit)


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _energy(joules: float | None) -> str:
    """`12.3 µJ`; `unknown`."""
    return "unknown" if joules is None else si(joules, "J")
