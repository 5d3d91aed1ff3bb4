"""Quantities as people read them."""

import pytest

from neuroport.units import si


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 J"), (12.34, "12.3 J"), (1e-3, "1 mJ"), (6.26e-5, "62.6 µJ"), (2.36e-11, "23.6 pJ"), (4e-15, "0.004 pJ")],
)
def test_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert si(value, "J") == text
