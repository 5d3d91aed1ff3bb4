"""Runs that rounding explains are equal to a recording, those it does not explain are not; no toolchain is needed."""

from __future__ import annotations

import pytest

from neuroport.chip.oracle import run_oracle
from neuroport.chip.trace import Trace
from neuroport.validation.recorded import Recorded
from neuroport.validation.rerun import Rerun, Reruns
from tests.backends.spinnaker_networks import LEAKY, N_SAMPLES, N_STEPS, TARGET, network


def kept(lower: int, *, backend: str = "spinnaker-nest", target: object = LEAKY, flipped: bool = False) -> Rerun:
    """A bundle whose backend's readout never fires and lies below the core's by so many integers."""
    net, inputs = network(target)
    trace = run_oracle(net, inputs)
    spikes = {name: raster.copy() for name, raster in trace.spikes.items()}
    if flipped:
        spikes["dense"][1, 4, 3] ^= 1
    moved = Trace(spikes, {"scores": trace.potentials["scores"] - lower, "second": trace.potentials["second"]})
    return Reruns().kept(Recorded(net, inputs, trace, moved, LEAKY, backend), moved)


def test_what_rounding_explains_is_equal() -> None:
    found = kept(1)
    assert found.comparison.mismatches == N_SAMPLES * N_STEPS * 10
    assert found.is_equal
    assert "values differ: 0 of " in str(found) and "not explained by rounding (at most" in str(found)
    assert found.as_json()["bounded"]["outside"] == 0


def test_what_it_does_not_explain_differs() -> None:
    for found in (kept(2), kept(-1), kept(0, flipped=True)):
        assert not found.is_equal
        assert found.bounded is not None and f"the first:\n  {found.bounded.first_outside}" in str(found)


@pytest.mark.parametrize("backend", ["spinnaker-brian2", "cpu", "of-another-distribution", ""])
def test_backends_that_must_give_every_bit(backend: str) -> None:
    found = kept(1, backend=backend)
    assert (found.is_equal, found.bounded) == (False, None)
    assert "backend.h5 differs from the recording in" in str(found)


def test_neurons_without_a_leak_must_give_every_bit() -> None:
    found = kept(1, target=TARGET)
    assert (found.is_equal, found.bounded) == (False, None)


def test_equal_bits_ask_nobody() -> None:
    found = kept(0)
    assert (found.is_equal, found.bounded) == (True, None)
    assert str(found).endswith("every bit equal")
    assert "bounded" not in found.as_json()
