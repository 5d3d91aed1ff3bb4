"""What spikes add, and where: the core is the oracle in every storage order that channels, images and kernels give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.core import run_core
from neuroport.chip.core.layout import layout_of
from neuroport.chip.core.work import DENSE, MERGED, POINTS
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntProjection
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse
from neuroport.snn.operators import ConvGeometry
from tests.chip.networks import (
    cases,
    dense,
    fitted,
    network_of,
    population,
    random_image,
    random_population,
    source,
    target,
    variant,
)
from tests.chip.test_core import SYNAPSES, assert_core_is_oracle

CHANNELS = [1, 2, 3, 8, 9, 16, 17, 33, 64, 65, 70]
FLAT = [1, 63, 64, 65, 129]
CPU = target("cpu").arithmetic
_ANY = {"minimum": -(2**30), "maximum": 2**30, "step": 1}
BROAD = variant(
    "cpu",
    weights={"mixed": _ANY, "excitatory": _ANY, "inhibitory": _ANY, "exponent_max": 7},
    accumulator_bits=40,
    synaptic_shift=0,
    current={"bits": 40, "overflow": "saturate"},
    membrane={"bits": 40, "overflow": "saturate"},
    threshold={"mantissa_max": 2**34, "shift": 0, "compare": ">="},
)
NARROW = variant(
    "cpu",
    membrane={"bits": 26, "overflow": "saturate"},
    threshold={"mantissa_max": 2**19 - 1, "shift": 6, "compare": ">"},
)
STEPPED = variant("loihi-sim", accumulator_bits=30, current={"bits": 40, "overflow": "wrap"})
# largest magnitude of weights and their common power of two: what chooses the types of weights and sums
SCALES = [(1, 0), (1, 6), (127, 0), (128, 0), (127, 3), (2**12, 0), (2**18, 0), (2**22, 1)]


def weights_of(draw: Any, rng: np.random.Generator, a: Any, shape: tuple[int, ...], n_in: int) -> Any:
    """Mantissas of one or both signs, of any scale that sums of 3 * n_in hold."""
    sheet, room = a.weights.mixed, a.synaptic_limit // (3 * n_in)
    scales = [(m, p) for m, p in SCALES if (m << p) * sheet.step <= min(sheet.maximum, room)]
    top, power = draw(st.sampled_from(scales))
    signs = draw(st.sampled_from([(-1, 1), (0, 1), (-1, 0)]))
    low, high = signs[0] * top, signs[1] * top
    m = rng.integers(low, high, shape, endpoint=True)
    if draw(st.booleans()):
        m *= rng.random(shape) < 0.3
    ends = [low, high] if m.size > 1 else [low or high]
    m.flat[: len(ends)] = ends
    if low and high and m.size == 1:
        m.flat[0] = top
    return ((m * sheet.step) << power).astype(np.int32)


def geometry_of(draw: Any, in_shape: Any, out_shape: Any) -> ConvGeometry:
    """A kernel between these images: strides beyond it, dilation, padding all around or cut, groups of any size."""
    common = [g for g in range(1, in_shape[0] + 1) if in_shape[0] % g == out_shape[0] % g == 0]
    groups = draw(st.sampled_from([1, 1, common[-1], common[len(common) // 2]]))
    if in_shape[1:] == out_shape[1:] and draw(st.booleans()):
        k = draw(st.sampled_from([1, 3]))
        return ConvGeometry(in_shape, out_shape, (k, k), padding=(k // 2, k // 2), groups=groups)
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride = draw(st.one_of(pair, st.sampled_from([(1, 1), (2, 2), (4, 5)])))
    padding = draw(st.tuples(st.integers(-2, 6), st.integers(-2, 6)))
    return ConvGeometry(in_shape, out_shape, draw(pair), stride, padding, draw(pair), groups)


def synapse_of(draw: Any, rng: np.random.Generator, a: Any, pre: Any, shape: tuple[int, ...], n_in: int) -> Any:
    """Synapses from a population to one of this shape: its image or another, read as the image it is or as another."""
    n_out = int(np.prod(shape))
    kind = draw(st.sampled_from(["conv", "conv", "conv", "transposed", "dense", "sparse", "identity"]))
    if kind == "dense":
        return IntDense(weights_of(draw, rng, a, (n_out, pre.n_neurons), n_in))
    if kind in ("sparse", "identity"):
        held = np.arange(n_out)[:, None] == np.arange(pre.n_neurons)
        if kind == "sparse":
            held = rng.random(held.shape) < draw(st.sampled_from([0.02, 0.3]))
        held[rng.integers(n_out), rng.integers(pre.n_neurons)] = True
        rows, columns = np.nonzero(held)
        mantissa = weights_of(draw, rng, a, rows.shape, n_in)
        return IntSparse(mantissa, columns, np.searchsorted(rows, np.arange(n_out + 1)))
    is_own, is_its = draw(st.sampled_from([True, True, True, False])), draw(st.sampled_from([True, True, True, False]))
    in_shape = pre.shape if len(pre.shape) == 3 and is_own else random_image(draw, pre.n_neurons)
    out_shape = shape if len(shape) == 3 and is_its else random_image(draw, n_out)
    g = geometry_of(draw, in_shape, out_shape)
    if kind == "conv":
        return IntConv2d(weights_of(draw, rng, a, (out_shape[0], in_shape[0] // g.groups, *g.kernel), n_in), g)
    weight_shape = (in_shape[0], out_shape[0] // g.groups, *g.kernel)
    return IntConvTranspose2d(weights_of(draw, rng, a, weight_shape, n_in), g)


def shape_of(draw: Any) -> tuple[int, ...]:
    """An image, thin ones among them, or a row of neurons."""
    if draw(st.integers(0, 4)) == 0:
        return (draw(st.sampled_from(FLAT)),)
    c = draw(st.sampled_from(CHANNELS))
    sides = [1, 2, 3] if c > 16 else [1, 2, 3, 5, 7]
    return (c, draw(st.sampled_from(sides)), draw(st.sampled_from(sides)))


@st.composite
def wide_networks(draw: Any) -> Any:
    """One to three populations of many channels or neurons, each read by up to three of the later ones, and inputs."""
    a = draw(st.sampled_from([CPU, BROAD, NARROW, STEPPED]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_samples, n_steps = draw(st.integers(1, 2)), draw(st.integers(1, 6))
    shape = shape_of(draw)
    if draw(st.booleans()):
        made = [random_population(draw, rng, a, "p0", shape, 2 * a.bias.limit, n_steps)]
        object.__setattr__(made[0], "driven", True)
        low, high = a.bias.mantissa_min, a.bias.mantissa_max
        currents = rng.integers(low, high, (n_samples, *shape), endpoint=True).astype(np.int32)
        inputs = IntInputs(n_samples, n_steps, None, {"p0": currents})
    else:
        made = [source(shape, "p0")]
        fires = rng.random((n_samples, n_steps, *shape)) < draw(st.sampled_from([0.05, 0.3, 1.0]))
        inputs = IntInputs(n_samples, n_steps, fires.astype(np.uint8), {})
    projections: list[IntProjection] = []
    for k in range(1, draw(st.integers(1, 3)) + 1):
        shape, name = shape_of(draw), f"p{k}"
        pres = [made[-1], *(draw(st.sampled_from(made)) for _ in range(draw(st.integers(0, 2))))]
        n_in = max(p.n_neurons for p in pres)
        parts = [(p.name, synapse_of(draw, rng, a, p, shape, n_in)) for p in pres]
        incoming = fitted(draw, parts, name, a)
        typical = int(max(np.abs(j.synapse.mantissa).max() << j.exponent for j in incoming)) << a.synaptic_shift
        made.append(random_population(draw, rng, a, name, shape, typical, n_steps))
        projections.extend(incoming)
    object.__setattr__(made[-1], "role", "readout")
    return network_of(a, made, projections, heads=[IntHead(made[-1].name, "membrane")]), inputs


@given(wide_networks(), SYNAPSES)
@cases(150)
def test_core_equals_oracle_in_every_storage_order(case, synapses):
    assert_core_is_oracle(*case, synapses)


@given(wide_networks())
@cases(150)
def test_no_kernel_reads_beyond_the_weights(case):
    """The kernels check no bounds: what each neuron's stamps read, added up here as work.Stamps says."""
    for layer in layout_of(case[0]).layers:
        s, joined = layer.synapses.stamps, layer.synapses
        ends = [*joined.key[1:].tolist(), len(s.place)][: len(joined.key)]  # none: it is driven
        for start, end, unit, width in zip(joined.key, ends, joined.unit, joined.width, strict=True):
            mine = slice(int(start), end)
            runs = np.diff(s.first.astype(np.int64))
            reads = {POINTS: 1, DENSE: int(width)}.get(int(unit))
            if reads is None:
                reads = int(unit % MERGED) * runs[s.kind[mine]]
            last = np.where(reads, s.weight_at[mine].astype(np.int64) + reads, 0)
            assert last.max(initial=0) <= s.weight.size


def behind_an_image(geometry, threshold=1, **neuron):
    """Network and inputs: a source copied to an image, channels last, that a convolution reads."""
    rng = np.random.default_rng(0)
    c, c_out = geometry.in_shape[0], geometry.out_shape[0]
    copy = IntConv2d(
        np.eye(c, dtype=np.int32)[:, :, None, None], ConvGeometry(geometry.in_shape, geometry.in_shape, (1, 1))
    )
    m = rng.integers(-60, 60, (c_out, c // geometry.groups, *geometry.kernel)).astype(np.int32)
    parts = [
        source(geometry.in_shape),
        population("a", geometry.in_shape, role="hidden", threshold_mantissa=threshold),
        population(shape=geometry.out_shape, threshold_mantissa=10**6),
    ]
    links = [IntProjection("input", "a", copy), IntProjection("a", "out", IntConv2d(m, geometry))]
    inputs = IntInputs(2, 5, rng.integers(0, 2, (2, 5, *geometry.in_shape)).astype(np.uint8), {})
    return network_of(CPU, parts, links, readout="membrane"), inputs


@pytest.mark.parametrize("c", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("c_out", [16, 17, 32, 33, 64, 70])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (2, 2, 0), (1, 2, 0), (3, 3, 2), (1, 3, 0)]
)
def test_pixels_stamped_together_are_one_pixel(c, c_out, kernel, stride, padding):
    """With a stride two pixels may stamp from one place on, each its own taps."""
    n = (7 + 2 * padding - kernel) // stride + 1
    geometry = ConvGeometry((c, 7, 7), (c_out, n, n), (kernel, kernel), (stride, stride), (padding, padding))
    assert_core_is_oracle(*behind_an_image(geometry))


@pytest.mark.parametrize(
    ("in_shape", "out_shape", "padding"),
    [((3, 1, 8), (64, 1, 4), (0, -4)), ((1, 3, 8), (64, 3, 4), (0, -4)), ((2, 8, 3), (32, 4, 3), (-4, 0))],
)
def test_pixels_that_are_cut_off_are_not_stamped_with_the_first_one_that_is_read(in_shape, out_shape, padding):
    assert_core_is_oracle(*behind_an_image(ConvGeometry(in_shape, out_shape, (1, 1), (1, 1), padding)))


@pytest.mark.parametrize(
    ("geometry", "unit"),
    [
        (ConvGeometry((3, 4, 4), (1, 4, 4), (3, 3), padding=(1, 1)), 1),
        (ConvGeometry((3, 4, 4), (3, 4, 4), (3, 3), padding=(1, 1)), 8),
        (ConvGeometry((3, 4, 4), (9, 4, 4), (3, 3), padding=(1, 1)), 16),
        (ConvGeometry((3, 4, 4), (33, 4, 4), (3, 3), padding=(1, 1)), 16),
        (ConvGeometry((3, 4, 4), (17, 4, 4), (3, 3), padding=(1, 1)), MERGED + 32),
        (ConvGeometry((3, 4, 4), (64, 4, 4), (3, 3), padding=(1, 1)), MERGED + 64),
        (ConvGeometry((16, 4, 4), (16, 4, 4), (3, 3), padding=(1, 1), groups=16), 1),
        (ConvGeometry((16, 4, 4), (16, 4, 4), (3, 3), padding=(1, 1), groups=2), 8),
        (ConvGeometry((4, 4, 4), (64, 4, 4), (3, 3), padding=(1, 1), groups=4), 16),
        (ConvGeometry((2, 4, 4), (128, 4, 4), (3, 3), padding=(1, 1), groups=2), 64),
        (ConvGeometry((16, 4, 4), (16, 4, 4), (1, 1), groups=16), POINTS),
        (ConvGeometry((2, 4, 4), (2, 4, 4), (1, 1), groups=2), POINTS),
    ],
)
def test_every_length_of_vector_is_taken_and_right(geometry, unit):
    network, inputs = behind_an_image(geometry)
    assert layout_of(network).layers[-1].synapses.unit.tolist() == [unit]
    assert_core_is_oracle(network, inputs)


@pytest.mark.parametrize("n", FLAT)
@pytest.mark.parametrize("n_events", [0, 1, 2, 3, 7, 8, 9, 15, 16, 17])
def test_dense_rows_are_added_eight_two_and_one_at_a_time(n, n_events):
    rng = np.random.default_rng(n)
    parts = [source((17,)), population(shape=(n,), threshold_mantissa=10**6)]
    network = network_of(CPU, parts, [dense(rng.integers(-127, 128, (n, 17)))], readout="membrane")
    raster = np.zeros((2, 3, 17), np.uint8)
    raster[:, :, rng.permutation(17)[:n_events]] = 1
    assert_core_is_oracle(network, IntInputs(2, 3, raster, {}))


@pytest.mark.parametrize("pre_shape", [(129,), (3, 5, 3), (17, 2, 2), (70, 1, 1)])
def test_spikes_of_every_place_of_a_word_are_listed(pre_shape):
    """Rasters from silence to every neuron, so that words hold 0 to 64 spikes; places between neurons hold none."""
    rng = np.random.default_rng(0)
    n = int(np.prod(pre_shape))
    parts = [source((n,)), population("a", pre_shape, role="hidden"), population(threshold_mantissa=10**6)]
    links = [dense(np.eye(n, dtype=int), post="a"), dense(rng.integers(-127, 128, (1, n)), pre="a")]
    raster = (rng.random((4, 33, n)) < np.linspace(0, 1, 33)[:, None]).astype(np.uint8)
    network, inputs = network_of(CPU, parts, links, readout="membrane"), IntInputs(4, 33, raster, {})
    trace = assert_core_is_oracle(network, inputs)
    np.testing.assert_array_equal(trace.spikes["a"].reshape(raster.shape), raster)
    np.testing.assert_array_equal(run_core(network, inputs).totals["a"].ravel(), raster.sum((0, 1)))


def test_convolutions_to_the_same_and_to_another_image_with_dense_and_identity():
    """Two convolutions share the storage order, a third writes the same neurons as another image."""
    rng = np.random.default_rng(3)

    def conv(in_shape, out_shape, **options):
        g = ConvGeometry(in_shape, out_shape, (3, 3), padding=(1, 1), **options)
        return IntConv2d(rng.integers(-50, 50, (out_shape[0], in_shape[0], 3, 3)).astype(np.int32), g)

    shape, other = (17, 4, 2), (2, 17, 4)
    identity = IntSparse(rng.integers(1, 90, 136).astype(np.int32), np.arange(136), np.arange(137))
    synapses = [
        ("input", conv((2, 8, 4), shape, stride=(2, 2))),
        ("a", conv(shape, shape)),
        ("a", conv(other, other)),
        ("a", identity),
        ("a", IntDense(rng.integers(-9, 9, (136, 136)).astype(np.int32))),
        ("input", IntDense(rng.integers(-99, 99, (136, 64)).astype(np.int32))),
    ]
    for order in (synapses, synapses[::-1], synapses[2:] + synapses[:2]):
        parts = [
            source((2, 8, 4)),
            population("a", shape, role="hidden", threshold_mantissa=20, reset="subtract"),
            population(shape=shape, threshold_mantissa=150, reset="subtract"),
        ]
        links = [
            IntProjection("input", "a", synapses[0][1]),
            *(IntProjection(pre, "out", s, k) for k, (pre, s) in enumerate(order)),
        ]
        raster = (rng.random((3, 9, 2, 8, 4)) < 0.3).astype(np.uint8)
        trace = assert_core_is_oracle(network_of(CPU, parts, links, readout="membrane"), IntInputs(3, 9, raster, {}))
        assert 0 < trace.spikes["a"].mean() < 1
        assert 0 < trace.spikes["out"].mean() < 1
