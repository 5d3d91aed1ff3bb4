"""report.json: every number of a deployment, under a versioned schema (schema.py says what each key means)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuroport.chip.network import IntNetwork
from neuroport.chip.quantize import LayerQuantization
from neuroport.chip.synapses import n_synapses
from neuroport.validation.ladder import LayerActivity
from neuroport.version import __version__

SCHEMA = "neuroport-report/1"


def layer_rows(
    network: IntNetwork, quantization: Mapping[str, LayerQuantization], activity: Mapping[str, LayerActivity]
) -> list[dict[str, Any]]:
    """One row per population: size, scale, rounding, and what it did on the integer core.

    Keys: name, shape, neurons, synapses, threshold_mantissa, bias_exponent, weight_exponents, weight_error (relative),
    clipped_fraction, bias_error_v_th, synaptic_sum, synaptic_limit, mean_rate (spikes per step), silent_fraction,
    overflows and floored (neuron-steps at which a register was at its upper end or wrapped, and at its lower end).
    """
    rows = []
    for p in network.populations:
        if p.role == "input":
            continue
        q, a = quantization[p.name], activity[p.name]
        rows.append(
            {
                "name": p.name,
                "shape": list(p.shape),
                "neurons": p.n_neurons,
                "synapses": sum(n_synapses(j.synapse) for j in network.incoming[p.name]),
                "threshold_mantissa": p.threshold_mantissa,
                "bias_exponent": p.bias_exponent,
                "weight_exponents": list(q.exponents),
                "weight_error": q.weight_error,
                "clipped_fraction": q.clipped,
                "bias_error_v_th": q.bias_error,
                "synaptic_sum": q.synaptic_sum,
                "synaptic_limit": q.synaptic_limit,
                **asdict(a),
            }
        )
    return rows


def versions() -> dict[str, str]:
    """Versions of what computed the report."""
    packages = {name: version(name) for name in ("torch", "numpy", "numba", "h5py")}
    return {"neuroport": __version__, "python": platform.python_version(), **packages}


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write report.json; NaN is refused, as JSON has none."""
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
