"""Depthwise and dilated convolutions, deployed on Lava: both resets, clamp and v_init, rate and current."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neuroport.chip.files import read_network
from neuroport.chip.synapses import IntConv2d
from neuroport.verbs.deployment import DeployOptions, deploy

pytestmark = pytest.mark.lava


class Mobile(nn.Module):
    """Depthwise, pointwise and dilated convolutions, a skip, a pool, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.depthwise, self.pointwise = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 6, 1)
        self.dilated = nn.Conv2d(6, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 3), groups=2)
        self.short, self.out = nn.Conv2d(4, 6, 1, stride=(1, 2)), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        y = self.dilated(self.pointwise(self.depthwise(x).relu()).relu())
        x = (y + self.short(x)).relu()
        scores: torch.Tensor = self.out(nn.functional.avg_pool2d(x, 2).mean((2, 3)))
        return scores


# what a recipe asks of the neurons: reset, v_init, clamp, input
CASES = [
    ("robust", "loihi-sim", "lava", ("subtract", True, False, "current")),
    ("extended", "loihi2", "lava", ("subtract", True, True, "current")),
    ("robust-rate", "loihi2", "lava", ("subtract", True, False, "rate")),
    ("reset-zero", "loihi1", "lava", ("zero", False, False, "current")),
    ("reset-zero-rate", "loihi1", "lava", ("zero", False, False, "rate")),
    ("robust", "loihi2", "lava-graded", ("subtract", True, False, "current")),
]


@pytest.mark.parametrize(
    ("recipe", "target", "backend", "neuron"), CASES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_depthwise_and_dilated(lava, tmp_path: Path, recipe: str, target: str, backend: str, neuron: object) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 1, 8, 8)).astype(np.float32), np.arange(60) % 3
    np.savez(tmp_path / "data.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    torch.manual_seed(1)
    options = DeployOptions(
        model=Mobile().eval(),
        data=tmp_path / "data.npz",
        recipe=recipe,
        target=target,
        backend=backend,
        steps=32,
        samples=3,
        eval_samples=20,
        out=tmp_path / "out",
    )
    done = deploy(options)
    assert done.comparison.mismatches == 0, done.comparison.first_mismatch
    assert done.comparison.compared_spikes > 500
    network = read_network(tmp_path / "out" / "network.h5")
    hidden = [p for p in network.populations if p.role == "hidden"]
    asked = (
        hidden[0].reset,
        any(p.v_init_int for p in hidden),
        any(p.clamp_until for p in hidden),
        "rate" if network.input else "current",
    )
    assert asked == neuron
    geometries = [j.synapse.geometry for j in network.projections if isinstance(j.synapse, IntConv2d)]
    assert {g.groups for g in geometries} >= {2, 4}
    assert (2, 3) in {g.dilation for g in geometries}
