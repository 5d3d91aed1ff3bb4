"""Runs that stop once every answer is certain: never wrong, early where they must be, to the end where they must."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroport.ann.graph import MaxPool2d
from neuroport.errors import UsageError
from neuroport.snn import simulate as simulator
from neuroport.snn.network import Gate, Head, Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Dense, Window
from neuroport.snn.settled import Drift, Settling, counts_settled
from neuroport.snn.simulate import FloatRun, simulate
from tests.snn.test_simulate import layered

MEMBRANE = Neuron(fires=False)


def both(network: SpikingNetwork, images: Any, n_steps: int, **options: Any) -> tuple[FloatRun, FloatRun]:
    samples = np.asarray(images, np.float64)
    full = simulate(network, samples, n_steps, **options)
    return full, simulate(network, samples, n_steps, stop_when_settled=True, **options)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    n_out=st.integers(1, 4),
    fires=st.booleans(),
    reset=st.sampled_from(["zero", "subtract"]),
    leak=st.sampled_from([1.0, 0.75, 0.5]),
    clamp=st.sampled_from([(0, 0), (2, 5), (0, 30)]),
    encoding=st.sampled_from(["current", "rate", "poisson"]),
    is_direct=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_answer_is_that_of_the_full_run(
    seed: int,
    n_out: int,
    fires: bool,
    reset: Any,
    leak: float,
    clamp: tuple[int, int],
    encoding: Any,
    is_direct: bool,
    dtype: torch.dtype,
) -> None:
    """Of small and large weights against the constant, with a second projection from the input to the output."""
    rng = np.random.default_rng(seed)
    size = rng.choice([0.02, 0.2, 1.0])
    network = layered(
        (rng.normal(size=(6, 3)), rng.normal(size=6) / 4, Neuron(reset, v_init=0.5)),
        (size * rng.normal(size=(n_out, 6)), rng.normal(size=n_out) / 4, Neuron(reset, leak=leak, fires=fires)),
        encoding=encoding,
        clamp=clamp,
    )
    if is_direct:
        short = Projection("input", "p1", Dense(size * rng.normal(size=(n_out, 3)), (3,), (n_out,)))
        network = replace(network, projections=(*network.projections, short))
    images = rng.random((rng.integers(1, 4), 3))
    full, found = both(network, images, 24, dtype=dtype)
    assert 1 <= found.n_steps <= full.n_steps == 24
    np.testing.assert_array_equal(found.readout.argmax(1), full.readout.argmax(1))
    np.testing.assert_array_equal(found.readout, simulate(network, images, found.n_steps, dtype=dtype).readout)


# --- spikes that are counted


def test_a_count_is_settled_when_the_lead_exceeds_the_steps_left() -> None:
    """Rates 1 and 1/4 over 16 steps. Class 1 behind class 0 must overtake it: 12 - 3 at step 12 exceeds 4 steps left.

    Step 9: 9 - 2 = 7 are left, and 7 more spikes draw level, which class 0 wins. Before, at 8: 8 - 2 = 6 < 8.
    """
    first = layered((np.eye(2), [0, 0], Neuron()))
    full, found = both(first, [[1.0, 0.25]], 16)
    assert full.readout.tolist() == [[16, 4]]
    assert found.n_steps == 9
    assert found.readout.tolist() == [[9, 2]]
    # The other way round a draw is not enough: 10 - 2 = 8 exceeds the 6 steps left at step 10.
    _, second = both(first, [[0.25, 1.0]], 16)
    assert second.n_steps == 10


def test_one_sample_that_is_open_keeps_the_others_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of another batch: all end at the same step."""
    network = layered((np.eye(2), [0, 0], Neuron()))
    images = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.5], [0.0, 1.0]]
    for largest in (128, 2, 1):
        monkeypatch.setattr(simulator, "_MIN_BATCH", 1)
        monkeypatch.setattr(simulator, "_MAX_BATCH", largest)
        _, found = both(network, images, 32, record=("p0",), over_time=True)
        assert found.n_steps == 21  # 21 - 10 is as much as the 11 left; at 20: 20 - 10 < 12
        assert found.readout[:, 0].tolist() == [21, 0, 21, 0]
        assert found.rasters["p0"].shape == (4, 21, 2)
        assert found.over_time is not None
        assert found.over_time.counts is not None
        assert found.over_time.counts.shape == (4, 21, 2)


def test_equal_rates_run_to_the_end() -> None:
    full, found = both(layered((np.eye(2), [0, 0], Neuron())), [[0.5, 0.5]], 16)
    assert found.n_steps == 16
    np.testing.assert_array_equal(found.readout, full.readout)


def test_a_clamped_output_cannot_fire_before_its_step() -> None:
    """Nothing at all can happen in 8 steps of an output clamped until step 9, and the first class wins."""
    network = layered((np.eye(2), [0, 0], Neuron()), clamp=(9,))
    assert both(network, [[0.0, 1.0]], 8)[1].n_steps == 1
    assert both(network, [[0.0, 1.0]], 12)[1].n_steps == 11


@given(
    counts=st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=3),
    n_left=st.integers(0, 4),
)
def test_counts_are_settled_exactly_if_no_continuation_changes_an_answer(counts: list[list[int]], n_left: int) -> None:
    """Against all continuations of one sample: each neuron fires 0 to n_left times more."""
    found = np.array(counts, np.int32)
    more = np.array(list(np.ndindex(*(n_left + 1,) * 3)))
    changes = [((row + more).argmax(1) != row.argmax()).any() for row in found]
    assert counts_settled(found, n_left) == (not any(changes))


# --- potentials


def test_a_membrane_is_settled_when_the_worst_spikes_cannot_turn_it() -> None:
    """Hidden spikes at every step (rate 1) bring 1/4 to class 0, a silent one could bring 1 to class 1: n / 4 > 20 - n

    from step 17 on: 17 / 4 > 3 and 16 / 4 = 4.
    """
    network = layered((np.eye(2), [0, 0], Neuron()), ([[0.25, 0], [0, 1]], [0, 0], MEMBRANE))
    full, found = both(network, [[1.0, 0.0]], 20)
    assert full.readout.tolist() == [[5, 0]]
    assert found.n_steps == 17


def test_constants_are_known_and_no_spike_can_hold_them_up() -> None:
    """Class 0 gains 1/2 in each step from its current, the only synapse can take 1/8 of that away."""
    network = layered((np.eye(1), [0], Neuron()), ([[-0.125], [0]], [0.5, 0], MEMBRANE))
    assert both(network, [[1.0]], 50)[1].n_steps == 1
    against = layered((np.eye(1), [0], Neuron()), ([[0.75], [0]], [-0.5, 0], MEMBRANE))
    assert both(against, [[1.0]], 50)[1].n_steps == 34  # n / 4 against (50 - n) / 2, if the spikes end: n > 33.3


def test_a_leak_forgets_a_lead() -> None:
    """Leak 1/2: a step of 1 for class 0 now is worth 2^-n later; spikes could bring 1 to class 1 in the last step."""
    network = layered((np.eye(2), [0, 0], Neuron()), (np.eye(2), [0, 0], Neuron(leak=0.5, fires=False)))
    assert both(network, [[1.0, 0.0]], 30)[1].n_steps == 30
    small = layered((np.eye(2), [0, 0], Neuron()), ([[1, 0], [0, 0.25]], [0, 0], Neuron(leak=0.5, fires=False)))
    # 2 2^-n against 1/4 (2 - 2 2^-n), up to 2^-30: 5/2 2^-n > 1/2 with n = 2 steps left
    assert both(small, [[1.0, 0.0]], 30)[1].n_steps == 28


def test_potentials_that_are_equal_or_nearly_so_run_to_the_end() -> None:
    """Nothing can happen, but what is smaller than the rounding of the steps to come proves nothing."""
    network = layered((np.eye(1), [0], Neuron()), (np.zeros((2, 1)), [0.5, 0.5], MEMBRANE))
    assert both(network, [[1.0]], 20)[1].n_steps == 20
    drift = Drift(np.zeros(2), np.zeros(2), 1, 1.0)
    constant = np.zeros((1, 2))
    assert not drift.settled(np.array([[1.0, 1 - 1e-7]]), constant, 10, 2**-23)
    assert drift.settled(np.array([[1.0, 1 - 1e-7]]), constant, 10, 2**-52)
    assert drift.settled(np.array([[1.0, 1 - 1e-4]]), constant, 10, 2**-23)
    assert not drift.settled(np.array([[1.0, np.nan]]), constant, 10, 2**-23)


# --- what is refused


def test_outputs_without_a_bound_are_refused() -> None:
    membrane = layered((np.eye(2), [0, 0], MEMBRANE))
    sampled = replace(membrane, heads=(Head("p0", is_sampled=True),))
    allowed = "stop_when_settled allows outputs that count their own spikes or hold a potential"
    with pytest.raises(UsageError, match=f"output 'p0' is read by a spiking softmax, .*; {allowed}"):
        simulate(sampled, np.ones((1, 2)), 4, stop_when_settled=True)
    window = Window(MaxPool2d((1, 2), (1, 2)), (1, 1, 2), (1, 1, 1))
    gate = Population("gate", (1, 1, 1), np.zeros((1, 1, 1)), Gate(), "readout")
    first, hidden = layered((np.eye(2), [0, 0], Neuron())).populations
    dense = Projection("input", "p0", Dense(np.eye(2), (2,), (2,)))
    network = SpikingNetwork((first, hidden, gate), (dense, Projection("p0", "gate", window)))
    with pytest.raises(UsageError, match=f"output 'gate' is a max-pool gate; {allowed}"):
        Settling.of(network)
    assert simulate(network, np.ones((1, 2)), 4).n_steps == 4
