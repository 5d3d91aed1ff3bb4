"""Margins of hand-made scores."""

from __future__ import annotations

import numpy as np
import pytest

from neuroport.validation.margins import margins

TRAINED = np.array([[3.0, 1.0, 0.0], [0.0, 4.0, 3.0], [5.0, 0.0, 1.0], [1.0, 1.0, 7.0]])  # margins 2, 1, 4, 6


def test_half_as_sure() -> None:
    found = margins(TRAINED / 2, TRAINED, np.array([True, False, True, True]))
    assert found.relative == pytest.approx(0.5)
    assert found.correlation == pytest.approx(1.0)
    assert found.accuracies == (0.0, 1.0, 1.0, 1.0)


def test_sure_where_the_ann_is_not() -> None:
    found = margins(TRAINED[::-1].copy(), TRAINED, np.ones(4, bool))
    own, wanted = np.array([6, 4, 1, 2]), np.array([2, 1, 4, 6])
    assert found.correlation == pytest.approx(np.corrcoef(own, wanted)[0, 1])
    assert found.relative == 1.0


def test_constant_margins_and_few_samples() -> None:
    found = margins(np.tile([1.0, 0.0, 0.0], (3, 1)), TRAINED[:3], np.ones(3, bool))
    assert (found.correlation, found.accuracies) == (0.0, ())


def test_constant_margins_of_tenths() -> None:
    same = np.tile([0.1, 0.4], (300, 1))
    assert margins(same, same, np.ones(300, bool)).correlation == 0.0
