"""What a report says of the outputs, and what a user should know although nothing failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuroport.chip.network import IntNetwork
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import SpikingNetwork
from neuroport.snn.operators import Shape
from neuroport.validation.ladder import Ladder
from neuroport.validation.outputs import TestSet

_WORTH_SAYING = 1e-4  # fraction of neuron-steps outside a register


def output_rows(outputs: Sequence[tuple[str, Shape]], normalized: Normalized, ladder: Ladder) -> list[dict[str, Any]]:
    """One row per output: its shape, the population it is read from, and its relative error on each rung."""
    rows = []
    for k, ((name, shape), head) in enumerate(zip(outputs, normalized.network.outputs, strict=True)):
        errors = {rung: found[k] for rung, found in ladder.errors.items()}
        rows.append({"name": name, "shape": list(shape), "population": head.population, "error": errors})
    return rows


def input_warnings(network: SpikingNetwork, tests: TestSet) -> list[str]:
    """Inputs that no rate expresses: beyond the largest magnitude of the calibration data."""
    if not network.is_rate_coded:
        return []
    values = tests.images.reshape(len(tests), -1)
    beyond = np.abs(values) > network.input_scale * (1 + _WORTH_SAYING)
    lost = beyond | (values < 0) if network.n_signs == 1 else beyond
    if not lost.any():
        return []
    return [
        f"{100 * float(lost.mean()):.3f} % of the test inputs are outside the range of the calibration data "
        f"(magnitudes up to {float(network.input_scale.max()):.4g}{', none below 0' if network.n_signs == 1 else ''}) "
        f"and were held at its end, as no rate expresses them; calibrate on data like the test data"
    ]


def warnings(rows: Sequence[Mapping[str, Any]], *, n_neuron_steps: int, network: IntNetwork) -> list[str]:
    """What a user should know although nothing failed, one sentence each.

    rows: of layer_rows; n_neuron_steps: samples times steps, per neuron.
    """
    found = []
    accumulators = {head.population for head in network.heads if head.read == "membrane"}
    outputs = {head.population for head in network.heads}
    for row in rows:
        if row["name"] in outputs:
            continue
        lost = row["overflows"] / (row["neurons"] * n_neuron_steps)
        if row["mean_rate"] == 0:
            found.append(f"layer '{row['name']}' never fired: nothing reaches the layers behind it; use more steps")
        elif lost > _WORTH_SAYING:
            found.append(
                f"layer '{row['name']}': a current or potential left its register in {100 * lost:.3f} % of all steps; "
                f"its rates are too low"
            )
    for row in (row for row in rows if row["name"] in outputs):
        spoiled = row["overflows"] + row["floored"]
        if row["name"] in accumulators and row["mean_rate"] > 0:
            spoiled += 1
        if spoiled:
            found.append(
                f"readout '{row['name']}': potentials reached the end of their register; scores are wrong for some "
                f"samples; use fewer steps, or calibrate on data like the test data"
            )
    return found
