"""Max-pool gates: the core against the oracle and the float simulator's gate, by hand, and where they are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroport.chip.core import run_core
from neuroport.chip.files import read_network, write_network
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead
from neuroport.chip.oracle import run_oracle
from neuroport.chip.quantize import quantize
from neuroport.errors import DoesNotFitError, InvalidNetworkError
from neuroport.snn.gate import GateState
from neuroport.snn.network import Gate, Neuron, Projection, SpikingNetwork
from neuroport.snn.operators import Window
from tests.chip.float_networks import float_dense, float_population
from tests.chip.networks import dense, gate, network_of, population, random_window, source, spikes_of, target, windows

CPU = target("cpu").arithmetic


def gated(window, raster):
    """A network that is one gate behind the input, with a readout that copies it, and its inputs."""
    n = int(np.prod(window.out_shape))
    parts = [source(window.in_shape), gate("pool", window.out_shape), population(shape=(n,), threshold_mantissa=1)]
    links = [replace(dense([[1]], post="pool"), synapse=window), dense(np.eye(n, dtype=int), pre="pool")]
    return network_of(CPU, parts, links), IntInputs(len(raster), raster.shape[1], raster, {})


@given(st.data())
@settings(max_examples=100)
def test_core_oracle_and_float_simulator_pass_the_same_spikes(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)))
    window = random_window(data.draw, shape)
    rates = rng.choice([0.0, 0.1, 0.5, 0.52, 1.0], (2, 1, *shape))
    raster = (rng.random((2, data.draw(st.sampled_from([1, 5, 70, 200])), *shape)) < rates).astype(np.uint8)
    network, inputs = gated(window, raster)
    oracle = run_oracle(network, inputs)
    core = run_core(network, inputs, record="all")
    state = GateState(Window(window.op, window.in_shape, window.out_shape), 2)
    floats = [state.step(t, torch.from_numpy(raster[:, t])).numpy() for t in range(raster.shape[1])]
    for found in (core.trace.spikes["pool"], np.stack(floats, 1)):
        np.testing.assert_array_equal(found, oracle.spikes["pool"])
    np.testing.assert_array_equal(core.trace.spikes["out"], oracle.spikes["out"])
    np.testing.assert_array_equal(core.counts["pool"], oracle.spikes["pool"].sum(1))
    assert not core.trace.potentials["pool"].any()
    assert core.overflows["pool"] == core.floored["pool"] == 0


def test_passes_the_input_that_fires_most_and_of_equals_the_first():
    window = windows((1, 1, 2), (1, 1, 1), (1, 2)).synapse
    both = np.array([[0, 1], [1, 0], [1, 0], [1, 0], [0, 1]], np.uint8)
    # estimates after each step, of 2^20: (0, 1), (1/2, 1/2), (5/8, 3/8), ...: the first wins from the second step on
    network, inputs = gated(window, both.reshape(1, 5, 1, 1, 2))
    assert run_oracle(network, inputs).spikes["pool"].ravel().tolist() == [1, 1, 1, 1, 0]
    assert run_core(network, inputs).totals["pool"].ravel().tolist() == [4]


def test_over_many_steps_the_spikes_are_those_of_the_loudest_input():
    rng = np.random.default_rng(0)
    rates = np.array([0.2, 0.7, 0.3, 0.1]).reshape(1, 2, 2)
    raster = (rng.random((1, 400, 1, 2, 2)) < rates).astype(np.uint8)
    network, inputs = gated(windows((1, 2, 2), (1, 1, 1)).synapse, raster)
    run = run_core(network, inputs)
    loudest = raster[0, :, 0, 0, 1].sum()
    assert abs(int(run.totals["pool"].item()) - int(loudest)) <= 3  # but for the first few steps


def test_padding_never_wins():
    window = windows((1, 2, 2), (1, 2, 2), (2, 2), padding=(1, 1)).synapse
    network, inputs = gated(window, np.zeros((1, 5, 1, 2, 2), np.uint8))
    assert not run_core(network, inputs).totals["pool"].any()


def test_a_gate_as_an_output():
    parts = [source((1, 2, 2)), gate("out", (1, 1, 1), role="readout")]
    network = network_of(CPU, parts, [windows((1, 2, 2), (1, 1, 1))], heads=[IntHead("out", "count")])
    run = run_core(network, spikes_of(np.ones((6, 1, 2, 2))), record="spikes")
    assert run.readout.tolist() == [[6]]
    assert run.trace.potentials["out"].shape == (1, 6, 1, 1, 1)


def test_gates_are_counted_and_come_back_from_a_file(tmp_path):
    window = windows((2, 5, 5), (2, 3, 3), (2, 2), ceil_mode=True).synapse
    network, inputs = gated(window, np.random.default_rng(0).integers(0, 2, (2, 20, 2, 5, 5)).astype(np.uint8))
    assert network.n_synapses == 2 * 5 * 5 + 18 * 18
    assert network.depth == {"input": 0, "pool": 1, "out": 2}
    write_network(tmp_path / "n.h5", network)
    read = read_network(tmp_path / "n.h5")
    assert read.by_name["pool"].gate
    assert not read.by_name["out"].gate
    assert read.projections[0].synapse == window
    np.testing.assert_array_equal(run_core(read, inputs).readout, run_core(network, inputs).readout)


def refused(parts, links, arithmetic=CPU):
    with pytest.raises(InvalidNetworkError) as caught:
        network_of(arithmetic, parts, links, name="chip")
    return str(caught.value)


POOL = windows((1, 2, 2), (1, 1, 1), post="pool")
PARTS = [source((1, 2, 2)), gate("pool", (1, 1, 1)), population()]


def test_a_chip_without_gates_refuses_them_with_the_remedy():
    with pytest.raises(DoesNotFitError) as caught:
        network_of(target("loihi2").arithmetic, PARTS, [POOL, dense([[2]], "pool")], name="loihi2")
    assert caught.value.exit_code == 3
    for word in ("layer 'pool' is a max-pool gate", "loihi2's neurons", "`max_pool: expand`"):
        assert word in str(caught.value)


def test_a_gate_needs_the_windows_of_exactly_one_population():
    assert "gate 'pool' reads 0 populations" in refused(PARTS, [dense([[2] * 4])])
    assert "gate 'pool' reads 2 populations" in refused(PARTS, [POOL, POOL])
    driven = [PARTS[0], replace(PARTS[1], driven=True), PARTS[2]]
    assert "it needs the spikes of exactly one" in refused(driven, [POOL])
    assert "layer 'pool': a gate cannot add weights" in refused(PARTS, [dense([[2] * 4], post="pool")])
    plain = [PARTS[0], population("pool", (1, 1, 1), role="hidden"), PARTS[2]]
    assert "layer 'pool': windows need a gate (from 'input')" in refused(plain, [POOL])


def pooled(encoding, image=(1, 4, 4)):
    """Input, a population that copies it, a gate, and a readout, as floats."""
    n = int(np.prod(image))
    op = windows(image, (1, 2, 2)).synapse
    populations = (
        float_population("input", image, role="input"),
        float_population("relu", image, Neuron("subtract")),
        float_population("pool", (1, 2, 2), Gate()),
        float_population("out", (3,), Neuron(fires=False), role="readout"),
    )
    weight = np.random.default_rng(0).uniform(-1, 1, (3, 4))
    projections = (
        float_dense(np.eye(n), post="relu"),
        Projection("relu", "pool", Window(op.op, op.in_shape, op.out_shape)),
        float_dense(weight, pre="pool"),
    )
    return SpikingNetwork(populations, projections, encoding)


def test_quantization_hands_gates_on():
    images = np.random.default_rng(0).random((5, 1, 4, 4)).astype(np.float32)
    made = quantize(pooled("rate"), target("cpu"), 16, images=images)
    assert [p.gate for p in made.network.populations] == [False, False, True, False]
    assert made.network.projections[1].synapse == windows((1, 4, 4), (1, 2, 2)).synapse
    assert [layer.name for layer in made.layers] == ["relu", "pool", "out"]
    assert (made.layers[1].weight_error, made.layers[1].synaptic_sum) == (0, 0)


def test_gates_over_analog_values_are_refused():
    network = pooled("current")
    direct = replace(
        network,
        projections=(network.projections[0], replace(network.projections[1], pre="input"), network.projections[2]),
    )
    with pytest.raises(DoesNotFitError, match=r"layer 'pool' is a max-pool gate over the input's analog values"):
        quantize(direct, target("cpu"), 16, images=np.ones((2, 1, 4, 4), np.float32))
