"""report.html from the report's numbers and the bundle's spikes: one file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from neuroport.chip.files import read_trace
from neuroport.chip.network import IntNetwork
from neuroport.chip.trace import Trace
from neuroport.validation.divergence_text import origin_place, origin_rows
from neuroport.validation.html import images, plots
from neuroport.validation.html.plots import Bar, Line
from neuroport.validation.html.template import filled, inline
from neuroport.validation.html.verdict import Report, statements

_N_SAMPLES = 3
_N_RACERS = 4
_RACE_UNITS = {"membrane": "potential, chip integers", "count": "spikes"}
_DASHES = ("", "6 3", "2 2", "8 3 2 3")


@dataclass(frozen=True, eq=False)
class Shown:
    """Samples whose spikes are shown: images [N, C, H, W] or of any other shape, labels, and what the core fired."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    trace: Trace


def write_page(
    folder: Path, report: Report, network: IntNetwork, sample_images: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    """Write report.html into a bundle whose core.h5, and mesh.svg where cores are known, are written.

    sample_images, labels: at least those of the samples that core.h5 holds, in its order.
    """
    trace, mesh = folder / "core.h5", folder / "mesh.svg"
    shown = Shown(sample_images, labels, read_trace(trace)) if trace.is_file() else None
    picture = mesh.read_text(encoding="utf-8") if mesh.is_file() else None
    (folder / "report.html").write_text(render(report, network, shown, picture), encoding="utf-8")


def render(report: Report, network: IntNetwork, shown: Shown | None, mesh: str | None = None) -> str:
    """The page.

    Args:
        report: as in report.json.
        network: the integer network.
        shown: samples of the backend, as the core computed them.
        mesh: the mapping's picture as SVG, where there is one.
    """
    depths = [(p["name"], network.depth[p["name"]]) for p in report["layers"]]
    return filled(
        "page.html.j2",
        report=report,
        statements=statements(report),
        differences=_differences(report["backend"]),
        ladder=Markup(_ladder(report)),
        over_time=Markup(_over_time(report)),
        growth=Markup(_growth(report, depths)),
        blame=Markup(_blame(report)),
        layers=list(_layers(report)),
        samples=list(_samples(report, network, shown)) if shown is not None else [],
        mesh=inline(mesh),
    )


def _differences(backend: Report) -> list[dict[str, Any]]:
    """The populations that compute differently by themselves, each with where and both sides around it."""
    origins = (backend.get("divergence") or {}).get("origins", [])
    return [{**origin, "place": origin_place(origin), "rows": origin_rows(origin)} for origin in origins]


def _ladder(report: Report) -> str:
    rows = []
    for rung in report["rungs"]:
        error = (rung["accuracy"] * (1 - rung["accuracy"]) / rung["samples"]) ** 0.5
        rows.append(Bar(rung["name"], rung["accuracy"], error, f"{100 * rung['accuracy']:.2f} % of {rung['samples']}"))
    return plots.bars("accuracy of each rung, with standard errors", rows, limits=(0.0, 1.0))


def _over_time(report: Report) -> str:
    core, ann = report["accuracy_over_time"], report["rungs"][0]["accuracy"]
    steps = list(range(1, len(core) + 1))
    curves = [Line("integer core", core), Line("ANN", [ann] * len(core), "6 4")]
    return plots.lines("accuracy after each step", steps, curves, ("step", "accuracy"), percent=True)


def _growth(report: Report, depths: Sequence[tuple[str, int]]) -> str:
    found = report["insight"]["layers"]
    errors = {name: row["relative_error"] for name, row in found.items() if row["relative_error"] is not None}
    pairs = [(depth, errors[name]) for name, depth in depths if name in errors]
    if len(pairs) < 2:
        return ""
    x, y = zip(*sorted(pairs), strict=True)
    curve = Line("||rate - activation|| / ||activation||", y)
    labels = ("depth (projections from the input)", "relative error")
    return plots.lines("error of the rates by depth", x, [curve], labels)


def _blame(report: Report) -> str:
    blame = report["insight"].get("blame")
    if blame is None:
        return ""
    rows = [
        Bar(
            row["name"],
            100 * row["regained"]["accuracy"],
            100 * row["standard_error"],
            f"{100 * row['regained']['accuracy']:+.1f} points{_by(row)}",
            row["cause"] or "plain",
        )
        for row in blame["layers"]
    ]
    high = max(max(bar.value + bar.error for bar in rows), 1.0)
    low = min(min(bar.value - bar.error for bar in rows), 0.0)
    return plots.bars("accuracy regained when one layer is computed exactly", rows, limits=(low, high))


def _by(row: Mapping[str, Any]) -> str:
    return f", {row['cause']}" if row["cause"] and row["regained"]["accuracy"] > 0 else ""


def _layers(report: Report) -> Iterator[dict[str, Any]]:
    """The rows of report.json with their plots."""
    insight = report["insight"]
    for row in report["layers"]:
        name, found = row["name"], insight["layers"].get(row["name"])
        weights = insight["weights"].get(name)
        pictures = []
        if weights is not None:
            title = f"weights into {name}, in v_th per spike; {weights['levels']} values on the chip"
            ends = (weights["low"], weights["high"])
            plot = plots.histograms(title, ("before", weights["before"]), ("after rounding", weights["after"]), ends)
            pictures.append(("weights in v_th, before (filled) and after rounding (line)", Markup(plot)))
        if found is not None:
            ends = (0.0, 1.0)
            pair = (("activations", found["activations"]), ("rates", found["rates"]))
            plot = plots.histograms(f"activations and firing rates of {name}", *pair, ends)
            pictures.append(("activations (filled) and rates (line), spikes per step", Markup(plot)))
            plot = plots.scatter(f"firing rate over activation of {name}", found["points"])
            pictures.append(("rate over activation", Markup(plot)))
        yield {**row, "profile": found, "pictures": pictures}


def _samples(report: Report, network: IntNetwork, shown: Shown) -> Iterator[dict[str, Any]]:
    """Some samples: the input, the spikes of each layer, and the outputs over time."""
    first = network.heads[0]
    n_samples = len(next(iter(shown.trace.spikes.values())))
    for s in range(min(_N_SAMPLES, n_samples)):
        race = _race(shown.trace, first.population, first.read, s)
        rasters = []
        for p in network.populations:
            if p.name in shown.trace.spikes and (spikes := shown.trace.spikes[p.name][s]).any():
                some = images.some_neurons(spikes)
                title = (
                    f"spikes of {p.name}: {int(spikes.sum()):,} in {len(spikes)} steps, {some.shape[1]} neurons shown"
                )
                rasters.append(
                    (p.name, int(spikes.sum()), Markup(plots.raster(title, some, images.spikes_picture(some))))
                )
        answer = int(race[-1].argmax())
        yield {
            "number": report["sample_numbers"][s] if report["sample_numbers"] else s,
            "label": int(shown.labels[s]),
            "answer": answer,
            "picture": images.picture(shown.images[s]),
            "rasters": rasters,
            "race": Markup(_race_plot(race, int(shown.labels[s]), _RACE_UNITS[first.read])),
        }


def _race(trace: Trace, population: str, read: str, s: int) -> NDArray[np.int64]:
    """[T, n_out]: the outputs after each step."""
    if read == "membrane":
        found: NDArray[np.int64] = trace.potentials[population][s]
    else:
        found = trace.spikes[population][s].cumsum(0, dtype=np.int64)
    return found.reshape(len(found), -1)


def _race_plot(race: NDArray[np.int64], label: int, unit: str) -> str:
    order = np.argsort(race[-1])[::-1][:_N_RACERS].tolist()
    classes = order if label in order else [*order[:-1], label]
    steps = list(range(1, len(race) + 1))
    curves = [
        Line(f"class {c}{' (right)' if c == label else ''}", race[:, c].tolist(), _DASHES[k % len(_DASHES)])
        for k, c in enumerate(classes)
    ]
    return plots.lines("outputs after each step", steps, curves, ("step", unit))
