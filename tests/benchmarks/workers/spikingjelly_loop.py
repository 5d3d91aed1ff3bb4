"""The path `spikingjelly`: the same loop with SpikingJelly's IF neurons (single-step mode, torch backend).

Its neurons fire at v >= v_threshold: half a unit above the integer threshold is the same set of integers. Reset to
zero is then exact; by subtraction the half unit is subtracted too, so a few spikes may differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from spikingjelly.activation_based import neuron

from .plain import Plain, read_plain
from .protocol import Prepared, UnsupportedError, serve
from .torch_loop import StepLoop, prepare_loop


class SpikingJellyLoop(StepLoop):
    """Projections as in the torch loop, neurons of SpikingJelly."""

    def __init__(self, plain: Plain, batch: int, channels_last: bool) -> None:
        super().__init__(plain, batch, channels_last)
        if plain.inclusive or any(p["v_init_int"] or p["clamp_until"] for p in plain.populations):
            raise UnsupportedError("SpikingJelly's IF neuron starts at 0 and has no clamp")
        self.nodes = [self._node(p) for p in plain.populations]

    def _node(self, p: dict) -> neuron.IFNode:
        v_th = (p["threshold_mantissa"] << self.plain.threshold_shift) + 0.5
        return neuron.IFNode(v_threshold=v_th, v_reset=0.0 if p["reset"] == "zero" else None).eval()

    def start(self, n: int) -> None:
        for node in self.nodes:
            node.reset()

    def update(self, i: int, spikes: list[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        current: torch.Tensor | None = bias
        shape = (-1, *self.plain.populations[i]["shape"])
        for pre, weigh, scale in self.incoming[i]:
            weighted = weigh(spikes[pre]).reshape(shape)
            if scale != 1.0:
                weighted = weighted * scale
            current = weighted if current is None else current + weighted
        return self.nodes[i](current)


def prepare(case: Path) -> Prepared:
    """As the torch loop; spikes are only compared where they are exact."""
    prepared = prepare_loop(case, SpikingJellyLoop)
    if not read_plain(case / "plain.npz").is_reset_to_zero:
        prepared.totals = {}
    return prepared


if __name__ == "__main__":
    serve(lambda: prepare(Path(sys.argv[1])))
