"""The path `core`: neuroport's reference core."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core import CoreRun, run_core
from neuroport.chip.files import read_inputs, read_network

from .protocol import Prepared, serve


def spike_totals(run: CoreRun) -> Mapping[str, NDArray[np.int64]]:
    """Spikes per neuron of each population, summed over samples."""
    totals = getattr(run, "totals", None)
    return totals if totals is not None else {name: x.sum(0, dtype=np.int64) for name, x in run.counts.items()}


def prepare(case: Path, n_threads: int) -> Prepared:
    """Read the case and run it once: compilation is not timed."""
    network, inputs = read_network(case / "network.h5"), read_inputs(case / "inputs.h5")
    totals = spike_totals(run_core(network, inputs, n_threads=n_threads))
    return Prepared(
        run=lambda: run_core(network, inputs, n_threads=n_threads),
        totals={name: x.reshape(-1).tolist() for name, x in totals.items()},
        n_samples=inputs.n_samples,
        n_steps=inputs.n_steps,
    )


if __name__ == "__main__":
    serve(lambda: prepare(Path(sys.argv[1]), int(sys.argv[2])))
