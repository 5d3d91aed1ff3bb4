"""What changed between two bundles: settings, network, accuracy, spikes; the worst of each kind first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from neuroport.bundle import verify
from neuroport.chip.files import read_inputs, read_network, read_trace
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.trace import Trace
from neuroport.errors import BundleError
from neuroport.validation.network_diff import Change, Side, apart, diff_networks, diff_runs

KINDS = ("accuracy", "settings", "network", "weights", "neurons", "spikes", "cores")
_SETTINGS = ("model", "target", "recipe", "percentile", "steps", "seed", "samples")
_UNCOUNTED = ("sources", "references", "summary")  # of a datasheet: words about its numbers
_SIZES = {"mapping": ("cores", "chips"), "network": ("neurons", "compartments", "synapses")}


@dataclass(frozen=True)
class BundleDiff:
    """All changes from bundle a to b, kind by kind (KINDS), the largest of each first."""

    a: str
    b: str
    changes: tuple[Change, ...]

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.changes

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"equal": self.is_equal, **asdict(self)}


@dataclass(frozen=True, eq=False)
class _Bundle:
    """A bundle, read: report.json, its YAML files by name, its network, its inputs, and what ran on them."""

    report: Mapping[str, Any]
    sheets: Mapping[str, Any]
    network: IntNetwork
    inputs: IntInputs | None
    traces: Mapping[str, Trace]

    @property
    def backend(self) -> Mapping[str, Any]:
        """What the report says of the backend."""
        return self.report.get("backend") or {}

    @property
    def rungs(self) -> dict[str, float]:
        """Accuracy by rung; a bundle of `load` has one."""
        found = {str(r["name"]): float(r["accuracy"]) for r in self.report.get("rungs", [])}
        if self.report.get("accuracy") is not None:
            found["integer_core"] = float(self.report["accuracy"])
        return found

    @property
    def samples(self) -> dict[str, int]:
        """How many each rung was measured on."""
        found = {str(r["name"]): int(r["samples"]) for r in self.report.get("rungs", [])}
        if self.report.get("accuracy") is not None:
            found["integer_core"] = int(self.report["samples"])
        return found


def diff_bundles(a: str | Path, b: str | Path) -> BundleDiff:
    """Compare two bundles of `deploy` or `load --out`.

    Raises:
        BundleError: one of them is no bundle, or was damaged or edited since it was written.
    """
    one, other = _read(Path(a)), _read(Path(b))
    same_inputs = _same_inputs(one.inputs, other.inputs)
    changes = [
        *_settings(one, other, same_inputs=same_inputs),
        *_accuracy(one, other),
        *diff_networks(one.network, other.network),
        *_runs(one, other, same_inputs=same_inputs),
        *_sizes(one, other),
    ]
    changes.sort(key=lambda c: (KINDS.index(c.kind), -c.size))
    return BundleDiff(str(a), str(b), tuple(changes))


def _read(place: Path) -> _Bundle:
    verify(place)
    needed = [name for name in ("report.json", "network.h5") if not (place / name).is_file()]
    if needed:
        raise BundleError(f"bundle '{place}' holds no {needed[0]}, so it cannot be compared; deploy again")
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    sheets = {}
    for name in ("target", "recipe"):
        path = place / f"{name}.yaml"
        sheets[name] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    inputs = read_inputs(place / "inputs.h5") if (place / "inputs.h5").is_file() else None
    traces = {run: read_trace(place / f"{run}.h5") for run in ("core", "backend") if (place / f"{run}.h5").is_file()}
    return _Bundle(report, sheets, read_network(place / "network.h5"), inputs, traces)


def _same_inputs(a: IntInputs | None, b: IntInputs | None) -> bool:
    if a is None or b is None or (a.n_samples, a.n_steps) != (b.n_samples, b.n_steps):
        return False
    if a.currents.keys() != b.currents.keys() or (a.spikes is None) != (b.spikes is None):
        return False
    if a.spikes is not None and b.spikes is not None and not np.array_equal(a.spikes, b.spikes):
        return False
    return all(np.array_equal(x, b.currents[name]) for name, x in a.currents.items())


def _of(kind: str, what: str, size: float, a: Mapping[str, Side], b: Mapping[str, Side]) -> Iterator[Change]:
    """Entries of two tables that differ."""
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield Change(kind, name, what, a.get(name), b.get(name), size)


def _leaves(value: Any, key: str = "") -> dict[str, Side]:
    """Every value of nested tables by its dotted key; lists as text."""
    if not isinstance(value, Mapping):
        return {key: value if isinstance(value, str | int | float) else str(value)}
    found: dict[str, Side] = {}
    for name, inner in value.items():
        found |= _leaves(inner, f"{key}.{name}" if key else str(name))
    return found


def _settings(a: _Bundle, b: _Bundle, *, same_inputs: bool) -> Iterator[Change]:
    yield from _of("settings", "", 4, {k: a.report.get(k) for k in _SETTINGS}, {k: b.report.get(k) for k in _SETTINGS})
    yield from _of("settings", "", 4, {"backend": a.backend.get("name")}, {"backend": b.backend.get("name")})
    yield from _of("settings", "", 3, {"outputs": _outputs(a.network)}, {"outputs": _outputs(b.network)})
    if a.inputs is not None and b.inputs is not None and not same_inputs:
        note = "other samples, or other integers for them: spikes are compared by their rates"
        yield Change("settings", "inputs", "samples", a.inputs.n_samples, b.inputs.n_samples, 3, note)
    for name in ("target", "recipe"):
        if a.report.get(name) == b.report.get(name):  # of two names everything would differ
            tables = [{k: v for k, v in x.sheets[name].items() if k not in _UNCOUNTED} for x in (a, b)]
            yield from _of("settings", f"{name}.yaml", 2, _leaves(tables[0]), _leaves(tables[1]))
    yield from _of("settings", "version", 1, a.report.get("versions", {}), b.report.get("versions", {}))


def _outputs(network: IntNetwork) -> str:
    return ", ".join(f"{head.population} ({head.read})" for head in network.heads)


def _accuracy(a: _Bundle, b: _Bundle) -> Iterator[Change]:
    for change in _of("accuracy", "accuracy", 1, a.rungs, b.rungs):
        x, y = change.a, change.b
        if isinstance(x, float) and isinstance(y, float):
            n, m = a.samples.get(change.where), b.samples.get(change.where)
            of = "" if n == m else f", of {n} and {m} samples"
            change = replace(change, size=abs(y - x), note=f"{100 * (y - x):+.2f} points{of}")
        yield change
    wrong = ({"backend": a.backend.get("mismatches")}, {"backend": b.backend.get("mismatches")})
    yield from _of("accuracy", "mismatches with the core", 2, *wrong)
    outside = ({"backend": (x.backend.get("bounded") or {}).get("outside")} for x in (a, b))
    yield from _of("accuracy", "neuron-steps that rounding does not explain", 2, *outside)
    loaded = ({"mapper": (x.backend.get("mapping") or {}).get("differences")} for x in (a, b))
    yield from _of("accuracy", "differences from the export", 2, *loaded)


def _runs(a: _Bundle, b: _Bundle, *, same_inputs: bool) -> Iterator[Change]:
    for run in dict.fromkeys([*a.traces, *b.traces]):
        one, other = a.traces.get(run), b.traces.get(run)
        if one is not None and other is not None:
            yield from diff_runs(run, one, other, same_inputs=same_inputs)
        else:
            ran = (None if one is None else "ran", None if other is None else "ran")
            yield Change("spikes", "all populations", run, ran[0], ran[1], 2, "only one of them has its spikes")


def _sizes(a: _Bundle, b: _Bundle) -> Iterator[Change]:
    """What the networks take on the chip."""
    for section, keys in _SIZES.items():
        one, other = (x.report.get(section) or {} for x in (a, b))
        for change in _of("cores", "number", 0, {k: one.get(k) for k in keys}, {k: other.get(k) for k in keys}):
            yield replace(change, size=apart(change.a, change.b))
    one, other = ((x.backend.get("mapping") or {}).get("machine", {}) for x in (a, b))
    keys = ("cores_used", "chips_used")
    for change in _of("cores", "of the mapper", 0, {k: one.get(k) for k in keys}, {k: other.get(k) for k in keys}):
        yield replace(change, size=apart(change.a, change.b))
