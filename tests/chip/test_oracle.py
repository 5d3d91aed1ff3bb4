"""The oracle against numbers worked out by hand, and its convolution against torch.

One neuron, one input, weight w: each spike adds w << 6 to v. `play` returns spikes and potentials as lists.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.inputs import IntInputs
from neuroport.chip.oracle import limit, run_oracle, weigh
from neuroport.chip.synapses import IntConv2d, IntDense
from neuroport.chip.target import Register
from neuroport.snn.operators import conv_geometry
from tests.chip.networks import (
    cases,
    currents_of,
    dense,
    network_of,
    population,
    random_conv,
    source,
    spikes_of,
    target,
    variant,
    with_arithmetic,
)

LOIHI = target("loihi-sim").arithmetic
INCLUSIVE = variant("loihi-sim", threshold={"mantissa_max": 131071, "shift": 6, "compare": ">="})


def play(raster, weight=1, arithmetic=LOIHI, exponent=0, **neuron):
    """Spikes and potentials of one neuron behind one synapse."""
    network = network_of(arithmetic, [source(), population(**neuron)], [dense([[weight]], exponent=exponent)])
    trace = run_oracle(network, spikes_of(np.reshape(raster, (-1, 1))))
    return trace.spikes["out"].ravel().tolist(), trace.potentials["out"].ravel().tolist()


def test_integrates_weights_shifted_by_six_and_fires_strictly_above_the_threshold():
    # threshold 3 << 6 = 192: the third spike reaches it, only the fourth step exceeds it
    spikes, v = play([1, 1, 1, 0, 1], threshold_mantissa=3)
    assert v == [64, 128, 192, 192, 0]
    assert spikes == [0, 0, 0, 0, 1]


def test_inclusive_comparison_fires_at_the_threshold():
    spikes, v = play([1, 1, 1, 0, 1], arithmetic=INCLUSIVE, threshold_mantissa=3)
    assert v == [64, 128, 0, 0, 64]
    assert spikes == [0, 0, 1, 0, 0]


def test_reset_to_zero_forgets_what_lay_above_the_threshold_and_subtraction_keeps_it():
    raster = [1, 1, 1]
    assert play(raster, weight=5, threshold_mantissa=4) == ([1, 1, 1], [0, 0, 0])
    assert play(raster, weight=5, threshold_mantissa=4, reset="subtract") == ([1, 1, 1], [64, 128, 192])


def test_one_spike_per_step_at_most():
    spikes, v = play([1, 0, 0, 0], weight=9, threshold_mantissa=2, reset="subtract")
    assert spikes == [1, 1, 1, 1]
    assert v == [(9 - 2) * 64, (9 - 4) * 64, (9 - 6) * 64, (9 - 8) * 64]


def test_starts_at_v_init():
    # 129 > 2 << 6 already at the first step, without any input
    assert play([0, 1], threshold_mantissa=2, v_init_int=129) == ([1, 0], [0, 64])
    assert play([0, 1], threshold_mantissa=2, v_init_int=128) == ([0, 1], [128, 0])


def test_clamp_holds_v_init_and_ignores_inputs_and_bias():
    neuron = {"threshold_mantissa": 2, "v_init_int": 500, "bias_mantissa": np.array([7], np.int32)}
    assert play([1, 1, 1, 0], clamp_until=2, **neuron) == ([0, 0, 1, 0], [500, 500, 0, 7])
    assert play([1, 1], clamp_until=5, **neuron) == ([0, 0], [500, 500])


def test_decay_is_truncated_toward_zero_on_both_sides():
    # decay 2048 of 4096 halves: 5 -> 2 -> 1 -> 0, and -5 -> -2 -> -1 -> 0 (floor would give -3, -2, -1)
    assert play([0, 0, 0], threshold_mantissa=9, v_init_int=5, decay=2048)[1] == [2, 1, 0]
    assert play([0, 0, 0], threshold_mantissa=9, v_init_int=-5, decay=2048)[1] == [-2, -1, 0]


def test_decay_of_4096_forgets_everything_and_of_0_nothing():
    assert play([1, 1], threshold_mantissa=9, v_init_int=100, decay=4096)[1] == [64, 64]
    assert play([1, 1], threshold_mantissa=9, v_init_int=100, decay=0)[1] == [164, 228]


def test_decay_comes_before_input_and_bias():
    v = play([1, 0], threshold_mantissa=9, v_init_int=10, decay=2048, bias_mantissa=np.array([3], np.int32))[1]
    assert v == [5 + 64 + 3, 36 + 3]


def test_bias_is_shifted_by_its_exponent_and_not_by_six():
    bias = np.array([5], np.int32)
    assert play([0, 0], threshold_mantissa=9, bias_mantissa=bias)[1] == [5, 10]
    assert play([0, 0], threshold_mantissa=9, bias_mantissa=bias, bias_exponent=3)[1] == [40, 80]
    assert play([0, 0], threshold_mantissa=9, bias_mantissa=-bias, bias_exponent=3)[1] == [-40, -80]


def test_weight_exponent_shifts_the_weight():
    assert play([1, 1], weight=-3, threshold_mantissa=9, exponent=2)[1] == [-768, -1536]


def test_potential_saturates_at_both_ends():
    top = 2**23 - 1
    assert play([1], threshold_mantissa=131071, v_init_int=-top, weight=-1)[1] == [-top]
    assert play([1], threshold_mantissa=131071, v_init_int=top, weight=-1)[1] == [top - 64]
    # 131071 << 6 is 63 below the end, so a potential held there is above every threshold
    assert play([1], threshold_mantissa=131071, v_init_int=top - 5, weight=1) == ([1], [0])
    assert play([1], threshold_mantissa=131071, v_init_int=top - 5, weight=1, reset="subtract") == ([1], [63])


def wrapped(weight):
    """v after one step of this weight where the current register wraps at 8 bits and nothing is shifted."""
    ends = {"mixed": (-512, 512), "excitatory": (0, 512), "inhibitory": (-512, 0)}
    weights = {sign: {"minimum": low, "maximum": high, "step": 1} for sign, (low, high) in ends.items()}
    wide = variant("loihi-sim", weights={**weights, "exponent_max": 0}, synaptic_shift=0)
    network = network_of(wide, [source(), population(threshold_mantissa=131071)], [dense([[weight]])])
    narrow = wide.model_copy(update={"current": Register(bits=8, overflow="wrap")})
    return run_oracle(with_arithmetic(network, narrow), spikes_of([[1]])).potentials["out"].item()


@pytest.mark.parametrize(
    ("u", "kept"), [(127, 127), (128, 128), (129, -127), (255, -1), (-127, -127), (-128, 128), (-129, 127)]
)
def test_current_wraps_as_in_lava_and_its_upper_end_is_left_alone(u, kept):
    assert wrapped(u) == kept


def test_current_of_lavas_24_bits():
    x = np.array([2**23 - 1, 2**23, 2**23 + 1, -(2**23) + 1, -(2**23), 600 * 254 << 6])
    expected = [2**23 - 1, 2**23, -(2**23) + 1, -(2**23) + 1, 2**23, -7023616]  # the last as measured in Lava
    assert limit(x, Register(bits=24, overflow="wrap")).tolist() == expected


def test_saturating_register_holds_both_ends():
    x = np.array([126, 127, 128, 1000, -126, -127, -128, -1000])
    assert limit(x, Register(bits=8, overflow="saturate")).tolist() == [126, 127, 127, 127, -126, -127, -127, -127]


def test_driven_population_integrates_its_current_in_place_of_its_bias():
    neuron = population(
        shape=(2,), threshold_mantissa=1, driven=True, bias_exponent=2, bias_mantissa=np.array([999, 999], np.int32)
    )
    trace = run_oracle(network_of(LOIHI, [neuron]), currents_of([[5, -1], [10, 0]], n_steps=4))
    assert trace.potentials["out"].tolist() == [
        [[20, -4], [40, -8], [60, -12], [0, -16]],  # 80 > 64
        [[40, 0], [0, 0], [40, 0], [0, 0]],
    ]
    assert trace.spikes["out"][:, :, 0].tolist() == [[0, 0, 0, 1], [0, 1, 0, 1]]


def test_a_population_sees_the_spikes_of_the_same_step():
    hidden = population("hidden", role="hidden")
    network = network_of(
        LOIHI, [source(), hidden, population()], [dense([[2]], post="hidden"), dense([[2]], pre="hidden")]
    )
    trace = run_oracle(network, spikes_of([[0], [1], [0]]))
    assert trace.spikes["hidden"].ravel().tolist() == [0, 1, 0]
    assert trace.spikes["out"].ravel().tolist() == [0, 1, 0]
    assert trace.spikes["input"].ravel().tolist() == [0, 1, 0]


def test_projections_into_one_population_add_up():
    network = network_of(
        LOIHI,
        [source((2,)), population("a", (2,), role="hidden"), population(threshold_mantissa=9)],
        [dense([[2, 0], [0, 2]], post="a"), dense([[1, 3]]), dense([[4, 5]], pre="a", exponent=1)],
    )
    trace = run_oracle(network, spikes_of([[0, 1]]))
    assert trace.spikes["a"].tolist() == [[[0, 1]]]
    assert trace.potentials["out"].item() == 0  # (3 + (5 << 1)) << 6 = 832 > 576
    assert trace.spikes["out"].item() == 1


def split(*projections, raster, floor=None, bits=8, shift=0, **neuron):
    """Potentials and spikes of a neuron with accumulators of so many bits; `projections`: (row, exponent)."""
    wide = variant("loihi-sim", accumulator_bits=30, current={"bits": 40, "overflow": "saturate"}, synaptic_shift=shift)
    parts = [source((len(raster[0]),)), population(**{"threshold_mantissa": 1000} | neuron)]
    network = network_of(wide, parts, [dense([row], exponent=exponent) for row, exponent in projections])
    held = wide.model_copy(update={"accumulators": "split", "accumulator_bits": bits, "membrane_floor": floor})
    trace = run_oracle(with_arithmetic(network, held), spikes_of(raster))
    return trace.potentials["out"].ravel().tolist(), trace.spikes["out"].ravel().tolist()


def test_excitatory_and_inhibitory_sums_each_end_at_the_limit_before_they_are_subtracted():
    row = [100, 50, -30, -120]
    # 150 is held at 127, 30 is not; then both are held: 127 - 127, not 150 - 150; then 50 - 127, not 50 - 150
    potentials, _ = split((row, 0), raster=[[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])
    assert potentials == [127 - 30, 97 + 0, 97 + 50 - 127]


def test_an_accumulator_holds_exactly_its_limit():
    # 127 and -127 as they are, 128 and -128 one less
    up = [split(([100, 28], 0), raster=[[1, 1]])[0], split(([100, 26, 2], 0), raster=[[1, 1, 0]])[0]]
    assert up == [[127], [126]]
    assert split(([-100, -28], 0), raster=[[1, 1]])[0] == [-127]
    assert split(([-127], 0), raster=[[1]])[0] == [-127]


def test_accumulators_add_up_shifted_weights_of_all_projections_and_the_sum_is_shifted_after_the_limit():
    # 30 << 2 and 40 make 160, held at 127; -10 << 1 is 20: (127 - 20) << 3
    projections = ([30, -12], 2), ([40, 0], 0), ([0, -10], 1)
    assert split(*projections[:2], raster=[[1, 0]], shift=3)[0] == [127 << 3]
    assert split(projections[1], projections[2], raster=[[1, 1]], shift=3)[0] == [(40 - 20) << 3]
    assert split(([30, 0], 2), *projections[1:], raster=[[1, 1]], shift=3)[0] == [(127 - 20) << 3]


def test_joint_accumulators_lose_nothing():
    row = [100, 50, -30, -120]
    network = network_of(variant("loihi-sim", synaptic_shift=0), [source((4,)), population()], [dense([[*row]])])
    assert run_oracle(network, spikes_of([[1, 1, 1, 1]])).potentials["out"].item() == 0
    assert split((row, 0), raster=[[1, 1, 1, 1]], bits=9)[0] == [0]  # 150 and 150 fit 9 bits


def test_potential_ends_at_its_floor():
    rows = ([50, -30], 0)
    # -30 and -60 end at -40; 10 above it; from there up again
    potentials, _ = split(rows, raster=[[0, 1], [0, 1], [1, 0], [0, 1], [0, 1]], floor=-40)
    assert potentials == [-30, -40, 10, -20, -40]
    assert split(rows, raster=[[0, 1], [1, 0], [1, 1]], floor=0)[0] == [0, 50, 70]


def test_floor_comes_after_leak_bias_and_register_and_before_the_threshold():
    # half of 11 is 5; 5 - 30 + 4 = -21, held at -20
    neuron = {"v_init_int": 11, "decay": 2048, "bias_mantissa": np.array([4], np.int32)}
    assert split(([-30], 0), raster=[[1]], floor=-20, **neuron)[0] == [-20]
    # a floor above the threshold 1 << 6 fires at every step, and what is left lies below it until the next
    assert split(([2], 0), raster=[[0], [0]], floor=65, threshold_mantissa=1) == ([0, 0], [1, 1])
    kept = split(([2], 0), raster=[[0], [1]], floor=70, threshold_mantissa=1, reset="subtract")
    assert kept == ([6, 6], [1, 1])
    assert split(([2], 0), raster=[[0], [0]], floor=64, threshold_mantissa=1) == ([64, 64], [0, 0])  # not above 64


def test_clamp_ignores_the_floor():
    potentials, spikes = split(([-1], 0), raster=[[0], [0]], floor=0, v_init_int=-500, clamp_until=1)
    assert (potentials, spikes) == ([-500, 0], [0, 0])


@given(st.data())
@cases(80)
def test_convolution_equals_torch_in_float64(data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7)))
    synapse = random_conv(data.draw, rng, LOIHI, shape)
    spikes = (rng.random((2, 3, *shape)) < 0.5).astype(np.uint8)
    g = synapse.geometry
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(spikes.reshape(6, *shape)).double(),
        torch.from_numpy(synapse.mantissa).double(),
        None,
        g.stride,
        g.padding,
        g.dilation,
        g.groups,
    )
    summed = weigh(synapse, spikes)
    assert summed.dtype == np.int64
    # sums of integers far below 2^53 are exact in float64
    np.testing.assert_array_equal(summed.reshape(6, *g.out_shape), expected.numpy())


def test_dense_reads_and_writes_any_shape_in_c_order():
    rng = np.random.default_rng(0)
    mantissa = rng.integers(-9, 9, (6, 12)).astype(np.int32)
    spikes = rng.integers(0, 2, (1, 5, 3, 2, 2)).astype(np.uint8)
    network = network_of(
        target("cpu").arithmetic,
        [source((3, 2, 2)), population(shape=(2, 3, 1), threshold_mantissa=2**20)],
        [dense(mantissa)],
    )
    summed = weigh(IntDense(mantissa), spikes)
    for t in range(5):
        fired = spikes[0, t].ravel().tolist()
        expected = [sum(w for w, s in zip(row, fired, strict=True) if s) for row in mantissa.tolist()]
        assert summed[0, t].tolist() == expected
    v = run_oracle(network, IntInputs(1, 5, spikes, {})).potentials["out"]
    np.testing.assert_array_equal(v[0].reshape(5, 6), np.cumsum(summed[0], axis=0) << 6)


def test_grouped_convolution_by_hand():
    # two groups of one channel each, kernel [1, -2]: cross-correlation, not flipped
    mantissa = np.array([[[[1, -2]]], [[[10, 20]]]], np.int32)
    synapse = IntConv2d(mantissa, conv_geometry((2, 1, 3), mantissa.shape, (1, 1), (0, 0), (1, 1), 2))
    spikes = np.array([[[1, 0, 1]], [[0, 1, 1]]], np.uint8)[None, None]
    assert weigh(synapse, spikes)[0, 0].tolist() == [[[1, -2]], [[20, 30]]]
