"""The path `torch-loop`: a float32 loop over steps, as one writes it in torch. Needs torch and numpy only.

Float32 holds the chip's integers exactly as long as none reaches 2^24.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .plain import Plain, read_plain
from .protocol import Prepared, UnsupportedError, serve

Weigh = Callable[[torch.Tensor], torch.Tensor]
_TRIAL_STEPS = 10
_BATCHES = (4, 8, 16, 20, 50, 100)


class StepLoop:
    """One batch size and memory layout of the loop."""

    def __init__(self, plain: Plain, batch: int, channels_last: bool) -> None:
        refuse(plain)
        self.plain, self.batch = plain, batch
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.index = {p["name"]: k for k, p in enumerate(plain.populations)}
        self.incoming = [
            [(self.index[plain.projections[j]["pre"]], *self._weighing(j)) for j in plain.incoming(p["name"])]
            for p in plain.populations
        ]
        self.batches = [slice(s, min(s + batch, plain.n_samples)) for s in range(0, plain.n_samples, batch)]
        self.spikes = None
        if plain.spikes is not None:
            steps = torch.from_numpy(plain.spikes).transpose(0, 1).float()  # [T, S, ...]
            self.spikes = [[self._placed(step) for step in steps[:, part].unbind()] for part in self.batches]

    def run(self, n_steps: int, *, totals: dict[str, np.ndarray] | None = None) -> torch.Tensor:
        """Spike counts of the output [S, n]; with `totals`, all spikes are added there too."""
        parts = self.batches if n_steps == self.plain.n_steps else self.batches[:1]
        with torch.inference_mode():
            return torch.cat([self._run_batch(k, part, n_steps, totals) for k, part in enumerate(parts)])

    def _run_batch(self, k: int, part: slice, n_steps: int, totals: dict[str, np.ndarray] | None) -> torch.Tensor:
        n, populations = part.stop - part.start, self.plain.populations
        self.start(n)
        drives = [self.plain.drive(i, part) for i in range(len(populations))]
        biases = [None if d is None else self._placed(torch.from_numpy(d).float()) for d in drives]
        spikes: list[torch.Tensor] = [torch.zeros(0)] * len(populations)
        count = torch.zeros(n, *populations[-1]["shape"])
        for t in range(n_steps):
            for i, p in enumerate(populations):
                if p["role"] == "input":
                    spikes[i] = self.spikes[k][t]
                elif t < p["clamp_until"]:
                    spikes[i] = self._placed(torch.zeros(n, *p["shape"]))
                else:
                    spikes[i] = self.update(i, spikes, biases[i])
                if totals is not None:
                    totals[p["name"]] += spikes[i].sum(0).numpy().astype(np.int64)
            count.add_(spikes[-1])
        return count.reshape(n, -1)

    def start(self, n: int) -> None:
        """Potentials at the first step."""
        self.v = [self._placed(torch.full((n, *p["shape"]), float(p["v_init_int"]))) for p in self.plain.populations]

    def update(self, i: int, spikes: list[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        """Spikes of population i in this step."""
        v, p = self.v[i], self.plain.populations[i]
        for pre, weigh, scale in self.incoming[i]:
            current = weigh(spikes[pre])
            v.add_(current if current.shape == v.shape else current.view_as(v), alpha=scale)
        if bias is not None:
            v.add_(bias)
        v_th = float(p["threshold_mantissa"] << self.plain.threshold_shift)
        fired = ((v >= v_th) if self.plain.inclusive else (v > v_th)).float()
        if p["reset"] == "zero":
            v.mul_(1 - fired)
        else:
            v.sub_(fired, alpha=v_th)
        return fired

    def _placed(self, x: torch.Tensor) -> torch.Tensor:
        return x.contiguous(memory_format=self.layout if x.dim() == 4 else torch.contiguous_format)

    def _weighing(self, number: int) -> tuple[Weigh, float]:
        """What weighs the spikes of one projection, and a number to multiply its result by."""
        j = self.plain.projections[number]
        scaled = self.plain.weights[number].astype(np.float32) * 2.0 ** (j["exponent"] + self.plain.synaptic_shift)
        weight = torch.from_numpy(scaled)
        if j["kind"] == "dense":
            return lambda s: F.linear(s.flatten(1), weight), 1.0
        if j["kind"] != "conv":
            raise UnsupportedError(f"the torch loop has no synapses of kind '{j['kind']}'")
        depthwise = j["groups"] == j["in_shape"][0] == j["out_shape"][0]
        size = j["kernel"]
        if depthwise and bool((weight == weight.flatten()[0]).all()) and j["stride"] == size and not any(j["padding"]):
            scale = float(weight.flatten()[0])
            if size == [1, 1]:
                return lambda s: s, scale
            return lambda s: F.avg_pool2d(s, size, divisor_override=1), scale
        weight = weight.contiguous(memory_format=self.layout)
        geometry = {key: tuple(j[key]) for key in ("stride", "padding", "dilation")}
        return lambda s: F.conv2d(s, weight, None, **geometry, groups=j["groups"]), 1.0


def refuse(plain: Plain) -> None:
    """Raise where the loop would not be exact."""
    for p in plain.populations:
        if p["decay"]:
            raise UnsupportedError("the torch loop has no leak")
    for j in plain.projections:
        if j["kind"] == "conv":
            sizes = zip(j["in_shape"][1:], j["padding"], j["dilation"], j["kernel"], j["stride"], strict=True)
            if [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes] != j["out_shape"][1:]:
                raise UnsupportedError("the torch loop pads alike on both sides")


def fastest(plain: Plain, make: Callable[[Plain, int, bool], StepLoop]) -> tuple[StepLoop, str]:
    """The loop with the fastest batch size and layout, found on a few steps, and its description."""
    layouts = (False, True) if any(j["kind"] == "conv" for j in plain.projections) else (False,)
    sizes = [b for b in _BATCHES if b <= plain.n_samples][-4:] or [plain.n_samples]
    best = (float("inf"), 0, False)
    n_steps = min(_TRIAL_STEPS, plain.n_steps)
    for batch in sizes:
        for channels_last in layouts:
            loop = make(plain, batch, channels_last)
            loop.run(min(2, n_steps))
            cost = []
            for _ in range(3):
                start = time.process_time()
                loop.run(n_steps)
                cost.append((time.process_time() - start) / (batch if n_steps < plain.n_steps else plain.n_samples))
            best = min(best, (min(cost), batch, channels_last))
    layout = "channels last" if best[2] else "NCHW" if len(layouts) > 1 else "rows"
    return make(plain, best[1], best[2]), f"batch {best[1]}, {layout}"


def prepare_loop(case: Path, make: Callable[[Plain, int, bool], StepLoop]) -> Prepared:
    """Read the case, choose batch and layout, and count all spikes once."""
    torch.set_num_threads(1)
    plain = read_plain(case / "plain.npz")
    loop, note = fastest(plain, make)
    totals = {p["name"]: np.zeros(p["shape"], np.int64) for p in plain.populations}
    loop.run(plain.n_steps, totals=totals)
    found = {name: x.reshape(-1).tolist() for name, x in totals.items()}
    return Prepared(lambda: loop.run(plain.n_steps), found, plain.n_samples, plain.n_steps, note)


if __name__ == "__main__":
    serve(lambda: prepare_loop(Path(sys.argv[1]), StepLoop))
