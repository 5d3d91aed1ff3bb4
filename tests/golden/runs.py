"""Recorded runs and bundles for tests: small, and made without converting anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from neuroport.bundle import staged_bundle
from neuroport.chip.files import write_inputs, write_network, write_trace
from neuroport.chip.oracle import run_oracle
from neuroport.chip.target import load_target
from neuroport.chip.trace import Trace
from neuroport.validation.golden import record_run
from neuroport.validation.recorded import Recorded
from tests.golden.features import make


def a_run(target: str = "loihi1", kind: str = "spikes") -> Recorded:
    """A run of the core for a datasheet."""
    sheet = load_target(target)
    return record_run(*make(sheet, kind), sheet)


def with_changed_spike(recorded: Recorded, population: str, at: tuple[int, ...]) -> Recorded:
    """The record with one spike more, or one less."""
    spikes = dict(recorded.trace.spikes)
    spikes[population] = spikes[population].copy()
    spikes[population][at] ^= 1
    return replace(recorded, trace=Trace(spikes, recorded.trace.potentials))


def write_bundle(place: Path, recorded: Recorded, **left_out: Any) -> Path:
    """A bundle as `deploy` writes it, with the oracle as its backend; `network=False` leaves network.h5 out."""
    with staged_bundle(place) as stage:
        write_network(stage / "network.h5", recorded.network)
        write_inputs(stage / "inputs.h5", recorded.inputs)
        write_trace(stage / "core.h5", recorded.trace.spikes, recorded.trace.potentials)
        oracle = recorded.backend or run_oracle(recorded.network, recorded.inputs)
        write_trace(stage / "backend.h5", oracle.spikes, oracle.potentials)
        if recorded.sheet is not None:
            text = yaml.safe_dump(recorded.sheet.model_dump(mode="json", exclude_none=True), sort_keys=False)
            (stage / "target.yaml").write_text(text)
        for name in left_out:
            (stage / f"{name}.h5").unlink()
    return place
