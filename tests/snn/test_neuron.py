"""The compiled neuron against the plain statement of it in torch, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroport.snn.network import Neuron
from neuroport.snn.neuron import flat, integrate

DTYPES = st.sampled_from([torch.float32, torch.float64])


def stated(v: torch.Tensor, current: torch.Tensor, neuron: Neuron) -> tuple[torch.Tensor, torch.Tensor]:
    """(who fires, potentials after the reset): Rueckauer et al. 2016, eq. 4a and 4b, one operation after the other."""
    v = v * neuron.leak + current
    v = v if neuron.floor is None else v.clamp_min(neuron.floor)
    fired = v >= neuron.v_th
    return fired, v.masked_fill(fired, 0.0) if neuron.reset == "zero" else v - fired.to(v.dtype) * neuron.v_th


@given(
    seed=st.integers(0, 10_000),
    neuron=st.builds(
        Neuron,
        st.sampled_from(["zero", "subtract"]),
        v_th=st.sampled_from([1.0, 0.5, 0.3, 7.0]),
        leak=st.sampled_from([1.0, 0.5, 0.9, 0.0]),
        floor=st.sampled_from([None, 0.0, -0.3]),
    ),
    dtype=DTYPES,
    shape=st.sampled_from([(1, 1), (3, 5), (2, 3, 4, 5), (1, 17, 3, 1), (2, 1, 6, 7), (3, 2, 9)]),
    counts=st.sampled_from([torch.int32, torch.uint8]),
    is_channels_last=st.booleans(),
)
def test_it_is_the_plain_statement_bit_for_bit(
    seed: int, neuron: Neuron, dtype: torch.dtype, shape: tuple[int, ...], counts: torch.dtype, is_channels_last: bool
) -> None:
    """Random numbers of 24 or 53 bits, which a fused multiply-add or a wider type would round otherwise."""
    generator = torch.Generator().manual_seed(seed)
    last = len(shape) == 4 and is_channels_last
    order = torch.channels_last if last else torch.contiguous_format
    v = torch.randn(shape, dtype=dtype, generator=generator).contiguous(memory_format=order)
    total = torch.zeros(shape, dtype=counts).contiguous(memory_format=order)
    expected, n_fired = v.clone(), torch.zeros(shape, dtype=counts)
    for _ in range(6):
        current = torch.randn(shape, dtype=dtype, generator=generator).contiguous(memory_format=order)
        fired, expected = stated(expected, current, neuron)
        n_fired += fired.to(counts)
        integrate(v, current, neuron, total)
        assert torch.equal(current, fired.to(dtype))
        assert torch.equal(v, expected)
    assert torch.equal(total, n_fired)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_threshold_itself_fires_and_the_number_below_does_not(dtype: torch.dtype) -> None:
    for v_th in (1.0, 0.3):
        edge = torch.tensor([v_th], dtype=dtype)
        below = torch.nextafter(edge, torch.zeros(1, dtype=dtype))
        current = torch.stack([edge, below])
        v = torch.zeros_like(current)
        integrate(v, current, Neuron(v_th=v_th), torch.zeros(2, 1, dtype=torch.int32))
        assert current.reshape(-1).tolist() == [1, 0]
        assert v.reshape(-1).tolist() == [0, below.item()]


def test_what_is_no_number_never_fires() -> None:
    current = torch.tensor([[float("nan"), float("inf"), -float("inf")]])
    counts = torch.zeros(1, 3, dtype=torch.int32)
    integrate(torch.zeros(1, 3), current, Neuron("zero"), counts)
    assert counts.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_numbers_of_a_tensor_are_shared_in_their_order(order: Any) -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2).contiguous(memory_format=order)
    numbers = flat(x)
    expected = x if order is torch.contiguous_format else x.permute(0, 2, 3, 1)
    np.testing.assert_array_equal(numbers, expected.reshape(-1).numpy())
    numbers[5] = -1
    assert (x == -1).sum() == 1
