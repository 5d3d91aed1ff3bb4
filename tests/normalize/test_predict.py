"""The ReLU1 predictor: accuracies of the clipped network, against clipping written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroport.errors import DataError
from neuroport.normalize import predict
from neuroport.normalize.predict import predict_relu1
from tests.normalize.nets import dense, recipe

PERCENTILES = (100.0, 97.0, 90.0, 75.0)
RNG = np.random.default_rng(11)
W0, B0 = RNG.normal(size=(12, 6)), RNG.normal(size=12) / 4
W1, B1 = RNG.normal(size=(12, 12)) / 2, RNG.normal(size=12) / 4
W2, B2 = RNG.normal(size=(4, 12)), np.zeros(4)
NET = dense((W0, B0), (W1, B1), (W2, B2))
CALIBRATION, TEST = RNG.random((80, 6), np.float32), RNG.random((301, 6), np.float32)


def ann(x: NDArray[np.floating], ends: list[Any] | None = None) -> list[NDArray[np.float64]]:
    """Activations of both layers and scores, the activations cut at `ends`."""
    a = np.maximum(0, x @ W0.T + B0)
    a = a if ends is None else np.minimum(a, ends[0])
    b = np.maximum(0, a @ W1.T + B1)
    b = b if ends is None else np.minimum(b, ends[1])
    return [a, b, b @ W2.T + B2]


LABELS = ann(TEST)[-1].argmax(1)


def brute_force(percentile: float, granularity: str) -> float:
    """Clipping a / lambda at 1 and going on with lambda times it is clipping a at lambda.

    A channel below its percentile ends at its maximum, one that never fires in the calibration at its layer's end, and
    none below a 32nd of that.
    """
    ends = []
    for a in ann(CALIBRATION)[:2]:
        axis = 0 if granularity == "channel" else None
        end = np.percentile(a, percentile, axis=axis, method="inverted_cdf")
        end = np.where(end > 0, end, a.max(axis))
        ends.append(np.where(end > 0, np.maximum(end, end.max() / 32), end.max()))
    return float((ann(TEST, ends)[-1].argmax(1) == LABELS).mean())


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_accuracies_are_those_of_the_clipped_ann(granularity: str) -> None:
    """301 images in batches of 250; the recipe's own percentile, search, threshold and clamp do not matter."""
    expected = [(p, brute_force(p, granularity)) for p in PERCENTILES]
    assert len({accuracy for _, accuracy in expected}) == len(PERCENTILES)
    options: list[dict[str, Any]] = [
        {"percentile": 77.0},
        {"search": {"kind": "noise", "percentiles": (1.0, 2.0)}},
        {"scale": "none", "threshold": 20.0, "clamp": 3.0},
        {"scale": "mmse"},
    ]
    for chosen in options:
        found = predict_relu1(NET, CALIBRATION, TEST, LABELS, PERCENTILES, recipe(granularity=granularity, **chosen))
        assert found == expected


def test_at_the_maximum_of_the_test_images_nothing_is_lost() -> None:
    assert predict_relu1(NET, TEST, TEST, LABELS, [100], recipe()) == [(100.0, 1.0)]
    wrong = (LABELS + 1) % 4
    assert predict_relu1(NET, TEST, TEST, wrong, [100], recipe()) == [(100.0, 0.0)]


def test_a_rate_code_clips_its_inputs_too() -> None:
    """No rate stands for an input above 1: it is cut there, which the accuracy shows."""
    found = predict_relu1(NET, CALIBRATION, 2 * TEST, LABELS, [100], recipe(input="rate"))
    ends = [a.max() for a in ann(CALIBRATION)[:2]]
    expected = (ann(np.minimum(2 * TEST, 1), ends)[-1].argmax(1) == LABELS).mean()
    assert found == [(100.0, expected)]
    assert found != predict_relu1(NET, CALIBRATION, 2 * TEST, LABELS, [100], recipe())


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict_relu1(NET, CALIBRATION, TEST, LABELS, PERCENTILES, recipe())
    monkeypatch.setattr(predict, "_BATCH", 7)
    assert predict_relu1(NET, CALIBRATION, TEST, LABELS, PERCENTILES, recipe()) == whole


def test_wrong_use() -> None:
    with pytest.raises(DataError, match="301 test images have 300 labels; give one label for each image"):
        predict_relu1(NET, CALIBRATION, TEST, LABELS[:300], [99], recipe())
    with pytest.raises(DataError, match="there are no test images"):
        predict_relu1(NET, CALIBRATION, TEST[:0], LABELS[:0], [99], recipe())
    with pytest.raises(DataError, match="there is no calibration data"):
        predict_relu1(NET, CALIBRATION[:0], TEST, LABELS, [99], recipe())
    for percentile in (0.0, 100.5):
        with pytest.raises(ValueError, match="percentile must be above 0 and at most 100, got"):
            predict_relu1(NET, CALIBRATION, TEST, LABELS, [percentile], recipe())
    assert predict_relu1(NET, CALIBRATION, TEST, LABELS, [100, 50.0], recipe())[0][0] == 100
