"""Populations one after the other, against the simulator that runs them all at once, and by hand.

Weights, biases and images are multiples of 1/16: with the few steps run here every sum has less than 24 bits, so
float32 in any order is exact, and the spikes must be those of a float64 simulation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.ann.graph import MaxPool2d
from neuroport.ann.simplify import simplify
from neuroport.normalize.channels import with_gain, with_offset
from neuroport.snn import layerwise
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.layerwise import Layerwise
from neuroport.snn.network import Gate, Neuron, Population, Projection, SpikingNetwork
from neuroport.snn.operators import Sparse, Window
from neuroport.snn.simulate import simulate
from neuroport.snn.sparse import materialize
from tests.normalize.nets import between, population
from tests.snn.graphs import NETS, Net, Sketch, draw

Spikes = dict[str, NDArray[np.uint8]]
N_STEPS = 8


def sixteenths(values: Any) -> NDArray[np.float64]:
    return np.asarray(np.rint(np.asarray(values, np.float64) * 16) / 16)


def rounded(j: Projection, network: SpikingNetwork) -> Projection:
    if isinstance(network.by_name[j.post].neuron, Gate):
        return j
    op: Any = materialize(j.operator, j.post)
    if isinstance(op, Sparse):
        return replace(j, operator=replace(op, matrix=csr_array(sixteenths(op.matrix.toarray()))))
    return replace(j, operator=replace(op, weight=sixteenths(op.weight)))


def dyadic(net: Net, **options: Any) -> SpikingNetwork:
    """The network of a graph with weights and biases in sixteenths."""
    network = build_network(simplify(draw(net)), BuildOptions(**options))
    populations = tuple(replace(p, bias=sixteenths(p.bias)) for p in network.populations)
    return replace(
        network, populations=populations, projections=tuple(rounded(j, network) for j in network.projections)
    )


def samples_for(network: SpikingNetwork, n: int = 3) -> NDArray[Any]:
    rng = np.random.default_rng(7)
    if network.encoding == "events":
        return (rng.random((n, N_STEPS, *network.input.shape)) < 0.4).astype(np.uint8)
    return sixteenths(rng.random((n, *network.input.shape))).astype(np.float32)


def front_to_back(network: SpikingNetwork, samples: NDArray[Any], n_steps: int = N_STEPS) -> Spikes:
    """Spikes [N, T, *shape] of every population, each run over all steps before the next."""
    run, found = Layerwise(network, samples, n_steps), {}
    for p in network.populations:
        if isinstance(p.neuron, Gate):
            spikes = run.gate(p)
        elif p.role != "input" and p.neuron.fires:
            ones = np.ones(p.shape[0])
            spikes = run.integrate(p, run.drive(p), ones, 0 * ones)
        else:
            continue
        run.fire(p, spikes)
        found[p.name] = spikes.numpy().swapaxes(0, 1)
    return found


def assert_same(network: SpikingNetwork) -> None:
    samples = samples_for(network)
    found = front_to_back(network, samples)
    expected = simulate(network, samples, N_STEPS, record=tuple(found), dtype=torch.float64).rasters
    assert len(found) >= 2
    for name, spikes in found.items():
        np.testing.assert_array_equal(spikes, expected[name], err_msg=name)
    rates = [spikes.mean() for spikes in found.values()]
    assert np.mean([0 < rate < 1 for rate in rates]) > 0.5, "most populations have something to tell"


# --- the same as the simulator


@pytest.mark.parametrize("net", ["residual", "padded_shortcut", "dense_block", "feature_pyramid", "line", "tokens"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_chains_shortcuts_and_joined_branches(net: str, reset: Any) -> None:
    assert_same(dyadic(NETS[net], reset=reset))


@pytest.mark.parametrize("encoding", ["rate", "poisson", "events"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_spiking_inputs(encoding: Any, reset: Any) -> None:
    assert_same(dyadic(NETS["residual"], encoding=encoding, reset=reset, seed=3))


@pytest.mark.parametrize(
    "options",
    [
        {"leak": 0.5, "v_init": 0.25},
        {"leak": 0.5, "reset": "zero"},
        {"clamp": 1.0},
        {"clamp": 1.0, "encoding": "rate", "v_init": 0.5},
        {"clamp": 2.0, "leak": 0.5, "v_init": 0.75},
        {"readout": "count"},
    ],
)
def test_leaks_charges_clamps_and_counted_readouts(options: dict[str, Any]) -> None:
    network = dyadic(NETS["residual"], **options)
    assert_same(network)
    assert (max(p.clamp_until for p in network.populations) > 0) == ("clamp" in options)


@pytest.mark.parametrize("clamp", [0.0, 1.0])
@pytest.mark.parametrize("encoding", ["current", "rate"])
def test_max_pool_gates(encoding: Any, clamp: float) -> None:
    network = dyadic(NETS["concat_then_max_pool"], encoding=encoding, max_pool="gated", clamp=clamp, readout="count")
    assert any(isinstance(p.neuron, Gate) for p in network.populations)
    assert_same(network)


def test_the_inputs_of_a_population_with_current_and_spikes_add_up() -> None:
    """b reads the analog input and a."""

    def net(w: Sketch, x: str) -> str:
        a = w.relu(w.layer(x, 4, name="a"))
        b = w.relu(w.add(w.layer(x, 4, name="short"), w.layer(a, 4, name="b")))
        return w.dense(b, 3, name="fc")

    assert_same(dyadic(net, readout="count"))


# --- gain and offset


def two_channels(encoding: Any = "current", neuron: Neuron | None = None, clamp_until: int = 0) -> SpikingNetwork:
    """One input, two channels of two places: weights (1, 1/2) for each place of a channel, biases 1/8."""
    source = population("input", (1,), role="input")
    p = population("a", (2, 1, 2), bias=np.full((2, 1, 2), 0.125), neuron=neuron or Neuron(), clamp_until=clamp_until)
    out = population("out", (1,), neuron=Neuron(fires=False), role="readout")
    weights = (between(source, p, [[1.0], [0.5], [1.0], [0.5]]), between(p, out, np.ones((1, 4))))
    return SpikingNetwork((source, p, out), weights, encoding)


def trains(network: SpikingNetwork, samples: Any, gain: Any, offset: Any, n_steps: int = 8) -> list[list[int]]:
    """Steps, counted from 1, at which each of the neurons of `a` fires for one sample."""
    run = Layerwise(network, np.array(samples, np.float32), n_steps)
    p = network.by_name["a"]
    spikes = run.integrate(p, run.drive(p), np.array(gain, np.float64), np.array(offset, np.float64))
    assert spikes.dtype == torch.uint8
    return [(np.flatnonzero(train) + 1).tolist() for train in spikes[:, 0].flatten(1).numpy().T]


def test_all_that_arrives_is_multiplied_and_then_the_offset_is_added() -> None:
    """Input 1/4 and the bias: 3/8 and 1/4. Channel 0 gets twice that less 1/4: 1/2 and 1/4; channel 1 half of it
    and 1/16: 1/4 and 3/16, which first reaches 1 at step 6 (18/16), and has 1/8 left.
    """
    found = trains(two_channels(), [[0.25]], [2, 0.5], [-0.25, 0.0625])
    assert found == [[2, 4, 6, 8], [4, 8], [4, 8], [6]]


def test_a_reset_to_zero_loses_what_is_above_and_a_leak_what_is_left() -> None:
    """Gain 2 and offset 1/8: 7/8 and 5/8 per step; channel 1, gain 1 and offset 0: 3/8 and 1/4.

    Zero: 7/8, 14/8* at steps 2, 4, ...; 5/8, 10/8* the same; 3/8 6/8 9/8*; every fourth.
    With leak 1/2 and subtraction: 7/8, 21/16*, of which 5/16 is left: 33/32*, 1/32: 57/64, 169/128*, 41/128: 265/256*.
    The second: 5/8, 15/16, 35/32*, 3/32: 43/64, 123/128, 283/256*. 3/8 and 1/4 stay below 3/4 and 1/2.
    """
    gain, offset = [2, 1], [0.125, 0]
    zero = trains(two_channels(neuron=Neuron("zero")), [[0.25]], gain, offset)
    assert zero == [[2, 4, 6, 8], [2, 4, 6, 8], [3, 6], [4, 8]]
    leaky = trains(two_channels(neuron=Neuron(leak=0.5)), [[0.25]], gain, offset, 6)
    assert leaky == [[2, 3, 5, 6], [3, 6], [], []]


def test_spikes_are_multiplied_and_the_offset_comes_with_every_step() -> None:
    """Spikes at steps 2 and 4: each brings 1 and 1/2. Gain 1/2, offset 1/4 over 4 steps, bias 1/8 halved.

    Channel 0, first place: 5/16, 18/16*, 2/16 + 5/16, 20/16*. Second: 5/16, 14/16, 19/16*, 3/16 + 9/16.
    Channel 1, gain 1 and offset -1/8: 0, 1*, 0, 1* and 0, 1/2, 1/2, 1*.
    """
    events = np.array([0, 1, 0, 1], np.uint8).reshape(1, 4, 1)
    network = two_channels("events")
    run = Layerwise(network, events, 4)
    p = network.by_name["a"]
    spikes = run.integrate(p, run.drive(p), np.array([0.5, 1.0]), np.array([0.25, -0.125]))
    found = [(np.flatnonzero(train) + 1).tolist() for train in spikes[:, 0].flatten(1).numpy().T]
    assert found == [[2, 4], [3], [2, 4], [4]]


def test_an_offset_of_a_clamped_population_waits_with_it() -> None:
    """v_init 1/2 held for 3 steps; then 1/2 + 3/8 + 1/8 fires at once."""
    network = two_channels(neuron=Neuron(v_init=0.5), clamp_until=3)
    assert trains(network, [[0.25]], [1, 0], [0.125, 0.5])[0] == [4, 6, 8]
    assert trains(network, [[0.25]], [1, 0], [0.125, 0.5])[2:] == [[4, 6, 8]] * 2


@pytest.mark.parametrize("encoding", ["current", "rate"])
def test_what_gain_and_offset_do_is_what_the_changed_network_does(encoding: Any) -> None:
    """Every population in turn; the network is exchanged before the next one is asked for."""
    network = dyadic(NETS["residual"], encoding=encoding, readout="count")
    rng, samples = np.random.default_rng(0), samples_for(network)
    run, found = Layerwise(network, samples, N_STEPS), {}
    for p in network.populations[1:]:
        gain, offset = rng.choice([0.5, 1, 2], p.shape[0]), sixteenths(rng.normal(size=p.shape[0]) / 8)
        spikes = run.integrate(p, run.drive(p), gain, offset)
        run.fire(p, spikes)
        found[p.name] = spikes.numpy().swapaxes(0, 1)
        run.network = with_gain(run.network, run.network.by_name[p.name], gain)
        run.network = with_offset(run.network, run.network.by_name[p.name], offset)
    expected = simulate(run.network, samples, N_STEPS, record=tuple(found), dtype=torch.float64).rasters
    before = simulate(network, samples, N_STEPS, record=tuple(found), dtype=torch.float64).rasters
    for name, spikes in found.items():
        np.testing.assert_array_equal(spikes, expected[name])
        assert (spikes != before[name]).any()


# --- what is kept


def shortcut(encoding: Any) -> SpikingNetwork:
    """input -> a -> b, a and b -> c -> out."""
    names = ("input", "a", "b", "c", "out")
    p = {n: population(n, (2,), role={"input": "input", "out": "readout"}.get(n, "hidden")) for n in names}
    pairs = [("input", "a"), ("a", "b"), ("a", "c"), ("b", "c"), ("c", "out")]
    links = tuple(between(p[i], p[j], np.eye(2)) for i, j in pairs)
    return SpikingNetwork(tuple(p.values()), links, encoding)


@pytest.mark.parametrize("encoding", ["current", "rate"])
def test_spikes_are_forgotten_after_their_last_reader(encoding: Any) -> None:
    network = shortcut(encoding)
    run = Layerwise(network, np.full((1, 2), 0.5, np.float32), 4)
    kept = [set(run.spikes)]
    for p in network.populations[1:]:
        run.fire(p, run.integrate(p, run.drive(p), np.ones(2), np.zeros(2)))
        kept.append(set(run.spikes))
    assert kept == [{"input"} if encoding == "rate" else set(), {"a"}, {"a", "b"}, {"c"}, {"out"}]


class Counted(Layerwise):
    """Counts how often the input of a step is computed."""

    n_computed = 0

    def arriving(self, p: Population, t: int) -> torch.Tensor | None:
        self.n_computed += 1
        return super().arriving(p, t)


@pytest.mark.parametrize(("limit", "n_computed"), [(3 * 4 * 2, 4), (3 * 4 * 2 - 1, 8)])
def test_inputs_beyond_the_limit_are_computed_each_time(
    monkeypatch: pytest.MonkeyPatch, limit: int, n_computed: int
) -> None:
    """3 samples, 4 steps, 2 neurons, integrated twice: held, each step is computed once."""
    monkeypatch.setattr(layerwise, "_MAX_HELD", limit)
    network = shortcut("rate")
    run = Counted(network, sixteenths(np.random.default_rng(0).random((3, 2))).astype(np.float32), 4)
    drive = run.drive(network.by_name["a"])
    first, second = (run.integrate(network.by_name["a"], drive, np.ones(2), np.zeros(2)) for _ in range(2))
    assert run.n_computed == n_computed
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first.any()


def test_nothing_held_gives_the_same_spikes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "_MAX_HELD", 0)
    assert_same(dyadic(NETS["residual"], encoding="rate"))
    assert_same(dyadic(NETS["concat_then_max_pool"], max_pool="gated"))


# --- wrong use


def gated() -> tuple[SpikingNetwork, Population, Population]:
    source, a = population("input", (1, 2, 2), role="input"), population("a", (1, 2, 2))
    gate = population("gate", (1, 1, 1), neuron=Gate())
    out = population("out", (1,), role="readout")
    window = Window(MaxPool2d((2, 2), (2, 2)), (1, 2, 2), (1, 1, 1))
    links = (between(source, a, np.eye(4)), Projection("a", "gate", window), between(gate, out, [[1.0]]))
    return SpikingNetwork((source, a, gate, out), links), a, gate


def test_gates_do_not_integrate_and_neurons_are_no_gates() -> None:
    network, a, gate = gated()
    run = Layerwise(network, np.ones((1, 4), np.float32), 2)
    drive = run.drive(a)
    with pytest.raises(TypeError, match="gate 'gate' does not integrate"):
        run.integrate(gate, drive, np.ones(1), np.zeros(1))
    with pytest.raises(TypeError, match="population 'a' is no max-pool gate"):
        run.gate(a)
