"""Small integer networks that exercise what the Lava worker builds."""

import numpy as np

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntConv2d, IntDense, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.target import load_target
from neuroport.snn.operators import conv_geometry

TARGET = load_target("loihi-sim")


def population(rng, name, shape, *, role="hidden", driven=False, **neuron):
    values = {
        "threshold_mantissa": 300,
        "bias_exponent": 3,
        "v_init_int": 0,
        "reset": "zero",
        "decay": 0,
        "clamp_until": 0,
        **neuron,
    }
    bias = rng.integers(-60, 60, shape).astype(np.int32)
    return IntPopulation(name, shape, role, bias_mantissa=bias, driven=driven, unit=300 << 6, **values)


def source(shape):
    zeros = np.zeros(shape, np.int32)
    return IntPopulation("input", shape, "input", 1, zeros, 0, 0, "subtract", 0, 0, False, 1)


def conv(rng, in_shape, c_out, kernel, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    shape = (c_out, in_shape[0] // groups, *kernel)
    mantissa = 2 * rng.integers(-60, 70, shape).astype(np.int32)
    return IntConv2d(mantissa, conv_geometry(in_shape, shape, stride, padding, dilation, groups))


def dense(rng, n_in, n_out, low=-60, high=70, step=2):
    return IntDense(step * rng.integers(low, high, (n_out, n_in)).astype(np.int32))


def spikes(rng, n_samples, n_steps, shape, rate=0.3):
    raster = (rng.random((n_samples, n_steps, *shape)) < rate).astype(np.uint8)
    return IntInputs(n_samples, n_steps, raster, {})


def network(populations, projections):
    return IntNetwork("loihi-sim", TARGET.arithmetic, tuple(populations), tuple(projections), "membrane")


def conv_net(seed, **neuron):
    """Uneven strides, padding, dilation and groups, a dense layer into [C, H, W], exponents, a membrane readout."""
    rng = np.random.default_rng(seed)
    a = conv(rng, (2, 7, 6), 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=2)
    b = conv(rng, a.geometry.out_shape, 3, (2, 3), dilation=(2, 1), padding=(0, 1))
    n_b = int(np.prod(b.geometry.out_shape))
    populations = [
        source((2, 7, 6)),
        population(rng, "a", a.geometry.out_shape, **neuron),
        population(rng, "b", b.geometry.out_shape, **neuron),
        population(rng, "c", (2, 3, 2), **neuron),
        population(rng, "d", (5,), role="readout", threshold_mantissa=131071),
    ]
    projections = [
        IntProjection("input", "a", a, 1),
        IntProjection("a", "b", b),
        IntProjection("b", "c", dense(rng, n_b, 12), 1),
        IntProjection("c", "d", dense(rng, 12, 5, 0, 120, 1)),
    ]
    return network(populations, projections), spikes(rng, 3, 24, (2, 7, 6))


def driven_net(seed, n_samples=3, n_steps=20, **neuron):
    """Input currents per sample, two populations that meet in one, and a spiking readout."""
    rng = np.random.default_rng(seed)
    populations = [
        population(rng, "left", (3, 2, 2), driven=True, **neuron),
        population(rng, "right", (7,), driven=True, **neuron),
        population(rng, "join", (6,), **neuron),
        population(rng, "out", (4,), role="readout", **neuron),
    ]
    projections = [
        IntProjection("left", "join", dense(rng, 12, 6)),
        IntProjection("right", "join", dense(rng, 7, 6, 1, 100, 1), 1),
        IntProjection("join", "out", dense(rng, 6, 4)),
    ]
    currents = {
        "left": rng.integers(-300, 900, (n_samples, 3, 2, 2)).astype(np.int32),
        "right": rng.integers(-300, 900, (n_samples, 7)).astype(np.int32),
    }
    return network(populations, projections), IntInputs(n_samples, n_steps, None, currents)
