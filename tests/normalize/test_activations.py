"""Activation statistics are exact order statistics, however the data is cut into batches."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuroport.errors import InvalidNetworkError
from neuroport.normalize import activations
from neuroport.normalize.activations import ActivationStatistics, Pass, collect_statistics

Values = NDArray[np.float32]
PERCENTILES = [1e-05, 0.1, 1, 25, 50, 90, 93.75, 99, 99.9, 99.99, 99.999, 100]


def batches(values: Values, sizes: Sequence[int] | None = None) -> Pass:
    """A pass over values [N, C, ...] cut at the given sizes."""
    cuts = np.cumsum(sizes)[:-1] if sizes else []

    def one_pass() -> Iterable[tuple[str, torch.Tensor]]:
        for part in np.split(values, cuts):
            yield "layer", torch.from_numpy(part.copy())

    return one_pass


def statistics(values: Values, percentile: float, *, per_channel: bool = False, **cut: Any) -> ActivationStatistics:
    return collect_statistics(batches(values, **cut), percentile=percentile, per_channel=per_channel)["layer"]


def oracle(values: Values, percentile: float) -> np.float32:
    """The smallest value that at least p percent of all do not exceed, in exact arithmetic."""
    ordered = np.sort(values, axis=None)
    rank = Fraction(str(percentile)) / 100 * len(ordered)
    return ordered[max(1, -(-rank.numerator // rank.denominator)) - 1]


def assert_exact(values: Values, percentile: float) -> None:
    """Layer and channels equal the oracle to the bit; `values` is [N, C, ...]."""
    whole = statistics(values, percentile)
    assert whole.n_values == values.size
    assert whole.maximum.tolist() == [values.max()]
    assert whole.percentile.tolist() == [oracle(values, percentile)]
    each = statistics(values, percentile, per_channel=True)
    channels = [values[:, c] for c in range(values.shape[1])]
    assert each.n_values == values.size // values.shape[1]
    assert each.maximum.tolist() == [channel.max() for channel in channels]
    assert each.percentile.tolist() == [oracle(channel, percentile) for channel in channels]


RNG = np.random.default_rng(5)
SHAPE = (40, 3, 5, 5)
TINY, HUGE = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
DATA: dict[str, Values] = {
    "uniform": RNG.random(SHAPE, np.float32),
    "relu of normal": np.maximum(RNG.normal(size=SHAPE), 0).astype(np.float32),
    "mostly zero": (RNG.random(SHAPE) * (RNG.random(SHAPE) > 0.999)).astype(np.float32),
    "all zero": np.zeros(SHAPE, np.float32),
    "ties": RNG.integers(0, 4, SHAPE).astype(np.float32),
    "one value": np.full(SHAPE, np.float32(0.1)),
    "neighbours": (1 + RNG.integers(0, 9, SHAPE) * 2.0**-23).astype(np.float32),
    "sixty decades": (10.0 ** RNG.uniform(-37, 38, SHAPE)).astype(np.float32),
    "denormal": RNG.integers(0, 5000, SHAPE).astype(np.float32) * TINY,
    "largest": np.where(RNG.random(SHAPE) > 0.5, HUGE, np.nextafter(HUGE, np.float32(0))).astype(np.float32),
    "scales by channel": (RNG.random(SHAPE) * [[[[1e-6]], [[1.0]], [[1e6]]]]).astype(np.float32),
    "negative zeros": np.where(RNG.random(SHAPE) > 0.5, -0.0, 1.0).astype(np.float32),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("percentile", PERCENTILES)
def test_maximum_and_percentile_are_exact(name: str, percentile: float) -> None:
    assert_exact(DATA[name], percentile)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("percentile", [25, 50, 93.75, 99.7, 99.93, 100])
def test_numpy_agrees(name: str, percentile: float) -> None:
    """Where n p / 100 is no whole number, or p / 100 exact in binary, numpy's rounding cannot choose another rank."""
    found = statistics(DATA[name], percentile)
    assert found.percentile.item() == np.percentile(DATA[name], percentile, method="inverted_cdf")
    each = statistics(DATA[name][:39], percentile, per_channel=True)
    expected = np.percentile(DATA[name][:39], percentile, axis=(0, 2, 3), method="inverted_cdf")
    np.testing.assert_array_equal(each.percentile, expected)


def test_the_rank_is_exact_where_floating_point_would_miss_it() -> None:
    """99.9 % of 1000 values are 999 of them, although 0.999 * 1000 may round to above 999."""
    values = np.arange(1, 1001, dtype=np.float32).reshape(1000, 1)
    for percentile, rank in ((99.9, 999), (99.91, 1000), (0.1, 1), (0.11, 2), (58.3, 583), (7, 70), (1e-9, 1)):
        assert statistics(values, percentile).percentile.item() == rank


floats32 = st.one_of(
    st.floats(0, float(HUGE), width=32),
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 1.0, float(TINY), float(HUGE), 0.1]).map(lambda x: float(np.float32(x))),
)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(floats32, floats32), min_size=1, max_size=60),
    percentile=st.one_of(st.sampled_from(PERCENTILES), st.floats(1e-3, 100)),
    data=st.data(),
)
def test_any_values_in_any_order_and_any_batches(
    rows: list[tuple[float, float]], percentile: float, data: st.DataObject
) -> None:
    values = np.array(rows, np.float32)
    assert_exact(values, percentile)
    shuffled = values[data.draw(st.permutations(range(len(rows))))]
    cut = data.draw(st.integers(1, len(rows)))
    sizes = [cut, len(rows) - cut] if cut < len(rows) else [cut]
    for per_channel in (False, True):
        one = statistics(values, percentile, per_channel=per_channel)
        other = statistics(shuffled, percentile, per_channel=per_channel, sizes=sizes)
        assert one.n_values == other.n_values
        np.testing.assert_array_equal(one.maximum, other.maximum)
        np.testing.assert_array_equal(one.percentile, other.percentile)


def test_several_populations_of_different_shapes_are_kept_apart() -> None:
    first, second = RNG.random((10, 3), np.float32), 5 + RNG.random((10, 2, 4, 4), np.float32)

    def both() -> Iterable[tuple[str, torch.Tensor]]:
        for k in range(0, 10, 5):
            yield "first", torch.from_numpy(first[k : k + 5])
            yield "second", torch.from_numpy(second[k : k + 5])

    found = collect_statistics(both, percentile=90, per_channel=True)
    assert found["first"].percentile.tolist() == [oracle(first[:, c], 90) for c in range(3)]
    assert found["second"].percentile.tolist() == [oracle(second[:, c], 90) for c in range(2)]


def test_values_are_not_changed_and_may_be_strided() -> None:
    values = torch.from_numpy(RNG.random((6, 4, 3), np.float32)).transpose(1, 2)
    before = values.clone()
    found = collect_statistics(lambda: [("layer", values)], percentile=60, per_channel=True)["layer"]
    assert torch.equal(values, before)
    assert found.percentile.tolist() == [oracle(before[:, c].numpy(), 60) for c in range(3)]


@pytest.mark.parametrize("percentile", [100, 99.9])
def test_no_batch_outlives_its_turn_and_the_state_does_not_grow(
    percentile: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[int, set[int]] = {}
    add = activations._Selector.add

    def measured(self: Any, digit: int, grouped: torch.Tensor) -> None:
        add(self, digit, grouped)
        state = [value for value in vars(self).values() if isinstance(value, torch.Tensor | np.ndarray)]
        sizes.setdefault(n_batches, set()).add(sum(int(np.prod(value.shape)) for value in state))

    monkeypatch.setattr(activations._Selector, "add", measured)

    def one_pass() -> Iterable[tuple[str, torch.Tensor]]:
        previous: list[weakref.ref[Any]] = []
        for k in range(n_batches):
            array = np.random.default_rng(k).random((8, 4, 3), np.float32)
            yield "layer", torch.from_numpy(array)
            previous.append(weakref.ref(array))
            del array
            assert sum(ref() is not None for ref in previous) <= 1, "an earlier batch is still held"

    for n in (2, 20):
        n_batches = n
        collect_statistics(one_pass, percentile=percentile, per_channel=True)
    assert sizes[2] == sizes[20]
    assert max(sizes[20]) <= 4 * (2048 + 4)  # a histogram of 11 bits, a prefix, a rank and a maximum per channel


def test_the_data_is_read_as_often_as_it_says() -> None:
    calls = []

    def one_pass() -> Iterable[tuple[str, torch.Tensor]]:
        calls.append(1)
        yield "layer", torch.ones(2, 2)

    collect_statistics(one_pass)
    assert len(calls) == 1
    collect_statistics(one_pass, percentile=99)
    assert len(calls) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1e-30])
@pytest.mark.parametrize("percentile", [99, 100])
def test_activations_that_no_relu_gives_are_refused_by_name(value: float, percentile: float) -> None:
    values = np.ones((3, 2), np.float32)
    values[1, 1] = value
    with pytest.raises(InvalidNetworkError, match="population 'layer': activations are negative, NaN or infinite"):
        statistics(values, percentile)


def test_no_data_and_no_percentile_are_refused() -> None:
    with pytest.raises(InvalidNetworkError, match="no calibration data: at least one sample"):
        collect_statistics(list)
    for percentile in (0, -1, 100.001, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most 100"):
            collect_statistics(batches(np.ones((1, 1), np.float32)), percentile=percentile)
