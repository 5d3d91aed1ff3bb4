"""Exported networks, loaded and run by lava-dl's netx: every spike of every layer, and the readout's potentials."""

from dataclasses import replace

import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.netx_backend import NetxBackend
from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntProjection
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense
from neuroport.validation.divergence import compare
from tests.backends.lava_networks import (
    TARGET,
    conv,
    dense,
    image_synapse,
    network,
    population,
    source,
    sparse,
    spikes,
)

pytestmark = pytest.mark.lava

FULL = 64  # biases of whole steps of netx: exponent 6


def on_netx(net, inputs, tmp_path, *, all_fire=True):
    job = Job(TARGET, net, inputs, tmp_path)
    backend = NetxBackend()
    backend.check(job)
    core = run_core(net, inputs, record="spikes").trace
    hidden = [p.name for p in net.populations if p.role == "hidden"]
    assert not all_fire or all(core.spikes[name].any() for name in hidden)  # a silent network would prove nothing
    result = compare(net, inputs, core, backend.run(job))
    assert result.mismatches == 0, result.first_mismatch
    return result


def neurons(rng, name, shape, **changes):
    return population(rng, name, shape, **({"bias_exponent": 6, "threshold_mantissa": 300} | changes))


def conv_chain(seed, **changes):
    """Uneven kernels, strides, padding, dilation and groups, no side like another; biases per neuron; dense behind."""
    rng = np.random.default_rng(seed)
    a = conv(rng, (2, 7, 6), 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=2)
    b = conv(rng, a.geometry.out_shape, 3, (2, 3), dilation=(2, 1), padding=(0, 1))
    c = conv(rng, b.geometry.out_shape, 5, (1, 2), stride=(1, 2))
    populations = [
        source((2, 7, 6)),
        neurons(rng, "a", a.geometry.out_shape, **changes),
        neurons(rng, "b", b.geometry.out_shape, **changes),
        neurons(rng, "c", c.geometry.out_shape, **changes),
        neurons(rng, "d", (2, 3, 2), **changes),
        neurons(rng, "e", (5,), role="readout", threshold_mantissa=131071),
    ]
    projections = [
        IntProjection("input", "a", a),
        IntProjection("a", "b", b),
        IntProjection("b", "c", c),
        IntProjection("c", "d", dense(rng, int(np.prod(c.geometry.out_shape)), 12)),
        IntProjection("d", "e", dense(rng, 12, 5, 0, 120, 1)),
    ]
    return network(populations, projections), spikes(rng, 4, 24, (2, 7, 6))


@pytest.mark.parametrize("changes", [{}, {"decay": 200}, {"current_decay": 410}, {"current_decay": 0, "decay": 4096}])
def test_convolutions_biases_of_neurons_flatten_and_dense_layers(lava, tmp_path, changes):
    result = on_netx(*conv_chain(3, **changes), tmp_path)
    assert result.compared_spikes > 300
    assert result.compared_values > 0


@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_samples_of_fewer_steps_than_layers_do_not_mix(lava, tmp_path, n_steps):
    net, _ = conv_chain(4)
    inputs = spikes(np.random.default_rng(0), 12, n_steps, (2, 7, 6), rate=0.6)
    on_netx(net, inputs, tmp_path, all_fire=n_steps > 2)


@pytest.mark.parametrize("first", ["conv", "dense"])
@pytest.mark.parametrize("exponent", [6, 7])
def test_input_currents_as_input_neurons(lava, tmp_path, first, exponent):
    """netx's input layer with a neuron gets the current as it is; resets are those of a layer without a delay."""
    rng = np.random.default_rng(7)
    a = conv(rng, (2, 5, 4), 3, (3, 2)) if first == "conv" else dense(rng, 40, 18)
    shape = a.geometry.out_shape if isinstance(a, IntConv2d) else (18,)
    populations = [
        neurons(rng, "image", (2, 5, 4), driven=True, bias_exponent=exponent),
        neurons(rng, "a", shape),
        neurons(rng, "out", (4,), role="readout"),
    ]
    n = int(np.prod(shape))
    net = network(populations, [IntProjection("image", "a", a), IntProjection("a", "out", dense(rng, n, 4))])
    currents = {"image": rng.integers(-100, 300, (5, 2, 5, 4)).astype(np.int32)}
    on_netx(net, IntInputs(5, 17, None, currents), tmp_path)


def test_other_synapses_as_matrices(lava, tmp_path):
    """Sparse, transposed and cut ones, and a convolution over another view of what lies before it."""
    rng = np.random.default_rng(1)
    cut = image_synapse(rng, IntConv2d, (3, 5, 4), (4, 5, 3), (2, 2), padding=(1, 0))
    wide = image_synapse(rng, IntConvTranspose2d, (4, 5, 3), (2, 9, 7), (3, 3), stride=(2, 2), padding=(1, 0))
    viewed = conv(rng, (2, 9, 7), 2, (3, 3))
    populations = [
        source((2, 5, 4)),
        neurons(rng, "a", (3, 5, 4)),
        neurons(rng, "b", (60,)),
        neurons(rng, "c", (2, 9, 7)),
        neurons(rng, "d", viewed.geometry.out_shape),
        neurons(rng, "out", (5,), role="readout"),
    ]
    n = int(np.prod(viewed.geometry.out_shape))
    projections = [
        IntProjection("input", "a", sparse(rng, 40, 60)),
        IntProjection("a", "b", cut),
        IntProjection("b", "c", wide),
        IntProjection("c", "d", viewed),
        IntProjection("d", "out", dense(rng, n, 5)),
    ]
    on_netx(network(populations, projections), spikes(rng, 3, 16, (2, 5, 4)), tmp_path)


def test_weight_exponents_that_8_bits_hold(lava, tmp_path):
    rng = np.random.default_rng(2)
    populations = [source((9,)), neurons(rng, "a", (7,)), neurons(rng, "out", (3,), role="readout")]
    projections = [
        IntProjection("input", "a", dense(rng, 9, 7, -30, 31), 2),
        IntProjection("a", "out", dense(rng, 7, 3, 0, 30, 1), 3),
    ]
    on_netx(network(populations, projections), spikes(rng, 3, 16, (9,)), tmp_path)


def test_a_planted_difference_is_found(lava, tmp_path):
    net, inputs = conv_chain(3)
    changed = replace(net.projections[3], synapse=IntDense(net.projections[3].synapse.mantissa[::-1].copy()))
    other = replace(net, projections=(*net.projections[:3], changed, net.projections[4]))
    trace = NetxBackend().run(Job(TARGET, other, inputs, tmp_path))
    result = compare(net, inputs, run_core(net, inputs, record="spikes").trace, trace)
    assert result.mismatches > 0
    assert result.first_mismatch.population == "d"
