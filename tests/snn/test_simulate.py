"""The float simulator against spike trains and potentials worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroport.ann.graph import MaxPool2d
from neuroport.errors import DataError, InvalidNetworkError
from neuroport.snn import simulate as simulator
from neuroport.snn.network import Gate, Head, Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Dense, Window
from neuroport.snn.simulate import FloatRun, simulate
from tests.snn.graphs import NETS
from tests.snn.test_layerwise import N_STEPS, dyadic, samples_for

MEMBRANE = Neuron(fires=False)


def layered(*layers: tuple[Any, Any, Neuron], encoding: Any = "current", clamp: tuple[int, ...] = ()) -> SpikingNetwork:
    """Dense layers of (weight [n_out, n_in], bias [n_out], neuron); the last is the readout."""
    n_in = np.shape(layers[0][0])[1]
    populations = [Population("input", (n_in,), np.zeros(n_in), Neuron(v_init=0.5), role="input")]
    projections = []
    for k, (weight, bias, neuron) in enumerate(layers):
        w, b = np.array(weight, np.float64), np.array(bias, np.float64)
        role: Any = "readout" if k == len(layers) - 1 else "hidden"
        until = clamp[k] if clamp else 0
        projections.append(Projection(populations[-1].name, f"p{k}", Dense(w, (w.shape[1],), (len(w),))))
        populations.append(Population(f"p{k}", (len(w),), b, neuron, role, until))
    return SpikingNetwork(tuple(populations), tuple(projections), encoding)


def run(network: SpikingNetwork, images: Any, n_steps: int, *record: str) -> FloatRun:
    return simulate(network, np.array(images, np.float64), n_steps, record=record, dtype=torch.float64)


def train(current: float, neuron: Neuron, n_steps: int, *, bias: float = 0.0) -> list[int]:
    """Steps, counted from 1, at which one neuron with a constant input current fires."""
    network = layered(([[1.0]], [bias], neuron))
    found = run(network, [[current]], n_steps, "p0")
    steps = np.flatnonzero(found.rasters["p0"][0, :, 0]) + 1
    assert found.readout.item() == found.counts["p0"].item() == len(steps)
    return steps.tolist()


@pytest.mark.parametrize(
    ("current", "neuron", "expected"),
    [
        # 0.3 0.6 0.9 1.2* 0.5 0.8 1.1* 0.4 0.7: the rest above the threshold is kept
        (0.3, Neuron("subtract"), [4, 7]),
        # 0.3 0.6 0.9 1.2* 0.3 0.6 0.9 1.2* 0.3: the rest is lost
        (0.3, Neuron("zero"), [4, 8]),
        # 0.85 1.15* 0.45 0.75 1.05* 0.35 0.65 0.95 1.25*
        (0.3, Neuron("subtract", v_init=0.55), [2, 5, 9]),
        (0.3, Neuron("zero", v_init=0.55), [2, 6]),
        # 0.25 0.5 0.75 1.0*: the threshold itself fires
        (0.25, Neuron("subtract"), [4, 8]),
        (0.25, Neuron("zero"), [4, 8]),
        # 0.5 0.75 0.875 0.9375 ...: with leak 1/2 it never gets to 1
        (0.5, Neuron("subtract", leak=0.5), []),
        # 0.75 1.125* (0.125) 0.8125 1.15625* (0.15625) 0.828125 1.1640625*
        (0.75, Neuron("subtract", leak=0.5), [2, 4, 6, 8]),
        # 0.625 0.9375 1.09375* 0.625 0.9375 1.09375*
        (0.625, Neuron("zero", leak=0.5), [3, 6, 9]),
        # more than one threshold per step: one spike per step, the rest stays
        (2.5, Neuron("subtract"), list(range(1, 10))),
        # 0.3 0.6* 0.35 0.65* 0.4 0.7* 0.45 0.75* 0.5
        (0.3, Neuron("subtract", v_th=0.55), [2, 4, 6, 8]),
        (-0.3, Neuron("subtract"), []),
        (1.0, Neuron("zero"), list(range(1, 10))),
    ],
)
def test_spike_trains_of_one_neuron(current: float, neuron: Neuron, expected: list[int]) -> None:
    assert train(current, neuron, 9) == expected
    assert train(0.0, neuron, 9, bias=current) == expected  # a bias is a constant current


def test_a_bias_adds_to_the_current() -> None:
    assert train(0.5, Neuron("subtract"), 8, bias=-0.25) == [4, 8]


@given(
    z=st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=30),
    n_steps=st.integers(1, 200),
    v_init=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_the_rate_converges_to_the_clipped_activation_as_one_over_t(
    z: list[float], n_steps: int, v_init: float
) -> None:
    """Reset by subtraction keeps v_init + T z - n within [0, 1) for 0 <= z <= 1, so |n / T - z| <= max(v, 1 - v) / T.

    Above 1 a neuron fires at every step, below 0 never: the rate is ReLU1. Source: Rueckauer 2016, eq. 6; Mueller
    2021, eq. 3 to 8. The 1e-12 is for the rounding of 200 sums in float64.
    """
    network = layered((np.eye(len(z)), np.zeros(len(z)), Neuron("subtract", v_init=v_init)))
    rate = run(network, [z], n_steps).readout[0] / n_steps
    bound = max(v_init, 1 - v_init) / n_steps
    assert (np.abs(rate - np.clip(z, 0, 1)) <= bound + 1e-12).all()


def test_reset_to_zero_errs_for_ever_and_subtraction_does_not() -> None:
    """Rueckauer 2016, eq. 5: at z = 0.4 a spike takes 3 steps and loses 0.2 each time, whatever T is."""
    zero = len(train(0.4, Neuron("zero"), 3000)) / 3000
    assert zero == pytest.approx(1 / 3, abs=1 / 3000)
    assert len(train(0.4, Neuron("subtract"), 3000)) / 3000 == pytest.approx(0.4, abs=1 / 3000)


def test_a_membrane_readout_is_the_sum_of_all_it_received() -> None:
    """Two classes, inputs (0.5, 2): per step 3 * 0.5 - 2 + 0.25 = -0.25 and 0.5 + 0.125 = 0.625."""
    network = layered(([[3, -1], [1, 0]], [0.25, 0.125], MEMBRANE))
    found = run(network, [[0.5, 2.0], [0.0, 0.0]], 16)
    np.testing.assert_array_equal(found.readout, [[-4.0, 10.0], [4.0, 2.0]])
    assert found.counts["p0"].sum() == 0


def test_a_membrane_readout_behind_spikes_sums_their_weights() -> None:
    weight = np.array([[0.5, -2.0], [1.5, 0.25], [-1.0, 4.0]])
    network = layered((np.eye(2), [0, 0], Neuron()), (weight, [0.125, -0.5, 1.0], MEMBRANE))
    found = run(network, [[0.25, 0.75]], 12)
    np.testing.assert_array_equal(found.counts["p0"], [[3, 9]])
    np.testing.assert_array_equal(found.readout[0], weight @ [3, 9] + 12 * np.array([0.125, -0.5, 1.0]))


def test_a_readout_that_fires_counts_its_spikes_and_starts_at_v_init() -> None:
    network = layered(([[0.25], [0.5]], [0, 0], Neuron(v_init=0.5)))
    found = run(network, [[1.0]], 10)
    np.testing.assert_array_equal(found.readout, [[3, 5]])
    membrane = layered(([[0.25]], [0], replace(MEMBRANE, v_init=0.5)))
    assert run(membrane, [[1.0]], 10).readout.item() == 3.0


def test_layers_see_the_spikes_of_the_same_step() -> None:
    network = layered(([[1.0]], [0], Neuron()), ([[1.0]], [0], Neuron()), ([[0.5]], [0], Neuron()))
    found = run(network, [[0.5]], 8, "p0", "p1", "p2")
    steps = [np.flatnonzero(found.rasters[f"p{k}"]).tolist() for k in range(3)]
    assert steps == [[1, 3, 5, 7], [1, 3, 5, 7], [3, 7]]


def test_a_rate_coded_input_fires_the_rounded_count_from_the_first_step() -> None:
    x = np.random.default_rng(3).random((5, 4))
    network = layered((np.eye(4), np.zeros(4), MEMBRANE), encoding="rate")
    found = run(network, x, 33, "input")
    np.testing.assert_array_equal(found.counts["input"], np.floor(33 * x + 0.5))
    np.testing.assert_array_equal(found.readout, found.counts["input"])
    np.testing.assert_array_equal(found.rasters["input"].sum(1), found.counts["input"])
    with pytest.raises(DataError, match="between 0 and 1"):
        run(network, x + 1, 4)


def test_a_current_input_has_no_spikes() -> None:
    found = run(layered(([[1.0]], [0], Neuron())), [[0.5]], 4, "input")
    assert found.counts["input"].sum() == found.rasters["input"].sum() == 0


def test_a_clamped_population_waits_at_v_init_and_then_runs_as_from_the_start() -> None:
    """Mueller 2021, IV-A: nothing is emitted and nothing integrated before the given step."""
    neuron = Neuron(v_init=0.5)
    free = layered(([[0.375]], [0.1], neuron), ([[1.0]], [0.0], MEMBRANE))
    held = layered(([[0.375]], [0.1], neuron), ([[1.0]], [0.25], MEMBRANE), clamp=(5, 8))
    first = run(free, [[1.0]], 15, "p0").rasters["p0"][0, :, 0]
    found = run(held, [[1.0]], 20, "p0")
    late = found.rasters["p0"][0, :, 0]
    assert late[:5].sum() == 0
    np.testing.assert_array_equal(late[5:], first)
    assert found.readout.item() == late[8:].sum() + 12 * 0.25


def test_samples_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(1)
    network = layered(
        (rng.normal(size=(6, 3)), rng.normal(size=6) / 4, Neuron("zero", v_init=0.25)),
        (rng.normal(size=(4, 6)), rng.normal(size=4) / 4, Neuron("subtract", leak=0.9)),
    )
    x = rng.random((5, 3))
    together = run(network, x, 40, "p0", "p1")
    assert together.counts["p1"].sum() > 0
    for k in range(5):
        alone = run(network, x[k : k + 1], 40, "p0", "p1")
        for name in ("p0", "p1"):
            np.testing.assert_array_equal(alone.rasters[name][0], together.rasters[name][k])
            np.testing.assert_array_equal(together.rasters[name].sum(1), together.counts[name])


def several_outputs(encoding: Any = "current") -> SpikingNetwork:
    """Input [2] to a firing population [2], and from there a membrane [1] and a firing output [1]."""
    net = layered((np.eye(2), [0, 0], Neuron()), ([[2.0, -1.0]], [0.5], MEMBRANE), encoding=encoding)
    fires = Population("q", (1,), np.zeros(1), Neuron(v_init=0.5), "readout")
    heads = (Head("q"), Head("p1", is_sampled=True))
    more = Projection("p0", "q", Dense(np.array([[0.5, 0.25]]), (2,), (1,)))
    return SpikingNetwork((*net.populations, fires), (*net.projections, more), encoding, heads)


def test_each_output_has_its_readout_and_a_sampled_one_its_potentials_over_time() -> None:
    """Rates 1/4 and 1/2: spikes at steps 4, 8 and at 2, 4, 6, 8, counted from 1."""
    found = run(several_outputs(), [[0.25, 0.5]], 8, "q")
    assert found.counts["p0"].tolist() == [[2, 4]]
    assert set(found.readouts) == {"p1", "q"}
    assert found.output == "q"
    # 1/2, 3/4 at step 2, 3/2 -> 1/2 at 4, 3/4 at 6, 3/2 -> 1/2 at 8
    assert found.rasters["q"].reshape(-1).tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert found.readout.tolist() == found.readouts["q"].tolist() == [[2.0]]
    # 1/2 each step, -1 at 2, +1 at 4, -1 at 6, +1 at 8
    assert found.potentials.keys() == {"p1"}
    assert found.potentials["p1"].shape == (1, 8, 1)
    assert found.potentials["p1"].reshape(-1).tolist() == [0.5, 0.0, 0.5, 2.0, 2.5, 2.0, 2.5, 4.0]
    assert found.readouts["p1"].tolist() == [[4.0]]


def test_projections_from_several_populations_and_the_input_add_up() -> None:
    net = layered((np.eye(2), [0, 0], Neuron()), ([[1.0, 0.0]], [0], MEMBRANE))
    direct = Projection("input", "p1", Dense(np.array([[0.0, 3.0]]), (2,), (1,)))
    again = Projection("p0", "p1", Dense(np.array([[0.0, -8.0]]), (2,), (1,)))
    both = replace(net, projections=(*net.projections, direct, again))
    assert run(both, [[0.5, 0.25]], 8).readout.tolist() == [[4 + 8 * 0.75 - 2 * 8]]
    spiking = replace(both, encoding="rate")
    assert run(spiking, [[0.5, 0.25]], 8).readout.tolist() == [[4 + 2 * 3 - 2 * 8]]


def test_events_are_the_spikes_of_the_input_as_they_were_recorded() -> None:
    network = layered((np.array([[0.5, -0.25]]), [0], Neuron()), encoding="events")
    events = np.zeros((2, 6, 2), np.uint8)
    events[0, :, 0] = [1, 1, 0, 1, 1, 1]
    events[1, :, 1] = 1
    found = run(network, events, 6, "input", "p0")
    np.testing.assert_array_equal(found.rasters["input"], events)
    assert found.counts["input"].tolist() == [[5, 0], [0, 6]]
    assert found.rasters["p0"][:, :, 0].tolist() == [[0, 1, 0, 0, 1, 0], [0] * 6]
    with pytest.raises(DataError, match=r"event data have shape \[2, 6, 2\], 5 steps of \[2\] are read"):
        run(network, events, 5)


def test_a_gate_hands_on_what_a_clamped_population_fires_from_its_first_step() -> None:
    """The gate itself has no potential to hold: it passes what comes, when it comes."""
    net = layered((np.eye(2), [0, 0], Neuron()), ([[1.0, 0.0]], [0], MEMBRANE), clamp=(3, 0))
    gate = Population("gate", (1, 1, 1), np.zeros((1, 1, 1)), Gate())
    window = Window(MaxPool2d((1, 2), (1, 2)), (1, 1, 2), (1, 1, 1))
    last = Projection("gate", "p1", Dense(np.ones((1, 1)), (1,), (1,)))
    network = SpikingNetwork(
        (*net.populations[:2], gate, net.populations[2]),
        (net.projections[0], Projection("p0", "gate", window), last),
    )
    found = run(network, [[0.5, 1.0]], 8, "p0", "gate")
    assert found.rasters["p0"][0].T.tolist() == [[0, 0, 0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1]]
    assert found.rasters["gate"].reshape(-1).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert found.readout.tolist() == [[5.0]]


def test_networks_that_make_no_sense_are_refused() -> None:
    good = layered((np.eye(2), [0, 0], Neuron()), (np.eye(2), [0, 0], MEMBRANE))
    first, hidden, last = good.populations
    a, b = good.projections
    for populations, projections, message in (
        ((first, hidden, hidden, last), (a, b), "share a name"),
        ((first, last, hidden), (a, b), "p0 -> p1 does not run forward"),
        ((first, hidden, last), (a, replace(b, pre="p9")), "p9 -> p1 does not run forward"),
        (
            (first, hidden, last),
            (a, replace(b, operator=Dense(np.eye(3), (3,), (3,)))),
            "maps 3 to 3 neurons; the .* 2",
        ),
        ((first, hidden, replace(last, role="hidden")), (a, b), "no population is the readout"),
        ((first, hidden, last), (a,), "population 'p1' receives nothing"),
        ((first, replace(hidden, neuron=Gate()), last), (a, b), "gate 'p0' must read the windows of one population"),
    ):
        with pytest.raises(InvalidNetworkError, match=message):
            SpikingNetwork(populations, projections)


# --- batches and orders of memory


@pytest.mark.parametrize("encoding", ["current", "rate", "poisson", "events"])
def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch, encoding: Any) -> None:
    """Dyadic, so exact in any order; 7 samples in batches of at most 3 are 2, 2 and 3."""
    rng = np.random.default_rng(5)
    network = layered(
        (rng.integers(-8, 9, (6, 3)) / 8, rng.integers(0, 3, 6) / 8, Neuron(v_init=0.5)),
        (rng.integers(-8, 9, (4, 6)) / 8, rng.integers(-2, 3, 4) / 8, MEMBRANE),
        encoding=encoding,
    )
    network = replace(network, heads=(Head("p1", is_sampled=True),))
    x = (rng.random((7, 9, 3)) < 0.5).astype(np.uint8) if encoding == "events" else rng.integers(0, 9, (7, 3)) / 8

    def found() -> FloatRun:
        return simulate(network, x, 9, record=("input", "p0"), over_time=True)

    whole, sizes = found(), []
    assert whole.counts["p0"].any()
    made = simulator._State.__init__
    monkeypatch.setattr(simulator, "_MIN_BATCH", 1)
    monkeypatch.setattr(simulator, "_MAX_BATCH", 3)
    monkeypatch.setattr(simulator._State, "__init__", lambda self, *a: (made(self, *a), sizes.append(self.n))[0])
    parts = found()
    assert sizes == [2, 2, 3]
    assert whole.n_steps == parts.n_steps == 9
    for one, other in ((whole.counts, parts.counts), (whole.rasters, parts.rasters)):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(whole.readout, parts.readout)
    np.testing.assert_array_equal(whole.potentials["p1"], parts.potentials["p1"])
    assert whole.over_time is not None
    assert parts.over_time is not None
    np.testing.assert_array_equal(whole.over_time.potentials, parts.over_time.potentials)


def test_batches_are_as_large_as_the_largest_population_allows() -> None:
    def sizes(n_neurons: int, n_samples: int) -> list[int]:
        network = layered((np.zeros((1, n_neurons)), [0], MEMBRANE))
        slices = simulator._batches(network, np.zeros((n_samples, n_neurons), np.uint8))
        assert [k.start for k in slices[1:]] == [k.stop for k in slices[:-1]]
        assert (slices[0].start, slices[-1].stop) == (0, n_samples)
        return [k.stop - k.start for k in slices]

    assert sizes(10, 128) == [128]
    assert sizes(10, 129) == [64, 65]
    assert sizes(1 << 14, 100) == [50, 50]
    assert sizes(1 << 20, 16) == [8, 8]
    assert sizes(10, 1) == [1]


@pytest.mark.parametrize("max_pool", ["expand", "gated"])
@pytest.mark.parametrize("encoding", ["current", "rate"])
@pytest.mark.parametrize("net", NETS)
def test_float32_with_images_channels_last_is_float64_in_c_order(net: str, encoding: Any, max_pool: Any) -> None:
    """Weights and biases in sixteenths: each sum has less than 24 bits, so both are exact."""
    network = dyadic(NETS[net], encoding=encoding, max_pool=max_pool)
    images = samples_for(network)
    names = tuple(p.name for p in network.populations)
    one, other = (
        simulate(network, images, N_STEPS, record=names, over_time=True, dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    for name in names:
        np.testing.assert_array_equal(one.rasters[name], other.rasters[name], err_msg=name)
        np.testing.assert_array_equal(one.counts[name], one.rasters[name].sum(1), err_msg=name)
    for name in one.readouts:
        np.testing.assert_array_equal(one.readouts[name], other.readouts[name])
    assert any(run.any() for run in one.rasters.values())
    assert one.counts[names[1]].flags.c_contiguous
