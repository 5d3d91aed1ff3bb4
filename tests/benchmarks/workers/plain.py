"""A network and its inputs as plain arrays, for workers whose Python has no neuroport. Python 3.10 and numpy.

One .npz: `meta`, JSON; w<k>, mantissas of projection k; b<k> and c<k>, biases and input currents of population k;
`spikes`, packed along the neurons.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Plain:
    """populations, projections: their scalars. weights: by projection. biases, currents: by population.

    currents are [S, *shape] mantissas; spikes [S, T, *shape] uint8 of the first population, or None.
    """

    populations: list[dict[str, Any]]
    projections: list[dict[str, Any]]
    weights: list[np.ndarray]
    biases: list[np.ndarray]
    currents: dict[int, np.ndarray]
    spikes: np.ndarray | None
    n_samples: int
    n_steps: int
    synaptic_shift: int
    threshold_shift: int
    inclusive: bool

    def incoming(self, name: str) -> list[int]:
        """Numbers of the projections into a population."""
        return [k for k, j in enumerate(self.projections) if j["post"] == name]

    def drive(self, k: int, samples: slice) -> np.ndarray | None:
        """Bias of population k in membrane units, [S or 1, *shape]; None where there is none."""
        mantissa = self.currents[k][samples] if k in self.currents else self.biases[k][None]
        return mantissa.astype(np.int64) << self.populations[k]["bias_exponent"] if mantissa.any() else None

    @property
    def is_reset_to_zero(self) -> bool:
        """Whether every neuron resets to zero."""
        return all(p["reset"] == "zero" for p in self.populations if p["role"] != "input")


def read_plain(path: Path) -> Plain:
    """Everything in the file."""
    with np.load(path) as f:
        meta = json.loads(str(f["meta"]))
        populations, n = meta["populations"], len(meta["projections"])
        spikes = None
        if "spikes" in f:
            shape = populations[0]["shape"]
            spikes = np.unpackbits(f["spikes"], axis=-1, count=math.prod(shape))
            spikes = spikes.reshape(*spikes.shape[:2], *shape)
        return Plain(
            weights=[f[f"w{k}"].astype(np.int32) for k in range(n)],
            biases=[f[f"b{k}"] for k in range(len(populations))],
            currents={k: f[f"c{k}"] for k in range(len(populations)) if f"c{k}" in f},
            spikes=spikes,
            **meta,
        )
