"""How a test hands networks to an emulator's process: the path of a case in, a line of JSON out. Python 3.10.

A case is an .npz of plain integers: `header` (JSON) with n_samples, n_steps, populations and projections; `weights.J`
[n_out, n_in], `bias.K` [n_samples, n] mantissas, `spikes` [n_samples, n_steps, n] of the spike source. The answer is
an .npz beside it with `spikes.K` and `v.K`, [n_samples, n_steps + largest depth, n] in the emulator's own time.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One network, its inputs, and `options` for what a single emulator offers."""

    n_samples: int
    n_steps: int
    populations: list[dict[str, Any]]
    projections: list[dict[str, Any]]
    options: dict[str, Any]
    weights: list[np.ndarray]
    biases: list[np.ndarray]
    spikes: np.ndarray | None

    @property
    def n_rows(self) -> int:
        """Steps until the last population has seen the last input."""
        return self.n_steps + max(p["depth"] for p in self.populations)

    @property
    def index(self) -> dict[str, int]:
        """Number of each population."""
        return {p["name"]: k for k, p in enumerate(self.populations)}

    def sign(self, j: int) -> str:
        """Which of the three formats holds the weights of a projection."""
        m = self.weights[j]
        return "excitatory" if m.min() >= 0 else "inhibitory" if m.max() <= 0 else "mixed"

    def empty(self) -> dict[str, np.ndarray]:
        """Arrays for the answer."""
        shapes = {k: (self.n_samples, self.n_rows, p["n"]) for k, p in enumerate(self.populations)}
        spikes = {f"spikes.{k}": np.zeros(shape, np.uint8) for k, shape in shapes.items()}
        return spikes | {f"v.{k}": np.zeros(shape, np.int64) for k, shape in shapes.items()}


def read_case(path: Path) -> Case:
    """The case of one file."""
    with np.load(path) as f:
        header = json.loads(str(f["header"]))
        weights = [f[f"weights.{j}"] for j in range(len(header["projections"]))]
        biases = [f[f"bias.{k}"] for k in range(len(header["populations"]))]
        return Case(**header, weights=weights, biases=biases, spikes=f.get("spikes"))


def serve(run: Callable[[Case], dict[str, np.ndarray]]) -> None:
    """Answer every line of standard input with the answer's path and the warnings, or with what went wrong."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to standard error
    for line in sys.stdin:
        path = Path(line.strip())
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = run(read_case(path))
            out = path.with_suffix(".out.npz")
            np.savez(out, **found)
            answer = {"file": str(out), "warnings": sorted({str(w.message) for w in caught})}
        except Exception as error:  # noqa: BLE001 - the test says what it thinks of it
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
