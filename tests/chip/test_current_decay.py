"""Currents that outlast a step: the oracle against Lava's lines by hand, the core and torch against the oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.core import run_core
from neuroport.chip.files import read_network, write_network
from neuroport.chip.network import IntNetwork
from neuroport.chip.oracle import run_oracle
from neuroport.errors import DoesNotFitError
from tests.chip.networks import cases, dense, network_of, networks, population, source, spikes_of, target, variant
from tests.chip.networks import with_arithmetic as in_registers

LOIHI = target("loihi-sim").arithmetic


def with_memory(draw: Any, network: IntNetwork) -> IntNetwork:
    """Some populations keep what is drawn of their currents."""
    full = 1 << network.arithmetic.decay_bits
    kept = st.sampled_from([None, 0, 1, full // 10, full // 2, full - 1, full])
    populations = [
        p if p.role == "input" or p.gate else replace(p, current_decay=draw(kept)) for p in network.populations
    ]
    return replace(network, populations=tuple(populations))


def same(network: IntNetwork, inputs: Any, **run: Any) -> None:
    core, oracle = run_core(network, inputs, record="all", n_threads=1, **run).trace, run_oracle(network, inputs)
    for p in network.populations:
        np.testing.assert_array_equal(core.spikes[p.name], oracle.spikes[p.name], err_msg=p.name)
        if p.role != "input":
            np.testing.assert_array_equal(core.potentials[p.name], oracle.potentials[p.name], err_msg=p.name)


@cases(150)
@given(st.data())
def test_the_core_keeps_currents_as_the_oracle_does(data: Any) -> None:
    network, inputs = data.draw(networks([LOIHI, target("cpu").arithmetic, variant("loihi-sim", decay_bits=7)]))
    same(with_memory(data.draw, network), inputs)


@cases(60)
@given(st.data())
def test_currents_that_leave_their_register(data: Any) -> None:
    """Registers of 12 bits, wrapped and saturated: what a step leaves is of the register, not of the exact sum."""
    network, inputs = data.draw(networks([LOIHI]))
    overflow = data.draw(st.sampled_from(["wrap", "saturate"]))
    network = with_memory(data.draw, network)
    same(in_registers(network, variant("loihi-sim", current={"bits": 12, "overflow": overflow})), inputs)


@cases(40)
@given(st.data())
def test_torch_keeps_currents_as_the_oracle_does(data: Any) -> None:
    network, inputs = data.draw(networks([LOIHI]))
    same(with_memory(data.draw, network), inputs, device="cpu:0")


@pytest.mark.parametrize("decay", [0, 1, 410, 2048, 4095, 4096])
def test_the_oracle_computes_lavas_lines(decay: int) -> None:
    """lava-nc 0.10.0, lava/proc/lif/models.py l.145-192 in Python's own integers, both signs."""
    rng = np.random.default_rng(decay)
    raster, weights = rng.integers(0, 2, (40, 3)), np.array([[90, -100, 30], [-256, 120, -2]])
    out = population("out", (2,), threshold_mantissa=150, current_decay=decay, decay=300)
    trace = run_oracle(network_of(LOIHI, [source((3,)), out], [dense(weights)]), spikes_of(raster))
    for n in range(2):
        u = v = 0
        for t in range(40):
            u = (1 if u > 0 else -1) * ((abs(u) * (4096 - decay)) >> 12) + (int(weights[n] @ raster[t]) << 6)
            v = (1 if v > 0 else -1) * ((abs(v) * (4096 - 300)) >> 12) + u
            fired = v > 150 << 6
            v = 0 if fired else v
            assert (trace.spikes["out"][0, t, n], trace.potentials["out"][0, t, n]) == (fired, v)
    assert trace.spikes["out"].any()


def test_a_current_decay_outside_its_bits_is_refused() -> None:
    out = population(current_decay=4097)
    with pytest.raises(DoesNotFitError, match=r"layer 'out': current decay 4097, testchip allows 0 to 4096"):
        network_of(LOIHI, [source(), out], [dense([[2]])])


@pytest.mark.parametrize("decay", [None, 0, 410])
def test_a_file_keeps_it(tmp_path: Path, decay: int | None) -> None:
    made = network_of(LOIHI, [source(), population(current_decay=decay)], [dense([[2]])])
    write_network(tmp_path / "network.h5", made)
    assert read_network(tmp_path / "network.h5").by_name["out"].current_decay == decay
