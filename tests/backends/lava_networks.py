"""Small integer networks that exercise what the Lava worker builds."""

import numpy as np

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse
from neuroport.chip.target import load_target
from neuroport.snn.operators import ConvGeometry, conv_geometry

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


def network(populations, projections, heads=None):
    heads = heads or [IntHead(populations[-1].name, "membrane")]
    return IntNetwork("loihi-sim", TARGET.arithmetic, tuple(populations), tuple(projections), tuple(heads))


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


def sparse(rng, n_in, n_out, density=0.4, *, one_sign=False):
    """Some rows and columns may be empty."""
    held = rng.random((n_out, n_in)) < density
    held[0, 0] = True
    rows, columns = np.nonzero(held)
    mantissa = rng.integers(1, 200, len(rows)) if one_sign else 2 * rng.integers(-60, 80, len(rows))
    row_start = np.searchsorted(rows, np.arange(n_out + 1)).astype(np.int32)
    return IntSparse(mantissa.astype(np.int32), columns.astype(np.int32), row_start)


def image_synapse(rng, kind, in_shape, out_shape, kernel, **geometry):
    """A convolution or a transposed one with any geometry."""
    made = ConvGeometry(in_shape, out_shape, kernel, **geometry)
    c_in, c_out = (in_shape[0], out_shape[0]) if kind is IntConvTranspose2d else (out_shape[0], in_shape[0])
    return kind(2 * rng.integers(-60, 80, (c_in, c_out // made.groups, *kernel)).astype(np.int32), made)


def residual_net(seed, n_samples=4, n_steps=14, **neuron):
    """Skips of one to three levels, from the input too, with all kinds of synapses, into populations of 1 to 3 axes."""
    rng = np.random.default_rng(seed)
    populations = [
        source((2, 5, 4)),
        population(rng, "a", (3, 5, 4), **neuron),
        population(rng, "b", (3, 5, 4), **neuron),
        population(rng, "c", (4, 15), **neuron),
        population(rng, "d", (2, 9, 7), **neuron),
        population(rng, "out", (5,), role="readout", threshold_mantissa=131071),
    ]
    projections = [
        IntProjection("input", "a", conv(rng, (2, 5, 4), 3, (3, 3), padding=(1, 1))),
        IntProjection("a", "b", conv(rng, (3, 5, 4), 3, (3, 3), padding=(1, 1), groups=3)),
        IntProjection("input", "b", sparse(rng, 40, 60), 1),  # skips 1
        IntProjection("b", "c", image_synapse(rng, IntConv2d, (3, 5, 4), (4, 5, 3), (2, 2), padding=(1, 0))),
        IntProjection("a", "c", dense(rng, 60, 60)),  # skips 1
        IntProjection("a", "c", image_synapse(rng, IntConv2d, (3, 5, 4), (3, 5, 4), (1, 1), padding=(-1, 0))),
        IntProjection("input", "c", dense(rng, 40, 60, 0, 60, 1)),  # skips 2
        IntProjection(
            "c",
            "d",
            image_synapse(rng, IntConvTranspose2d, (4, 5, 3), (2, 9, 7), (3, 3), stride=(2, 2), padding=(1, 0)),
        ),
        IntProjection("b", "d", sparse(rng, 60, 126, one_sign=True)),  # skips 1
        IntProjection("input", "d", sparse(rng, 40, 126)),  # skips 3
        IntProjection("d", "out", dense(rng, 126, 5)),
        IntProjection("a", "out", dense(rng, 60, 5)),  # skips 3
    ]
    return network(populations, projections), spikes(rng, n_samples, n_steps, (2, 5, 4))


def two_headed_net(seed, n_samples=3, n_steps=16, **neuron):
    """A spiking head in the middle that feeds the membrane head behind it, and a driven head connected to nothing."""
    rng = np.random.default_rng(seed)
    populations = [
        population(rng, "a", (2, 3), driven=True, **neuron),
        population(rng, "alone", (4,), role="readout", driven=True, **neuron),
        population(rng, "middle", (6,), role="readout", **neuron),
        population(rng, "late", (3,), role="readout", threshold_mantissa=131071),
    ]
    projections = [
        IntProjection("a", "middle", dense(rng, 6, 6)),
        IntProjection("middle", "late", dense(rng, 6, 3)),
        IntProjection("a", "late", dense(rng, 6, 3)),
    ]
    heads = [IntHead("late", "membrane"), IntHead("middle", "count"), IntHead("alone", "membrane")]
    currents = {
        name: rng.integers(-300, 900, (n_samples, *shape)).astype(np.int32)
        for name, shape in (("a", (2, 3)), ("alone", (4,)))
    }
    return network(populations, projections, heads), IntInputs(n_samples, n_steps, None, currents)
