"""Readouts and accuracy after every step, against trains worked out by hand and against shorter simulations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroport.ann.graph import MaxPool2d
from neuroport.snn import over_time
from neuroport.snn.network import Gate, Head, Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Dense, Window
from neuroport.snn.over_time import accuracy_over_time, first_step_within, scores_over_time
from neuroport.snn.readout import softmax_counts
from neuroport.snn.simulate import FloatRun, OverTime, simulate

MEMBRANE = Neuron(fires=False)


def layered(*layers: tuple[Any, Any, Neuron], clamp: tuple[int, ...] = ()) -> SpikingNetwork:
    """Dense layers of (weight [n_out, n_in], bias [n_out], neuron); the last is the readout."""
    n_in = np.shape(layers[0][0])[1]
    populations = [Population("input", (n_in,), np.zeros(n_in), Neuron(), role="input")]
    projections = []
    for k, (weight, bias, neuron) in enumerate(layers):
        w, b = np.array(weight, np.float64), np.array(bias, np.float64)
        role: Any = "readout" if k == len(layers) - 1 else "hidden"
        projections.append(Projection(populations[-1].name, f"p{k}", Dense(w, (w.shape[1],), (len(w),))))
        populations.append(Population(f"p{k}", (len(w),), b, neuron, role, clamp[k] if clamp else 0))
    return SpikingNetwork(tuple(populations), tuple(projections))


def watched(network: SpikingNetwork, images: Any, n_steps: int) -> tuple[FloatRun, OverTime]:
    found = simulate(network, np.array(images, np.float64), n_steps, over_time=True, dtype=torch.float64)
    assert found.over_time is not None
    return found, found.over_time


def test_it_is_recorded_only_if_asked_for() -> None:
    assert simulate(layered(([[1.0]], [0], Neuron())), np.ones((1, 1)), 3).over_time is None


def test_a_membrane_after_every_step() -> None:
    """Per step 3 * 0.5 - 2 + 0.25 = -0.25 and 0.5 + 0.125 = 0.625."""
    _, shown = watched(layered(([[3, -1], [1, 0]], [0.25, 0.125], MEMBRANE)), [[0.5, 2.0]], 3)
    assert shown.counts is None
    assert shown.potentials is not None
    assert shown.potentials.tolist() == [[[-0.25, 0.625], [-0.5, 1.25], [-0.75, 1.875]]]


def test_counts_after_every_step_and_the_potentials_without_firing() -> None:
    """Currents 1/4 and 1/2 from v_init 1/2: spikes at steps 2, 6 and at 1, 3, 5, counted from 1."""
    _, shown = watched(layered(([[0.25], [0.5]], [0, 0], Neuron(v_init=0.5))), [[1.0]], 6)
    assert shown.counts is not None
    assert shown.potentials is not None
    assert shown.counts[0].T.tolist() == [[0, 1, 1, 1, 1, 2], [1, 1, 2, 2, 3, 3]]
    assert shown.potentials[0].T.tolist() == [[0.75, 1, 1.25, 1.5, 1.75, 2], [1, 1.5, 2, 2.5, 3, 3.5]]


@given(
    seed=st.integers(0, 1000),
    reset=st.sampled_from(["zero", "subtract"]),
    leak=st.sampled_from([1.0, 0.75]),
    fires=st.booleans(),
    clamp=st.sampled_from([(0, 0), (3, 5)]),
)
def test_every_step_is_the_end_of_a_shorter_simulation(
    seed: int, reset: Any, leak: float, fires: bool, clamp: tuple[int, int]
) -> None:
    """Of a firing output the potentials are those of the same network whose output does not fire. Dyadic, so exact."""
    rng = np.random.default_rng(seed)
    weights = [rng.integers(-8, 9, shape) / 8 for shape in ((5, 3), (4, 5))]
    hidden = Neuron(reset, v_init=0.5)
    neuron = Neuron(reset, v_init=0.25, leak=leak, fires=fires)
    layers = ((weights[0], rng.integers(-2, 3, 5) / 8, hidden), (weights[1], rng.integers(-2, 3, 4) / 8, neuron))
    network = layered(*layers, clamp=clamp)
    silent = layered(layers[0], (*layers[1][:2], replace(neuron, fires=False)), clamp=clamp)
    images, n_steps = rng.integers(0, 9, (3, 3)) / 8, 12
    found, shown = watched(network, images, n_steps)
    assert shown.potentials is not None
    for t in range(1, n_steps + 1):
        readout = simulate(network, images, t, dtype=torch.float64).readout
        np.testing.assert_array_equal((shown.potentials if shown.counts is None else shown.counts)[:, t - 1], readout)
        unfired = simulate(silent, images, t, dtype=torch.float64).readout
        np.testing.assert_array_equal(shown.potentials[:, t - 1], unfired)
    np.testing.assert_array_equal(readout, found.readout)


def test_a_gate_has_counts_and_no_potentials() -> None:
    op = Window(MaxPool2d((1, 2), (1, 2), (0, 0), (1, 1)), (1, 1, 4), (1, 1, 2))
    populations = (
        Population("input", (4,), np.zeros(4), Neuron(), role="input"),
        Population("p", (1, 1, 4), np.zeros((1, 1, 4)), Neuron()),
        Population("gate", (1, 1, 2), np.zeros((1, 1, 2)), Gate(), role="readout"),
    )
    dense = Projection("input", "p", Dense(np.eye(4), (4,), (4,)))
    network = SpikingNetwork(populations, (dense, Projection("p", "gate", op)))
    _, shown = watched(network, [[1.0, 0.0, 0.0, 0.5]], 4)
    assert shown.potentials is None
    assert shown.counts is not None
    assert shown.counts[0, :, 0].tolist() == [1, 2, 3, 4]
    assert list(scores_over_time(network, np.array([[1.0, 0.0, 0.0, 0.5]]), 4)) == ["count"]


# One neuron per class with current x: spikes at the steps t with t * x crossing an integer, no head start.
IDENTITY = layered((np.eye(2), [0, 0], Neuron()))
SAMPLES = np.array([[0.5, 0.25], [0.25, 0.5], [0.25, 1.0], [0.0, 0.125]])
LABELS = np.array([0, 1, 1, 1])


def test_accuracy_by_hand() -> None:
    """Counts of class 0 and 1 in steps 1 to 4; the class with more spikes wins, class 0 where they are equal.

    Sample 0: 0 1 1 2 against 0 0 0 1: right from the start. Sample 1: 0 0 0 1 against 0 1 1 2: wrong at
    step 1. Sample 2: 1 2 3 4 for class 1: right at once. Sample 3: no spike before step 8: wrong. By membrane all four
    are right at once.
    """
    found = accuracy_over_time(IDENTITY, SAMPLES, LABELS, 4)
    assert list(found) == ["count", "membrane"]
    assert found["count"].tolist() == [0.5, 0.75, 0.75, 0.75]
    assert found["membrane"].tolist() == [1, 1, 1, 1]
    assert accuracy_over_time(IDENTITY, SAMPLES, LABELS, 8)["count"][7] == 1


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    samples, labels = rng.integers(0, 9, (23, 2)) / 8, rng.integers(0, 2, 23)
    whole = accuracy_over_time(IDENTITY, samples, labels, 9)
    assert 0 < whole["count"][8] < 1
    monkeypatch.setattr(over_time, "_BATCH", 5)
    told: list[int] = []
    parts = accuracy_over_time(IDENTITY, samples, labels, 9, on_samples=told.append)
    assert told == [5, 10, 15, 20, 23]
    monkeypatch.setattr(over_time, "_MAX_NUMBERS", 40)  # 2 samples of 9 steps and 2 classes
    few = accuracy_over_time(IDENTITY, samples, labels, 9, on_samples=told.append)
    assert told[5:7] == [2, 4]
    for readout in ("count", "membrane"):
        assert whole[readout].tolist() == parts[readout].tolist() == few[readout].tolist()


def test_a_spiking_softmax_shows_its_spikes_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    network = replace(layered((4 * np.eye(2), [0, 0], MEMBRANE)), heads=(Head("p0", is_sampled=True),))
    found = scores_over_time(network, SAMPLES, 40, seed=3, first_sample=7)
    assert list(found) == ["softmax", "membrane"]
    potentials = simulate(network, SAMPLES, 40).potentials["p0"]
    np.testing.assert_array_equal(found["softmax"][:, -1], softmax_counts(potentials, 3, first_sample=7))
    assert (np.diff(found["softmax"], axis=1) >= 0).all()
    assert found["softmax"][:, -1].sum() > 80  # 160 expected
    accuracy = accuracy_over_time(network, SAMPLES, LABELS, 40, seed=3)["softmax"]
    assert accuracy[-1] == 1
    rng = np.random.default_rng(1)
    samples, labels = rng.random((20, 2)) / 20, rng.integers(0, 2, 20)  # so weak that the draws decide
    accuracy = accuracy_over_time(network, samples, labels, 40, seed=3)["softmax"]
    monkeypatch.setattr(over_time, "_BATCH", 3)  # samples draw from generators of their own
    assert accuracy_over_time(network, samples, labels, 40, seed=3)["softmax"].tolist() == accuracy.tolist()


@pytest.mark.parametrize(
    ("accuracy", "tolerance", "expected"),
    [
        ([0.1, 0.5, 0.89, 0.9], 0.01, 3),
        ([0.1, 0.5, 0.89, 0.9], 0.005, 4),
        ([0.95, 0.9, 0.9], 0.0, 1),
        ([0.9, 0.9, 0.1, 0.9], 0.01, 4),  # within, out, and within again: the last return counts
        ([0.9, 0.9, 0.1], 0.01, None),
        ([0.1, 0.2], 0.01, None),
        ([0.1, 0.2], 1.0, 1),
    ],
)
def test_the_first_step_from_which_it_stays(accuracy: list[float], tolerance: float, expected: int | None) -> None:
    assert first_step_within(np.array(accuracy), 0.9, tolerance) == expected


def test_the_rounding_of_fractions_decides_nothing() -> None:
    """6 of 100 are within one point of 7 of 100, although 0.07 - 0.01 > 0.06 in floating point."""
    assert first_step_within(np.array([6 / 100]), 7 / 100, 0.01) == 1
    assert first_step_within(np.array([0.0599]), 0.07, 0.01) is None
