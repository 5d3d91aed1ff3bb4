"""Populations whose spikes are given: what lies behind sees them, whatever the population itself would have fired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.core import run_core
from neuroport.chip.core.record import Record
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork
from neuroport.errors import UsageError
from tests.chip.networks import TARGETS, cases, dense, network_of, networks, population, source, spikes_of, target

CHAIN = network_of(
    target("cpu").arithmetic,
    [source((2,)), population("hidden", (2,), role="hidden"), population("out", (1,))],
    [dense([[2, 0], [0, 2]], post="hidden"), dense([[2, 4]], pre="hidden")],
)


def names_forceable(network: IntNetwork) -> list[str]:
    read = {head.population for head in network.heads if head.read == "membrane"}
    return [p.name for p in network.populations if p.role == "hidden" and p.name not in read]


@cases(150)
@given(networks([target(name).arithmetic for name in TARGETS]), st.data(), st.sampled_from(["cpu", "cpu:0"]))
def test_its_own_spikes_forced_change_nothing(case: tuple[IntNetwork, IntInputs], data: st.DataObject, on: str) -> None:
    network, inputs = case
    names = names_forceable(network)
    if not names:
        return
    plain = run_core(network, inputs, record="spikes")
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True))
    forced = {name: plain.trace.spikes[name] for name in chosen}
    found = run_core(network, inputs, record=Record(spikes=list(plain.trace.spikes)), forced=forced, device=on)
    for name, spikes in plain.trace.spikes.items():
        assert np.array_equal(found.trace.spikes[name], spikes), name
    assert np.array_equal(found.readout, plain.readout)


def test_what_lies_behind_sees_the_forced_spikes() -> None:
    inputs = spikes_of(np.zeros((3, 2)))
    forced = np.array([[[1, 0], [0, 1], [1, 1]]], np.uint8)
    run = run_core(CHAIN, inputs, record="all")
    assert run.trace.potentials["out"].tolist() == [[[0], [0], [0]]]
    run = run_core(CHAIN, inputs, record=Record(spikes=["hidden", "out"]), forced={"hidden": forced})
    assert np.array_equal(run.trace.spikes["hidden"], forced)
    assert run.totals["hidden"].tolist() == [2, 2]
    assert run.totals["out"].tolist() == [3]  # sums of 2, 4 and 6 (<< 6) against 1 << 6


@pytest.mark.parametrize(
    ("name", "spikes", "record"),
    [
        ("nowhere", np.zeros((1, 3, 2), np.uint8), "none"),
        ("input", np.zeros((1, 3, 2), np.uint8), "none"),
        ("hidden", np.zeros((1, 3, 2), np.uint8), "all"),
        ("hidden", np.zeros((1, 2, 2), np.uint8), "none"),
        ("hidden", np.zeros((1, 3, 2), np.int64), "none"),
        ("hidden", np.full((1, 3, 2), 2, np.uint8), "none"),
    ],
)
def test_spikes_that_cannot_be_forced(name: str, spikes: np.ndarray, record: str) -> None:
    with pytest.raises(UsageError, match=f"forced on '{name}'"):
        run_core(CHAIN, spikes_of(np.zeros((3, 2))), record=record, forced={name: spikes})
