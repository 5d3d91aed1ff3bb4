"""Where accuracy went, layer by layer: profiles, faults, and what each layer costs, as data of report.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from neuroport.chip.network import IntNetwork
from neuroport.normalize.scales import Normalized
from neuroport.validation.blame import Blame, find_blame
from neuroport.validation.faults import find_faults
from neuroport.validation.ladder import Ladder
from neuroport.validation.outputs import Scores, TestSet
from neuroport.validation.profile import profiles
from neuroport.validation.weights import weight_histograms

_WORTH = 0.005  # accuracy lost from which blame is looked for unasked


def is_worth_blaming(ladder: Ladder) -> bool:
    """Whether the integer core lost accuracy against the first rung: more than half a point."""
    return ladder.rungs[0].accuracy - ladder.rungs[-1].accuracy > _WORTH


def profile_rows(normalized: Normalized, network: IntNetwork, tests: TestSet, n_steps: int) -> dict[str, Any]:
    """By population: what it should do and what it does, and numbers that rounding does not explain."""
    faults = find_faults(normalized, network)
    rows: dict[str, Any] = {p.name: asdict(p) for p in profiles(normalized, network, tests, n_steps)}
    for row in rows.values():
        del row["name"]
    weights = {name: asdict(found) for name, found in weight_histograms(normalized, network).items()}
    return {"layers": rows, "weights": weights, "faults": faults}


def blame_rows(
    normalized: Normalized,
    network: IntNetwork,
    tests: TestSet,
    reference: Scores,
    n_steps: int,
    *,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """What each layer costs; keys: samples, accuracy, verdict, layers (those that cost most first)."""
    found = find_blame(normalized, network, tests, reference, n_steps, seed=seed, on_progress=on_progress)
    return {
        "samples": found.samples,
        "accuracy": found.accuracy,
        "verdict": found.verdict,
        "layers": [_row(found, k) for k in range(len(found.layers))],
    }


def _row(found: Blame, k: int) -> Mapping[str, Any]:
    layer = found.layers[k]
    return {
        "name": layer.name,
        "regained": asdict(layer.regained),
        "standard_error": layer.standard_error,
        "chance": layer.chance,
        "is_certain": found.is_certain(layer),
        "cause": layer.cause,
        "causes": {name: asdict(of_one) for name, of_one in layer.causes.items()},
    }
