"""Lava's own fixed-point models of Dense and LIF, driven without its runtime. Runs in Lava's Python 3.10."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Case, serve
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.lif.models import PyLifModelBitAcc


class Held:
    """Stands in for a port: holds what was sent last."""

    value: Any = None

    def send(self, value: Any) -> None:
        """Keep it."""
        self.value = value

    def recv(self) -> Any:
        """Give it."""
        return self.value


def run(case: Case) -> dict[str, np.ndarray]:
    """All samples, in step with the core: what a connection adds up is read before its one step of delay."""
    out = case.empty()
    for s in range(case.n_samples):
        dense = [_dense(m, j["exponent"]) for m, j in zip(case.weights, case.projections, strict=True)]
        neurons = [_lif(p, case.biases[k][s]) for k, p in enumerate(case.populations)]
        for t in range(case.n_steps):
            for k, p in enumerate(case.populations):
                if p["role"] == "input":
                    out[f"spikes.{k}"][s, t] = case.spikes[s, t]
                    continue
                arriving = np.zeros(p["n"], np.int32)
                for model, j in zip(dense, case.projections, strict=True):
                    if j["post"] == p["name"]:
                        model.s_in.value = out[f"spikes.{case.index[j['pre']]}"][s, t]
                        model.run_spk()
                        arriving += model.a_buff
                lif = neurons[k]
                lif.a_in.value = arriving
                lif.run_spk()
                out[f"spikes.{k}"][s, t], out[f"v.{k}"][s, t] = lif.s_out.value, lif.v
    return out


def _dense(mantissa: np.ndarray, exponent: int) -> PyDenseModelBitAcc:
    model = PyDenseModelBitAcc({"weight_exp": exponent})
    model.weights = mantissa.astype(np.int32)
    model.a_buff = np.zeros(len(mantissa), np.int32)
    model.num_message_bits = np.array([0])
    model.s_in, model.a_out = Held(), Held()
    return model


def _lif(p: dict[str, Any], bias: np.ndarray) -> PyLifModelBitAcc:
    lif = PyLifModelBitAcc({})
    lif.u, lif.v = np.zeros(p["n"], np.int32), np.zeros(p["n"], np.int32)
    lif.du, lif.dv, lif.vth = p["du"], p["decay"], p["threshold"]
    lif.bias_mant = bias.astype(np.int16)
    lif.bias_exp = np.full(p["n"], p["bias_exponent"], np.int16)
    lif.a_in, lif.s_out = Held(), Held()
    return lif


if __name__ == "__main__":
    serve(run)
