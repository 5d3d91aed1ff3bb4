"""How sure a rung is: the distance from its highest class score to the next, beside the ANN's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_PARTS = 4

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Margins:
    """Of the samples of one rung.

    relative: mean margin over the ANN's mean margin on the same samples; correlation: of the two, 0 where one is
    constant; accuracies: of the quarters of the samples, those with the smallest margins first (fewer samples than
    quarters: none). A rung whose margins mean something is right more often in each quarter.
    """

    relative: float
    correlation: float
    accuracies: tuple[float, ...]


def margins(scores: Scores, trained: Scores, is_right: NDArray[np.bool_]) -> Margins:
    """Margins of scores [n, n_out], trained: the ANN's for the same samples; is_right: [n], what the rung answers."""
    own, wanted = (_gap(x) for x in (scores, trained))
    x, y = own - own[0], wanted - wanted[0]  # exactly 0 of what is constant, which its mean may not be
    spread = float(x.std() * y.std())
    correlation = float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0
    order = np.argsort(own, kind="stable")
    parts = np.array_split(is_right[order], N_PARTS) if len(order) >= N_PARTS else []
    relative = float(own.mean() / max(float(wanted.mean()), 1e-12))
    return Margins(relative, float(np.clip(correlation, -1, 1)), tuple(float(part.mean()) for part in parts))


def _gap(scores: Scores) -> Scores:
    """[n]: the highest score minus the next."""
    top = np.partition(scores, -2, axis=1)[:, -2:]
    gap: Scores = top[:, 1] - top[:, 0]
    return gap
