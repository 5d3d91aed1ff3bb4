"""What the report says first: did it work, where accuracy went, what it costs, what to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from scipy.stats import binomtest

from neuroport.units import si
from neuroport.validation.blame import REMEDIES

Report = Mapping[str, Any]

_STEPS = {  # what happens between a rung and the one before
    "folded": "folding batch norm",
    "normalized": "activations clipped at one spike per step",
    "float_snn": "spikes instead of activations, in this many steps",
    "integer_core": "rounding to the chip's integers",
}
_CAUSES = {"normalized": "clipping", "float_snn": "spiking", "integer_core": "rounding"}
_NEGLIGIBLE, _MUCH = 0.005, 0.05  # accuracy


@dataclass(frozen=True)
class Say:
    """One statement: a sign that is read without colour ('ok', 'warn', 'bad'), a headline, and a sentence."""

    sign: str
    headline: str
    text: str


def statements(report: Report) -> list[Say]:
    """The statements at the top of the page, in order."""
    return [*comparison_says(report["backend"]), *_accuracy(report), *_cost(report), *_advice(report)]


def comparison_says(backend: Report) -> list[Say]:
    """What came of the comparison with a backend."""
    return list(_comparison(backend))


def _comparison(backend: Report) -> Iterator[Say]:
    if "error" in backend:
        yield Say("bad", f"{backend['name']} did not finish", f"{backend['error'].splitlines()[0]}; see worker.log")
    elif "bounded" in backend:
        yield _bounded(backend)
    elif backend.get("mismatches"):
        first = backend["first_mismatch"]
        found = (backend.get("divergence") or {}).get("verdict", "")
        where = f"first at population '{first['population']}', sample {first['sample']}, step {first['step']}"
        yield Say(
            "bad",
            f"{backend['mismatches']:,} values differ on {backend['name']}",
            f"The backend and the reference core part {where}. {_sentence(found) if found else ''}".strip(),
        )
    elif "compared_spikes" in backend:
        yield Say(
            "ok",
            "Every spike is equal",
            f"{backend['compared_spikes']:,} spikes of {backend['samples']} samples in {backend['populations']} "
            f"populations are the same on {backend['name']} and in the reference core.",
        )
    if "mapping" in backend:
        yield _mapped(backend["mapping"], is_alone="compared_spikes" not in backend and "error" not in backend)


def _bounded(backend: Report) -> Say:
    """Of a backend that computes in other numbers than the chip."""
    found, name = backend["bounded"], backend["name"]
    values = f"{backend['mismatches']:,} of {backend['compared_values']:,} values differ"
    if found["outside"]:
        text = (
            f"Rounding does not explain {found['outside']:,} of {found['compared_values']:,} neuron-steps, first at "
            f"{found['first_outside']}."
        )
        return Say("bad", f"{name} differs by more than its rounding", f"{values}. {text}")
    text = (
        f"{name} computes in other numbers than the chip: {values}. With the spikes that each neuron was sent, each of "
        f"{found['compared_values']:,} neuron-steps is within {found['bound']:.0f} integers of the chip's potential."
    )
    return Say("ok", "Equal but for rounding, which explains every difference", text)


def _mapped(mapping: Report, *, is_alone: bool) -> Say:
    """What the vendor's mapper made of the network."""
    m, n = mapping["machine"], mapping["connections"]
    where = f"{m['cores_used']:,} cores on {m['chips_used']:,} of {m['chips']:,} chips"
    nothing = " Nothing ran: there are no spikes to compare." if is_alone else ""
    if mapping["differences"]:
        text = f"{mapping['differences']:,} of {n:,} weights and delays, first {mapping['first_difference']}.{nothing}"
        return Say("bad", "What would be loaded is not what was exported", text)
    text = f"All {n:,} weights and delays that would be loaded, read back, equal the export.{nothing}"
    return Say("ok", f"The vendor's mapper takes {where}", text)


def _accuracy(report: Report) -> Iterator[Say]:
    first, core = report["rungs"][0], _core(report)
    lost, (low, high), n_samples = _loss(report)
    numbers = f"{100 * first['accuracy']:.2f} % before, {100 * core['accuracy']:.2f} % on the chip's integers"
    text = f"{numbers} ({n_samples:,} test samples: 95 % interval {100 * low:.1f} to {100 * high:.1f} %)."
    name, most = _largest_loss(report)
    if name and lost > 0:
        text += f" The largest step down, {100 * most:.2f} points, comes with {_STEPS[name]}."
    sign = "ok" if not _is_lost(report) else "warn" if lost < _MUCH else "bad"
    headline = "No accuracy lost" if lost <= 0 else f"{100 * lost:.2f} points of accuracy lost"
    yield Say(sign, headline, text)


def _core(report: Report) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(rung for rung in report["rungs"] if rung["name"] == "integer_core")
    return found


def _loss(report: Report) -> tuple[float, tuple[float, float], int]:
    """Accuracy that the integer core lost against the first rung, its 95 % interval (Wilson's), and the samples."""
    core = _core(report)
    n = core["samples"]
    ends = binomtest(round(core["accuracy"] * n), n).proportion_ci(0.95, method="wilson")
    return report["rungs"][0]["accuracy"] - core["accuracy"], (float(ends.low), float(ends.high)), n


def _is_lost(report: Report) -> bool:
    """Whether it lost more than is worth a word, and the first rung's accuracy is beyond its interval."""
    lost, (_, high), _ = _loss(report)
    return lost > _NEGLIGIBLE and report["rungs"][0]["accuracy"] > high


def _largest_loss(report: Report) -> tuple[str, float]:
    """The rung that loses most against the one before, and how much; '' where none loses."""
    pairs = [(b["name"], a["accuracy"] - b["accuracy"]) for a, b in pairwise(report["rungs"]) if b["name"] in _STEPS]
    name, most = max(pairs, key=lambda pair: pair[1], default=("", 0.0))
    return (name, most) if most > 0 else ("", 0.0)


def _cost(report: Report) -> Iterator[Say]:
    mapping, network = report.get("mapping"), report["network"]
    size = f"{network['neurons']:,} neurons, {network['synapses']:,} synapses, {report['steps']} steps per sample"
    if not mapping or mapping.get("cores") is None:
        yield Say("ok", size, _sentence(mapping["note"].replace("`", "'")) if mapping else "")
    else:
        yield from mapping_says(mapping, f"{size}. ")


def mapping_says(mapping: Report, size: str) -> list[Say]:
    """What a mapping takes. size: of the network, a sentence that comes first."""
    worst = mapping["uses"][0] if mapping["uses"] else None
    binds = f"The fullest core uses {100 * worst['fraction']:.0f} % of its {worst['resource']}." if worst else ""
    energy, cost = " Its energy is not known.", mapping.get("cost")
    if cost and cost.get("energy_per_inference_J") is not None:
        known = ", as far as known" if cost["energy_leaves_out"] else ""
        energy = f" About {si(cost['energy_per_inference_J'], 'J')} per inference{known}."
    cores = f"{mapping['cores']:,} core{'s' if mapping['cores'] != 1 else ''}"
    chips = f"{mapping['chips']} chip{'s' if mapping['chips'] != 1 else ''}"
    unknown = ", ".join(mapping.get("limits_unknown", ()))
    unchecked = f" Not known, so not checked: {unknown}; it may take more cores." if unknown else ""
    return [Say("ok", f"{cores} on {chips}", f"{size}{binds}{energy}{unchecked}")]


def _advice(report: Report) -> Iterator[Say]:
    for name, phrases in report["insight"]["faults"].items():
        yield Say("bad", f"'{name}' is not what was rounded", "; ".join(phrases) + ".")
    for text in report["warnings"]:
        yield Say("warn", "Mind this", text)
    yield _change(report)


def _change(report: Report) -> Say:
    """The one thing to do next."""
    if "error" in report["backend"] or report["backend"].get("mismatches"):
        return Say("warn", "What to change", f"First what {report['backend']['name']} does, see above.")
    blame, name = report["insight"].get("blame"), _largest_loss(report)[0]
    if blame is not None and any(row["is_certain"] for row in blame["layers"]):
        return Say("warn", "What to change", _sentence(blame["verdict"]))
    lost, _, n_samples = _loss(report)
    is_lost = _is_lost(report)
    if is_lost and name in _CAUSES:
        lead = f"No single layer, as far as {blame['samples']:,} samples tell. " if blame is not None else ""
        return Say("warn", "What to change", f"{lead}Most is lost with {_STEPS[name]}: try {REMEDIES[_CAUSES[name]]}.")
    if is_lost:
        return Say("warn", "What to change", "See the ladder below for the rung that lost it.")
    if report["warnings"]:
        return Say("warn", "What to change", "First what to mind, see above.")
    if lost > _NEGLIGIBLE:
        text = f"First measure on more test samples (--eval): {n_samples:,} cannot tell this loss from chance."
        return Say("ok", "What to change", text)
    return Say("ok", "Nothing to change", "No accuracy is lost that a setting should mend.")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
