"""The path `lava-maths`: Lava's own fixed-point models, driven without its runtime. Runs in Lava's Python 3.10.

A lower bound of what Lava costs: no processes, no messages, no one-step buffers. Reset by subtraction, which Lava's LIF
does not have, replaces its reset alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.lif.models import PyLifModelBitAcc

from .plain import Plain, read_plain
from .protocol import Prepared, UnsupportedError, serve

_BUDGET_S = 1.5
_MAX_SAMPLES = 5


class Held:
    """Stands in for a port: holds what was sent last."""

    def __init__(self) -> None:
        self.value: Any = None

    def send(self, value: Any) -> None:
        """Keep it."""
        self.value = value

    def recv(self) -> Any:
        """Give it."""
        return self.value


class SubtractingLif(PyLifModelBitAcc):
    """Lava's LIF with another reset."""

    def reset_voltage(self, spike_vector: np.ndarray) -> None:
        self.v[spike_vector] -= self.effective_vth


class DenseSynapses:
    """Lava's Dense; populations of any shape come in as they lie in C order."""

    def __init__(self, mantissa: np.ndarray, exponent: int) -> None:
        self.model = PyDenseModelBitAcc({"weight_exp": exponent})
        self.model.weights = mantissa.astype(np.int32)
        self.model.a_buff = np.zeros(len(mantissa), np.int32)
        self.model.num_message_bits = np.array([0])
        self.model.s_in, self.model.a_out = Held(), Held()

    def weigh(self, spikes: np.ndarray) -> np.ndarray:
        """What arrives, [n_out]."""
        self.model.s_in.value = spikes.T.reshape(-1)
        self.model.run_spk()
        return self.model.a_buff


class ConvSynapses:
    """Lava's Conv: images [W, H, C], weights [C_out, W, H, C_in] flipped; it ignores the exponent of weights."""

    def __init__(self, mantissa: np.ndarray, j: dict[str, Any]) -> None:
        weight = (mantissa << j["exponent"])[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
        self.model = PyConvModelFixed({})
        self.model.weight = np.ascontiguousarray(weight).astype(np.int32)
        for key in ("stride", "padding", "dilation"):
            setattr(self.model, key, np.array(j[key][::-1], np.int8))
        self.model.kernel_size = np.array(j["kernel"][::-1], np.int8)
        self.model.groups = np.array([j["groups"]], np.int8)
        self.model.num_message_bits = np.array([0], np.int8)
        self.model.a_buf = np.zeros(1, np.int32)
        self.model.s_in, self.model.a_out = Held(), Held()
        self.in_shape = tuple(reversed(j["in_shape"]))

    def weigh(self, spikes: np.ndarray) -> np.ndarray:
        """What arrives, [W, H, C]."""
        self.model.s_in.value = spikes.reshape(self.in_shape)
        self.model.run_spk()
        return self.model.a_buf


class LavaMaths:
    """The network's models; every array of a population is in Lava's order, [W, H, C]."""

    def __init__(self, plain: Plain) -> None:
        _refuse(plain)
        self.plain = plain
        index = {p["name"]: k for k, p in enumerate(plain.populations)}
        self.incoming = [
            [(index[plain.projections[j]["pre"]], self._synapses(j)) for j in plain.incoming(p["name"])]
            for p in plain.populations
        ]

    def _synapses(self, number: int) -> DenseSynapses | ConvSynapses:
        j, mantissa = self.plain.projections[number], self.plain.weights[number]
        if j["kind"] == "dense":
            return DenseSynapses(mantissa, j["exponent"])
        return ConvSynapses(mantissa, j)

    def run(self, n_samples: int, n_steps: int, totals: list[np.ndarray] | None = None) -> None:
        """Run the first samples; the spikes of each population, [W, H, C], are added to `totals`."""
        populations = self.plain.populations
        spikes: list[np.ndarray] = [np.zeros(0)] * len(populations)
        for s in range(n_samples):
            neurons = [None if p["role"] == "input" else self._neurons(k, s) for k, p in enumerate(populations)]
            for t in range(n_steps):
                for k, lif in enumerate(neurons):
                    if lif is None:
                        spikes[k] = self.plain.spikes[s, t].T
                    else:
                        lif.a_in.value = self._arriving(k, spikes, lif.v.shape)
                        lif.run_spk()
                        spikes[k] = lif.s_out.value
                    if totals is not None:
                        totals[k] += spikes[k]

    def _arriving(self, k: int, spikes: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        total = None
        for pre, synapses in self.incoming[k]:
            current = synapses.weigh(spikes[pre])
            if current.shape != shape:
                current = current.T.reshape(shape[::-1]).T
            total = current if total is None else total + current
        return np.zeros(shape, np.int32) if total is None else total

    def _neurons(self, k: int, sample: int) -> PyLifModelBitAcc:
        p = self.plain.populations[k]
        lif = (PyLifModelBitAcc if p["reset"] == "zero" else SubtractingLif)({})
        shape = tuple(reversed(p["shape"]))
        mantissa = self.plain.currents[k][sample] if k in self.plain.currents else self.plain.biases[k]
        lif.u, lif.v = np.zeros(shape, np.int32), np.full(shape, p["v_init_int"], np.int32)
        lif.du, lif.dv, lif.vth = 4095, p["decay"], p["threshold_mantissa"]
        lif.bias_mant = np.ascontiguousarray(mantissa.T).astype(np.int16)
        lif.bias_exp = np.full(shape, p["bias_exponent"], np.int16)
        lif.a_in, lif.s_out = Held(), Held()
        return lif


def _refuse(plain: Plain) -> None:
    if plain.inclusive or (plain.synaptic_shift, plain.threshold_shift) != (6, 6):
        raise UnsupportedError("Lava's fixed-point models have another arithmetic")
    if any(p["clamp_until"] for p in plain.populations):
        raise UnsupportedError("Lava's LIF has no clamp")
    for j in plain.projections:
        if j["kind"] not in ("dense", "conv"):
            raise UnsupportedError(f"not driven here: synapses of kind '{j['kind']}'")


def prepare(case: Path) -> Prepared:
    """As many whole samples as take a second or two, at least some steps of one."""
    plain = read_plain(case / "plain.npz")
    maths = LavaMaths(plain)
    maths.run(1, 1)
    start = time.perf_counter()
    maths.run(1, 2)
    n_affordable = int(_BUDGET_S / ((time.perf_counter() - start) / 2))
    n_samples = max(1, min(n_affordable // plain.n_steps, _MAX_SAMPLES, plain.n_samples))
    n_steps = min(max(2, n_affordable), plain.n_steps)
    totals = [np.zeros(tuple(reversed(p["shape"])), np.int64) for p in plain.populations]
    maths.run(n_samples, n_steps, totals)
    found = {p["name"]: x.T.reshape(-1).tolist() for p, x in zip(plain.populations, totals)}  # noqa: B905 - 3.10
    note = f"{n_samples} sample{'s' * (n_samples > 1)} of {n_steps} steps"
    return Prepared(lambda: maths.run(n_samples, n_steps), found, n_samples, n_steps, note)


if __name__ == "__main__":
    serve(lambda: prepare(Path(sys.argv[1])))
