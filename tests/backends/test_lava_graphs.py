"""Networks that are no chain, on Lava: delays of skipping projections, sparse synapses, several outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend, lowered
from neuroport.chip.core import run_core
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.network import IntProjection
from neuroport.chip.oracle import run_oracle
from neuroport.chip.quantize import quantize
from neuroport.chip.synapses import IntConv2d, IntSparse
from neuroport.errors import DoesNotFitError
from neuroport.snn.network import Neuron, SpikingNetwork
from neuroport.snn.simulate import simulate
from neuroport.validation.divergence import compare
from tests.backends.lava_networks import (
    TARGET,
    conv,
    dense,
    network,
    population,
    residual_net,
    source,
    sparse,
    spikes,
    two_headed_net,
)
from tests.chip.float_networks import float_dense, float_population
from tests.chip.networks import gate, network_of, windows

NEURONS = {
    "lif": {"reset": "zero", "decay": 100},
    "subtract": {"reset": "subtract", "v_init_int": 9601},
    "clamp": {"reset": "subtract", "clamp_until": 3},
}


def on_lava(net, inputs, tmp_path):
    """The comparison with the core, which must agree with the oracle and not be silent."""
    job = Job(TARGET, net, inputs, tmp_path)
    backend = LavaBackend()
    backend.check(job)
    core = run_core(net, inputs, record="spikes").trace
    assert all(core.spikes[p.name].any() for p in net.populations if p.threshold_mantissa < 131071)
    assert compare(net, inputs, core, run_oracle(net, inputs)).mismatches == 0
    result = compare(net, inputs, core, backend.run(job))
    assert result.compared_values > 0
    return result


@pytest.mark.lava
@pytest.mark.parametrize("kind", NEURONS)
def test_skips_of_one_to_three_levels_through_all_kinds_of_synapses(lava, tmp_path, kind):
    result = on_lava(*residual_net(1, **NEURONS[kind]), tmp_path)
    assert result.mismatches == 0, result.first_mismatch


@pytest.mark.lava
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_several_heads_and_parts_that_nothing_connects(lava, tmp_path, reset):
    net, inputs = two_headed_net(2, reset=reset)
    result = on_lava(net, inputs, tmp_path)
    assert result.mismatches == 0, result.first_mismatch
    potentials = 3 * 16 * (4 + 6 + 3)
    assert result.compared_values == potentials + 3 * 16 * (6 + 4 + 6 + 3)


@pytest.mark.lava
def test_delayed_spikes_of_a_sample_arrive_in_its_own_window(lava, tmp_path):
    """One spike at the last step of every other sample, three levels ahead: the readout moves then and never else."""
    rng = np.random.default_rng(0)
    quiet = {"threshold_mantissa": 131071, "bias_mantissa": np.zeros(1, np.int32)}
    chain = [replace(population(rng, name, (1,)), **quiet) for name in ("a", "b", "c")]
    out = replace(population(rng, "out", (1,), role="readout"), **quiet)
    links = [("input", "a"), ("a", "b"), ("b", "c"), ("c", "out"), ("input", "out")]
    weight = replace(dense(rng, 1, 1), mantissa=np.array([[2]], np.int32))
    net = network([source((1,)), *chain, out], [IntProjection(pre, post, weight) for pre, post in links])
    raster = np.zeros((4, 5, 1), np.uint8)
    raster[::2, -1] = 1
    inputs = replace(spikes(rng, 4, 5, (1,)), spikes=raster)
    trace = LavaBackend().run(Job(TARGET, net, inputs, tmp_path))
    expected = np.zeros((4, 5, 1), np.int64)
    expected[::2, -1] = 2 << 6
    np.testing.assert_array_equal(trace.potentials["out"], expected)


@pytest.mark.lava
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_float_oracle_core_and_lava_agree_where_weights_are_exact(lava, tmp_path, reset):
    """Weights in 64ths, the largest 127 of them, which 8 bits hold exactly; one projection skips three levels."""
    rng = np.random.default_rng(7)
    shapes = {"input": 9, "a": 8, "b": 7, "c": 6, "out": 5}
    populations = [float_population(name, (n,), Neuron(reset)) for name, n in shapes.items()]
    populations[0] = replace(populations[0], role="input")
    populations[-1] = replace(populations[-1], role="readout")
    links = [("input", "a"), ("a", "b"), ("b", "c"), ("c", "out"), ("input", "out"), ("a", "c"), ("a", "out")]
    weights = {link: rng.integers(-30, 45, (shapes[link[1]], shapes[link[0]])) / 64 for link in links}
    for weight in weights.values():
        weight[0, 0] = 127 / 64
    projections = [float_dense(weight, *link) for link, weight in weights.items()]
    net = SpikingNetwork(tuple(populations), tuple(projections), "rate")
    images = (rng.integers(0, 17, (5, 9)) / 16).astype(np.float32)
    made = quantize(net, TARGET, 16, images=images)
    assert all(layer.weight_error == 0 for layer in made.layers)
    inputs = encode_inputs(net, made.network, images, 16)
    result = on_lava(made.network, inputs, tmp_path)
    assert result.mismatches == 0, result.first_mismatch
    spikes_of = run_core(made.network, inputs, record="spikes").trace.spikes
    if reset == "subtract":  # reset to zero fires strictly above the threshold on Loihi, at it in the float network
        rasters = simulate(net, images, 16, record=tuple(shapes), dtype=torch.float64).rasters
        for name, raster in rasters.items():
            np.testing.assert_array_equal(raster, spikes_of[name], err_msg=name)


@pytest.mark.lava
@pytest.mark.parametrize("sign", ["mixed", "excitatory", "inhibitory"])
def test_sparse_weights_at_the_ends_of_their_range(lava, tmp_path, sign):
    """Lava's Sparse treats weights as its Dense does: the ends and odd values of one sign come through unchanged."""
    rng = np.random.default_rng(3)
    made = sparse(rng, 30, 12)
    ends = {"mixed": [-256, 254, 2, -2], "excitatory": [255, 1, 3], "inhibitory": [-255, -1, -3]}[sign]
    made = replace(made, mantissa=rng.choice(ends, len(made.mantissa)).astype(np.int32))
    out = replace(population(rng, "out", (12,), role="readout"), threshold_mantissa=131071)
    net = network([source((30,)), out], [IntProjection("input", "out", made, 3)])
    result = on_lava(net, spikes(rng, 2, 10, (30,)), tmp_path)
    assert result.mismatches == 0, result.first_mismatch


def test_only_what_lavas_convolution_does_not_compute_becomes_sparse():
    net, _ = residual_net(1)
    kinds = [(type(j.synapse), type(k.synapse)) for j, k in zip(net.projections, lowered(net).projections, strict=True)]
    assert [after is IntSparse for before, after in kinds if before is IntConv2d] == [False, False, True, True]
    assert not any(after.__name__ == "IntConvTranspose2d" for _, after in kinds)
    assert all(before is after for before, after in kinds if before.__name__ in ("IntDense", "IntSparse"))
    rng = np.random.default_rng(0)
    wide = conv(rng, (1, 1, 400), 1, (1, 200), padding=(0, 100))  # Lava holds a kernel's size in 8 bits
    parts = [source((1, 1, 400)), population(rng, "out", wide.geometry.out_shape, role="readout")]
    assert isinstance(lowered(network(parts, [IntProjection("input", "out", wide)])).projections[0].synapse, IntSparse)


def test_refuses_gates(tmp_path):
    arithmetic = TARGET.arithmetic.model_copy(update={"gated_max_pool": True})
    rng = np.random.default_rng(0)
    parts = [source((1, 2, 2)), gate("pool", (1, 1, 1)), population(rng, "out", (1,), role="readout")]
    net = network_of(
        arithmetic, parts, [windows((1, 2, 2), (1, 1, 1), post="pool"), IntProjection("pool", "out", dense(rng, 1, 1))]
    )
    with pytest.raises(DoesNotFitError, match=r"layer 'pool' is a max-pool gate, Lava .* --backend cpu"):
        LavaBackend().check(Job(TARGET, net, spikes(rng, 1, 2, (1, 2, 2)), tmp_path))
