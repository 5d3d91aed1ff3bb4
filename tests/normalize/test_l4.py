"""The L4-norm adjustment: equations 4 to 9 of Allred & Roy by hand, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from neuroport.normalize.convert import convert
from neuroport.normalize.l4 import adjusted, l4_factors
from neuroport.snn.network import Neuron, Projection, SpikingNetwork
from neuroport.snn.operators import Conv2d, ConvGeometry, Dense, Sparse
from tests.normalize.nets import Images, between, dense, layers_of, population, recipe

ONES: Images = np.ones((1, 4), np.float32)


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


# --- the factors


def test_the_threshold_moves_with_the_norm_and_weights_the_other_way() -> None:
    """Norms 1 and 3, mean 2. theta' = 1/2 + 1/2 * 1/2 = 3/4 and 1/4 + 3/4 * 3/2 = 11/8; s = 4/3 and 8/11."""
    np.testing.assert_allclose(l4_factors(array(1, 3), array(0.5, 0.25)), [4 / 3, 8 / 11], rtol=1e-15)


def test_smoothing_acts_on_the_norms_and_on_the_factors() -> None:
    """alpha 1: norms 3/2 and 5/2, theta' = 1/2 + 1/2 * 3/4 = 7/8 and 1/4 + 3/4 * 5/4 = 19/16; (s + 1) / 2.

    alpha 3: norms 7/4 and 9/4, theta' = 15/16 and 1/4 + 3/4 * 9/8 = 35/32; (s + 3) / 4.
    """
    norms, means = array(1, 3), array(0.5, 0.25)
    np.testing.assert_allclose(l4_factors(norms, means, 1.0), [(8 / 7 + 1) / 2, (16 / 19 + 1) / 2], rtol=1e-15)
    np.testing.assert_allclose(l4_factors(norms, means, 3.0), [(16 / 15 + 3) / 4, (32 / 35 + 3) / 4], rtol=1e-15)
    deviations = [abs(l4_factors(norms, means, alpha) - 1).max() for alpha in (0.0, 1.0, 3.0, 1e6)]
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[-1] < 1e-6


def test_equal_norms_or_a_mean_at_the_threshold_change_nothing() -> None:
    np.testing.assert_array_equal(l4_factors(array(2, 2), array(0.3, -1)), [1, 1])
    np.testing.assert_array_equal(l4_factors(array(1, 3), array(1, 1)), [1, 1])


def test_a_threshold_moves_by_no_more_than_a_factor_of_four() -> None:
    """mu = -9: theta' = -9 + 10 * 3/2 = 6 -> 4, and -9 + 10 * 1/2 = -4 -> 1/4; no sign turns."""
    np.testing.assert_array_equal(l4_factors(array(3, 1), array(-9, -9)), [1 / 4, 4])


def test_norms_of_0_are_no_division_by_0() -> None:
    with np.errstate(all="raise"):
        assert l4_factors(array(0, 0), array(0, 0)).tolist() == [4, 4]
        assert l4_factors(array(0, 2), array(0, 0)).tolist() == [4, 0.5]


# --- the first layer


def test_the_papers_two_vectors_of_the_same_l2_norm() -> None:
    """Section 3.3: of equal L2 norms the sparser one has the larger L4 norm: 1 against (4 / 16)^(1/4) = 0.707.

    Both see the mean 0: theta' = norm / mean norm, s = 0.8536 / norm. Their magnitudes were 1 and 2, 3 together.
    """
    weight = np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    net = two_layers(Dense(weight, (4,), (2,)), (2,))
    found = adjusted(net, np.array([[0.5, -0.5, 0, 0], [-0.5, 0.5, 0, 0]], np.float32), 0.0)
    norms = array(1, 2**-0.5)
    factor = norms.mean() / norms
    factor *= 3 / (factor * [1, 2]).sum()
    after = found.projections[0].operator
    assert isinstance(after, Dense)
    np.testing.assert_allclose(after.weight, weight * factor[:, None], rtol=1e-14)
    assert factor[0] < 1 < factor[1]


def two_layers(operator: Any, shape: tuple[int, ...], bias: Any = 0.0, source: tuple[int, ...] = ()) -> SpikingNetwork:
    """Input -> a, of that operator and bias -> out."""
    n_in = source or tuple(operator.in_shape)
    populations = (
        population("input", n_in, role="input"),
        population("a", shape, bias=np.broadcast_to(np.asarray(bias, np.float64), shape).copy()),
        population("out", (1,), neuron=Neuron(fires=False), role="readout"),
    )
    behind = between(*populations[1:], np.ones((1, int(np.prod(shape)))))
    return SpikingNetwork(populations, (Projection("input", "a", operator), behind))


@pytest.mark.parametrize("n", [1, 300])
def test_means_are_taken_over_samples_with_the_bias_and_biases_go_with_their_weights(n: int) -> None:
    """Weights 2 and 1 of one input, biases 1/4 and -1/2, inputs 0 and 1/2: means 3/4 and -1/4.

    Norms 2 and 1, mean 3/2: theta' = 3/4 + 1/4 * 4/3 = 13/12, and -1/4 + 5/4 * 2/3 = 7/12; s = 12/13 and 12/7.
    Weights 24/13 and 12/7 have the mean 162/91, it was 3/2: factors 12/13 * 91/108 = 7/9 and 12/7 * 91/108 = 13/9.
    600 samples, the first half of them 0, take three batches.
    """
    net = two_layers(Dense(np.array([[2.0], [1.0]]), (1,), (2,)), (2,), [0.25, -0.5])
    found = adjusted(net, np.repeat(np.array([[0.0], [0.5]], np.float32), n, 0), 0.0)
    after = found.projections[0].operator
    assert isinstance(after, Dense)
    np.testing.assert_allclose(after.weight, [[14 / 9], [13 / 9]], rtol=1e-7)
    np.testing.assert_allclose(found.by_name["a"].bias, [0.25 * 7 / 9, -0.5 * 13 / 9], rtol=1e-7)
    assert np.abs(after.weight).mean() == pytest.approx(1.5, rel=1e-14)


def kernels(weight: Any, image: tuple[int, int, int], padding: int = 0) -> Conv2d:
    w = np.array(weight, np.float64)[:, None, None, :]
    out = (len(w), 1, image[2] + 2 * padding - w.shape[3] + 1)
    return Conv2d(w, ConvGeometry(image, out, (1, w.shape[3]), padding=(0, padding)))


def test_a_convolution_averages_over_its_windows() -> None:
    """Kernels (1, 0) and (1/2, -1/2) over 1, 0, 1, 1 see the windows (1, 0) (0, 1) (1, 1): means 2/3 and 0.

    Norms 1 and (2 / 16)^(1/4) = 0.595. A padded border changes means, not norms.
    """
    operator = kernels([[1, 0], [0.5, -0.5]], (1, 1, 4))
    image: Images = np.array([[[[1, 0, 1, 1]]]], np.float32)
    found = adjusted(two_layers(operator, operator.out_shape), image, 0.0)
    norms, means = array(1, 0.125**0.25), array(2 / 3, 0)
    s = 1 / (means + (1 - means) * norms / norms.mean())
    s *= 2 / s.sum()  # both kernels have magnitudes that sum to 1
    after = found.projections[0].operator
    assert isinstance(after, Conv2d)
    np.testing.assert_allclose(after.weight[:, 0, 0], s[:, None] * [[1, 0], [0.5, -0.5]], rtol=1e-6)


def test_a_matrix_of_many_places_is_a_convolution() -> None:
    """The same weights multiplied out: two channels of five places each, the norms those away from the border."""
    conv = kernels([[1, 2, 3], [-1, 0.5, 0.25]], (1, 1, 5), padding=1)
    rows = np.zeros((10, 5))
    for c, kernel in enumerate(([1, 2, 3], [-1, 0.5, 0.25])):
        for place in range(5):
            for k, value in enumerate(kernel):
                if 0 <= place + k - 1 < 5:
                    rows[5 * c + place, place + k - 1] = value
    images = np.random.default_rng(0).random((3, 1, 1, 5), np.float32)
    as_conv = adjusted(two_layers(conv, (2, 1, 5)), images, 0.5).projections[0].operator
    sparse = Sparse(csr_array(rows), (1, 1, 5), (2, 1, 5))
    as_sparse = adjusted(two_layers(sparse, (2, 1, 5)), images, 0.5).projections[0].operator
    assert isinstance(as_conv, Conv2d) and isinstance(as_sparse, Sparse)
    factors = (as_conv.weight / conv.weight)[:, 0, 0, 0]
    assert abs(factors - 1).min() > 0.01
    # potentials are float32 sums of at most three products
    np.testing.assert_allclose(as_sparse.matrix.toarray(), rows * np.repeat(factors, 5)[:, None], rtol=1e-5)


def test_only_populations_that_read_the_input_alone_change() -> None:
    """a reads the input; b reads a and the input; c reads a."""
    shapes = {"input": (2,), "a": (3,), "b": (3,), "c": (2,)}
    p = {name: population(name, shape, role="input" if name == "input" else "hidden") for name, shape in shapes.items()}
    out = population("out", (1,), neuron=Neuron(fires=False), role="readout")
    rng = np.random.default_rng(0)
    pairs = [("input", "a"), ("a", "b"), ("input", "b"), ("a", "c")]
    projections = [between(p[i], p[j], rng.normal(size=(*shapes[j], *shapes[i]))) for i, j in pairs]
    projections += [between(p[i], out, rng.normal(size=(1, *shapes[i]))) for i in ("b", "c")]
    net = SpikingNetwork((*p.values(), out), tuple(projections))
    found = adjusted(net, rng.random((5, 2), np.float32), 0.0)
    changed = [
        (j.pre, j.post) for j, k in zip(found.projections, net.projections, strict=True) if j.operator is not k.operator
    ]
    assert changed == [("input", "a")]


def test_a_readout_that_only_accumulates_is_no_first_layer() -> None:
    populations = (
        population("input", (2,), role="input"),
        population("out", (2,), neuron=Neuron(fires=False), role="readout"),
    )
    net = SpikingNetwork(populations, (between(*populations, [[1.0, 2.0], [0.5, 0.0]]),))
    assert adjusted(net, np.ones((1, 2), np.float32), 0.0).projections == net.projections


def test_a_recipe_adjusts_the_normalized_network_and_keeps_the_plain_one() -> None:
    graph = dense(([[4.0, 0.0], [1.0, 1.0]], [0.0, 0.5]), ([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0]))
    images = np.random.default_rng(3).random((300, 2), np.float32)
    options: dict[str, Any] = {"input": "poisson", "corrections": ({"kind": "l4", "alpha": 0.5, "samples": 300},)}
    plain, found = convert(graph, images, recipe(input="poisson")), convert(graph, images, recipe(**options))
    expected = adjusted(plain.network, images, 0.5)
    for (weight, bias), (w, b) in zip(layers_of(found.network), layers_of(expected), strict=True):
        np.testing.assert_array_equal(weight, w)
        np.testing.assert_array_equal(bias, b)
    assert abs(layers_of(found.network)[0][0] - layers_of(plain.network)[0][0]).max() > 0.01
    for (weight, _), (w, _) in zip(layers_of(found.exact.network), layers_of(plain.network), strict=True):
        np.testing.assert_array_equal(weight, w)
