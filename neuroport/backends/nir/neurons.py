"""NIR's neurons as ours: thresholds of 1, a leak per step, and a reset of one of two kinds.

NIR states neurons in continuous time; a step of dt is one of Euler's method, as snnTorch and Norse take it:

    LIF      v + dt / tau (v_leak - v + r I)     leak 1 - dt / tau, inputs count dt r / tau times
    IF       v + r I                             no dt, as every reader of it does
    CubaLIF  as LIF with r w_in, where tau_syn <= dt: the current has no memory from one step to the next

It fires where v > v_threshold, a neuron of ours where v >= 1, which therefore stands for one float32 step above: sums
of whole numbers that end exactly at the threshold do not fire. The integers of a chip may.

Source: nir 1.0.8, nir/ir/neuron.py, nir/ir/threshold.py; snntorch 1.0.0, import_nir.py l.203-287; norse 1.1.0,
torch/functional/iaf.py l.90-112. NIR has no flag for the kind of reset; its equations set v to v_reset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from neuroport.ann.graph import FloatArray
from neuroport.backends.nir.linear import numbers, spread
from neuroport.errors import UnsupportedOperatorError
from neuroport.snn.network import Neuron, Reset
from neuroport.snn.operators import Shape


@dataclass(frozen=True, eq=False)
class Read:
    """A neuron of ours, what its inputs count, and what its bias gains: per population, channel or neuron."""

    neuron: Neuron
    gain: FloatArray
    bias: FloatArray


def read_neuron(name: str, node: Any, shape: Shape, reset: Reset, dt_s: float) -> Read:
    """The neuron of a node whose input has `shape`.

    Raises:
        UnsupportedOperatorError: a parameter that neuroport's neurons do not have, with its value and what to do.
    """
    kind = type(node).__name__

    def field(key: str) -> FloatArray:
        return _reduced(spread(name, key, numbers(name, key, getattr(node, key)), shape), shape)

    if kind == "Threshold":  # memory of nothing: fires where this step's input is above
        return _fires(name, Neuron("zero", leak=0.0), np.ones((1,) * len(shape)), field("threshold"), None)
    gain, bias, leak = field("r"), np.zeros((1,) * len(shape)), 1.0
    if kind in ("LIF", "LI", "CubaLIF"):
        tau = field("tau_mem" if kind == "CubaLIF" else "tau")
        leak = _leak(name, tau, dt_s)
        bias = field("v_leak") * (1 - leak)
        gain = gain * (dt_s / tau)
    if kind == "CubaLIF":
        _check_synapse(name, field("tau_syn"), dt_s)
        gain = gain * field("w_in")
    if kind in ("I", "LI"):
        return Read(Neuron(reset, leak=leak, fires=False), gain, bias)
    v_reset = field("v_reset")
    if v_reset.any():
        raise UnsupportedOperatorError(
            f"node '{name}' is reset to {_worst(v_reset):g}, neuroport's neurons to 0 or by their threshold; shift "
            f"potentials so that v_reset is 0"
        )
    return _fires(name, Neuron(reset, leak=leak), gain, field("v_threshold"), bias)


def _fires(name: str, neuron: Neuron, gain: FloatArray, v_threshold: FloatArray, bias: FloatArray | None) -> Read:
    if not v_threshold.min() >= np.finfo(np.float32).tiny:
        raise UnsupportedOperatorError(
            f"node '{name}' has a threshold of {v_threshold.min():g}, neuroport's are above 0 (1.2e-38 or more), where "
            f"neurons are silent without input; shift threshold and biases"
        )
    v_threshold = _above(v_threshold)
    constant = np.zeros_like(v_threshold) if bias is None else bias / v_threshold
    return Read(neuron, gain / v_threshold, constant)


def _above(v_threshold: FloatArray) -> FloatArray:
    """One float32 step above: NIR fires strictly above a threshold, neurons of ours at theirs."""
    return v_threshold * (1 + float(np.finfo(np.float32).eps))


def _leak(name: str, tau: FloatArray, dt_s: float) -> float:
    if tau.size > 1:
        raise UnsupportedOperatorError(
            f"node '{name}' has time constants from {tau.min():g} to {tau.max():g} s, a population of neuroport's has "
            f"one leak; split the node by time constant"
        )
    value = float(tau.reshape(-1)[0])
    if not value >= dt_s:
        raise UnsupportedOperatorError(
            f"node '{name}' has a time constant of {value:g} s, shorter than a step of {dt_s:g} s, in which it has no "
            f"meaning; say with --dt how long a step of this network is"
        )
    return 1.0 - dt_s / value


def _check_synapse(name: str, tau_syn: FloatArray, dt_s: float) -> None:
    if tau_syn.max() > dt_s or tau_syn.min() < 0:
        worst = tau_syn.max() if tau_syn.max() > dt_s else tau_syn.min()
        raise UnsupportedOperatorError(
            f"node '{name}' has synapses with a time constant of {worst:g} s, neuroport's currents last one "
            f"step ({dt_s:g} s; --dt says how long); train with LIF, or with tau_syn of one step"
        )


def _reduced(values: FloatArray, shape: Shape) -> FloatArray:
    """One number, or one per channel, where these say the same."""
    if (values == values.reshape(-1)[0]).all():
        return values.reshape(-1)[:1].reshape((1,) * len(shape))
    full = np.broadcast_to(values, shape)
    first = full.reshape(shape[0], -1)[:, :1]
    if (full.reshape(shape[0], -1) == first).all():
        return first.reshape(-1, *(1,) * (len(shape) - 1))
    return full


def _worst(values: FloatArray) -> float:
    return float(values.reshape(-1)[np.abs(values).argmax()])
