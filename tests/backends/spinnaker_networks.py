"""Small integer networks that exercise what the PyNN export writes."""

import numpy as np

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntDense
from neuroport.chip.target import load_target
from neuroport.snn.operators import conv_geometry

TARGET = load_target("spinnaker1")
LEAKY = TARGET.with_neuron("if-curr-delta")
N_SAMPLES, N_STEPS = 3, 30


def population(target, name, shape, threshold, *, bias=0, rng=None, role="hidden", driven=False, v_init=0):
    """threshold and biases in whole weights; neurons with a leak see a 512th of a weight in one step."""
    a = target.arithmetic
    units = threshold << (a.synaptic_shift - a.threshold.shift - a.input_shift)
    biases = np.zeros(shape, np.int32) if not bias else rng.integers(-bias // 2, bias, shape).astype(np.int32)
    return IntPopulation(
        name=name,
        shape=shape,
        role=role,
        threshold_mantissa=units,
        bias_mantissa=biases,
        bias_exponent=a.bias.exponent_max,
        v_init_int=v_init,
        reset="zero",
        decay=a.fixed_decay,
        clamp_until=0,
        driven=driven,
        unit=units << a.threshold.shift,
    )


def network(target=TARGET, *, driven=False, v_init=0, n_dense=20):
    """A convolution, a projection that skips it, biases, and two outputs: a membrane and a count. Three samples.

    The second of them is without a spike, where it is made of spikes.
    """
    rng = np.random.default_rng(7)
    a = target.arithmetic
    g = conv_geometry((1, 8, 8), (3, 1, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    zeros = np.zeros((1, 8, 8), np.int32)
    first = (
        population(target, "image", (1, 8, 8), 300, driven=True, v_init=v_init)
        if driven
        else IntPopulation("image", (1, 8, 8), "input", 1, zeros, 0, 0, "zero", 0, 0, False, 1)
    )

    def make(*given, **named):
        return population(target, *given, rng=rng, v_init=v_init, **named)

    def weights(low, high, shape):
        return rng.integers(low, high, shape).astype(np.int32)

    populations = [
        first,
        make("conv", (3, 8, 8), 200, bias=9),
        make("dense", (n_dense,), 900, bias=40),
        make("scores", (10,), 30000, bias=30, role="readout"),
        make("second", (5,), 150, role="readout"),
    ]
    projections = [
        IntProjection("image", "conv", IntConv2d(weights(-60, 100, (3, 1, 3, 3)), g)),
        IntProjection("conv", "dense", IntDense(weights(-100, 128, (n_dense, 192)))),
        IntProjection("conv", "scores", IntDense(weights(-9, 12, (10, 192)))),
        IntProjection("dense", "scores", IntDense(weights(-90, 127, (10, n_dense)))),
        IntProjection("dense", "second", IntDense(weights(-30, 42, (5, n_dense)))),
    ]
    heads = (IntHead("scores", "membrane"), IntHead("second", "count"))
    made = IntNetwork(target.name, a, tuple(populations), tuple(projections), heads)
    if driven:
        currents = rng.integers(-50, 200, (N_SAMPLES, 1, 8, 8)).astype(np.int32)
        return made, IntInputs(N_SAMPLES, N_STEPS, None, {"image": currents})
    raster = (rng.random((N_SAMPLES, N_STEPS, 1, 8, 8)) < 0.3).astype(np.uint8)
    raster[1] = 0
    return made, IntInputs(N_SAMPLES, N_STEPS, raster, {})
