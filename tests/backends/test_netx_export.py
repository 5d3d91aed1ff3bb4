"""What a file of netx cannot hold is refused by layer, with what to do, before anything is written."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.netx_backend import NetxBackend
from neuroport.backends.loihi.netx_export import reset_offset, write_netx
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntProjection
from neuroport.chip.synapses import IntConvTranspose2d, IntDense
from neuroport.errors import DoesNotFitError, ToolchainMissingError
from tests.backends.lava_networks import (
    TARGET,
    image_synapse,
    network,
    population,
    residual_net,
    source,
    two_headed_net,
)
from tests.backends.test_netx_runs import conv_chain
from tests.chip.networks import gate, target, variant, windows
from tests.chip.networks import population as plain


def changed(**neuron):
    """A chain whose first layer of neurons is another."""
    net, _ = conv_chain(3)
    return network([net.populations[0], replace(net.populations[1], **neuron), *net.populations[2:]], net.projections)


def weighted(mantissa, exponent=0, arithmetic=None):
    """Two inputs, two neurons."""
    populations = (source((2,)), plain("out", (2,)))
    made = IntProjection("input", "out", IntDense(np.array(mantissa, np.int32)), exponent)
    arithmetic = arithmetic or TARGET.arithmetic
    return IntNetwork("loihi-sim", arithmetic, populations, (made,), (IntHead("out", "count"),))


def biased(bias, exponent):
    return changed(bias_mantissa=np.full((4, 4, 5), bias, np.int32), bias_exponent=exponent)


def gated():
    rng = np.random.default_rng(0)
    arithmetic = variant("loihi-sim", gated_max_pool=True)
    populations = (source((1, 4, 4)), gate("pool", (1, 2, 2)), population(rng, "out", (3,), role="readout"))
    last = IntProjection("pool", "out", IntDense(np.full((3, 4), 20, np.int32)))
    projections = (windows((1, 4, 4), (1, 2, 2), post="pool"), last)
    return IntNetwork("loihi-sim", arithmetic, populations, projections, (IntHead("out", "count"),))


def wide():
    """A transposed convolution of more connections than a matrix is written for."""
    rng = np.random.default_rng(0)
    synapse = image_synapse(rng, IntConvTranspose2d, (1, 70, 70), (1, 70, 70), (1, 1))
    populations = [source((1, 70, 70)), population(rng, "up", (1, 70, 70), role="readout", bias_exponent=6)]
    return network(populations, [IntProjection("input", "up", synapse)])


def driven(exponent, **changes):
    rng = np.random.default_rng(0)
    populations = [population(rng, "image", (2,), driven=True, bias_exponent=exponent, **changes), plain("out", (2,))]
    return network(populations, [IntProjection("image", "out", IntDense(np.array([[2, 4], [6, 8]], np.int32)))])


def two_driven():
    net, _ = two_headed_net(1)
    return net


def unread():
    rng = np.random.default_rng(0)
    net = driven(6)
    populations = [net.populations[0], population(rng, "lonely", (2,)), net.populations[1]]
    return network(populations, net.projections)


def inner_head():
    net, _ = conv_chain(3)
    populations = [replace(p, role="readout") if p.name == "c" else p for p in net.populations]
    return network(populations, net.projections, [IntHead("e", "membrane"), IntHead("c", "count")])


def foreign():
    net, _ = conv_chain(3)
    return replace(net, arithmetic=variant("loihi-sim", decay_bits=13), target="mychip")


REFUSED = {
    "reset": (
        lambda: changed(reset="subtract"),
        r"layer 'a' has reset 'subtract', netx's CUBA neuron only resets to ze",
    ),
    "v_init": (lambda: changed(v_init_int=64), r"layer 'a' starts at a potential of 64, netx's neurons start at 0"),
    "clamp": (
        lambda: changed(clamp_until=2),
        r"layer 'a' waits for 2 steps, netx has no clamp; use a recipe with `cla",
    ),
    "bias": (lambda: biased(3, 3), r"layer 'a' has 80 biases that are no multiples of 64 \(the first is 24\), netx"),
    "bias-range": (lambda: biased(4095, 7), r"layer 'a' has biases 8190 to 8190 in units of 64, Lava's register ho"),
    "exponent": (lambda: weighted([[200, 4], [6, 8]], 1), r"layer 'out': weights are 8 to 400, .* exponent 1, which n"),
    "mixed": (lambda: weighted([[200, -4], [6, 8]], 1), r"layer 'out': weights are -8 to 400, Loihi holds -256 to 254"),
    "inhibitory": (lambda: weighted([[-64, -64], [-64, -64]]), r"layer 'out': netx and Lava would change 4 weights w"),
    "gate": (gated, r"layer 'pool' is a max-pool gate, netx has dense and convolutional layers only"),
    "skip": (lambda: residual_net(1)[0], r"layer 'b' adds up 2 projections \('a', 'input'\), netx's layers read the o"),
    "driven-twice": (two_driven, r"layer 'alone' reads the input, too, netx's layers read the one before them"),
    "unread": (unread, r"layer 'lonely' reads nothing, netx's layers read the one before them, 'image'"),
    "outputs": (inner_head, r"layer 'c' is an output, a file of netx has one, its last layer 'e'"),
    "wide": (
        wide,
        r"layer 'up' has a pool, or a transposed, cut or reshaped convolution, as a matrix of 4,900 x 4,900",
    ),
    "currents": (lambda: driven(3), r"layer 'image' takes input currents in steps of 8, netx's input neurons in steps"),
    "lingering": (
        lambda: driven(6, current_decay=410),
        r"layer 'image' has current decay 410, so that what arrives at netx's input neurons would linger, which neur",
    ),
    "arithmetic": (foreign, r"target 'mychip' computes differently from Lava's fixed-point models, which netx builds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_netx_cannot_hold_is_refused_and_nothing_written(tmp_path, case):
    make, message = REFUSED[case]
    with pytest.raises(DoesNotFitError, match=message):
        write_netx(tmp_path / "network.net", make())
    assert list(tmp_path.iterdir()) == []


def test_odd_mixed_weights_that_a_chip_would_take(tmp_path):
    mixed = {"minimum": -256, "maximum": 255, "step": 1}
    a = variant("loihi-sim", weights=TARGET.arithmetic.weights.model_dump() | {"mixed": mixed})
    write_netx(tmp_path / "small.net", weighted([[127, -5], [3, 1]], arithmetic=a))
    with pytest.raises(DoesNotFitError, match=r"layer 'out': 4 weights are odd \(the first is 201\) among -5 to 201"):
        write_netx(tmp_path / "large.net", weighted([[201, -5], [3, 1]], arithmetic=a))


def test_a_file_is_what_netx_reads(tmp_path):
    """Groups from 0 on, strings of bytes, groups as a scalar, iDecay one above du, W, H, C only for biases."""
    net, _ = conv_chain(3, decay=7)
    (tmp_path / "n.net").write_text("another file")
    write_netx(tmp_path / "n.net", net)
    with h5py.File(tmp_path / "n.net") as f:
        layers = f["layer"]
        kinds = [layers[str(k)]["type"][0].decode() for k in range(len(layers))]
        assert kinds == ["input", "conv", "conv", "conv", "flatten", "dense", "dense"]
        a = layers["1"]
        assert a["groups"].shape == () and a["groups"][()] == 2
        assert tuple(a["shape"][()]) == (4, 4, 5) == net.by_name["a"].shape
        np.testing.assert_array_equal(a["weight"][()], net.projections[0].synapse.mantissa)
        np.testing.assert_array_equal(a["bias"][()], net.by_name["a"].bias_mantissa.T)
        assert (a["neuron/iDecay"][()], a["neuron/vDecay"][()], a["neuron/vThMant"][()]) == (4096, 7, 300)
        assert a["neuron/type"][()] == b"CUBA"
        assert layers["6"]["neuron/vThMant"][()] == 131071
    assert [p.name for p in tmp_path.iterdir()] == ["n.net"]
    assert reset_offset(net) == 1
    assert reset_offset(driven(6)) == 0


def test_inputs_that_input_neurons_do_not_take(tmp_path):
    net = driven(6)
    fine = IntInputs(1, 3, None, {"image": np.array([[40, -3]], np.int32)})
    NetxBackend().check(Job(TARGET, net, fine, tmp_path))
    net = replace(net, populations=(replace(net.populations[0], bias_exponent=7), net.populations[1]))
    NetxBackend().check(Job(TARGET, net, fine, tmp_path))
    with pytest.raises(ToolchainMissingError, match=r"target 'cpu' names no toolchain with lava-dl"):
        NetxBackend().check(Job(target("cpu"), net, fine, tmp_path))


def test_a_target_narrowed_for_netx(tmp_path):
    a = NetxBackend().narrowed(TARGET).arithmetic
    assert (a.weights.exponent_max, a.bias.exponent_min, a.resets, a.v_init) == (0, 6, ("zero",), False)
    assert TARGET.arithmetic.bias.exponent_min == 0
