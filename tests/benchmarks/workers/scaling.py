"""How the core's cost grows with samples, steps, neurons and firing rate. Prints one JSON line.

Two dense layers of n neurons behind n inputs; input and layers fire at the same rate. One axis moves at a time, each
value twice the one before. Weights are laid out once a run, whatever its samples and steps.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from neuroport.chip.core import run_core
from tests.benchmarks.networks import Case, dense_chain
from tests.benchmarks.synops import count_synops

from .core import spike_totals
from .protocol import channel

_BASE = {"samples": 16, "steps": 128, "neurons": 1024, "rate": 0.08}
_AXES: dict[str, tuple[float, ...]] = {
    "samples": (8, 16, 32, 64),
    "steps": (32, 64, 128, 256),
    "neurons": (256, 512, 1024, 2048),
    "rate": (0.01, 0.02, 0.04, 0.08, 0.16, 0.32),
}
_REPEATS = 3


def measure(case: Case) -> dict[str, float]:
    """CPU seconds of the fastest of some runs, and what was done in it."""
    totals = spike_totals(run_core(case.network, case.inputs, n_threads=1))
    found = []
    for _ in range(_REPEATS):
        start = time.process_time()
        run_core(case.network, case.inputs, n_threads=1)
        found.append(time.process_time() - start)
    n_sample_steps = case.inputs.n_samples * case.inputs.n_steps
    return {
        "cpu_s": min(found),
        "cpu_us_per_sample_step": 1e6 * min(found) / n_sample_steps,
        "synops_per_s": count_synops(case.network, totals) / min(found),
    }


def sweep(axes: dict[str, tuple[float, ...]], base: dict[str, float]) -> list[dict[str, Any]]:
    """One row for each axis: its points, the exponent of cost ~ value^exponent, and what the last doubling costs."""
    rows = []
    for axis, values in axes.items():
        points = []
        for value in values:
            at = {**base, axis: value}
            sizes = [int(at["neurons"])] * 3
            n_samples, n_steps, rate = int(at["samples"]), int(at["steps"]), at["rate"]
            case = dense_chain("chain", n_samples, n_steps, sizes, rate, input_rate=rate)
            points.append({axis: value, **measure(case)})
        slope = np.polyfit(np.log(values), np.log([p["cpu_s"] for p in points]), 1)[0]
        doubled = points[-1]["cpu_s"] / points[-2]["cpu_s"]
        rows.append({"axis": axis, "exponent": float(slope), "last_doubling": doubled, "points": points})
    return rows


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    axes = {axis: values[:3] for axis, values in _AXES.items()} if quick else _AXES
    channel()({"base": _BASE, "axes": sweep(axes, dict(_BASE))})
