"""brian2-loihi, all samples of a case side by side in one network. Runs in the oracles' Python 3.10."""

from __future__ import annotations

import numpy as np
from brian2 import prefs
from brian2_loihi import (
    LoihiNetwork,
    LoihiNeuronGroup,
    LoihiSpikeGeneratorGroup,
    LoihiSpikeMonitor,
    LoihiStateMonitor,
    LoihiSynapses,
    synapse_sign_mode,
)
from cases import Case, serve

prefs.codegen.target = "numpy"  # compiling would take longer than running
_SIGN = {
    "mixed": synapse_sign_mode.MIXED,
    "excitatory": synapse_sign_mode.EXCITATORY,
    "inhibitory": synapse_sign_mode.INHIBITORY,
}


def run(case: Case) -> dict[str, np.ndarray]:
    """All samples; population k of depth d runs d - 1 steps behind the core, for input spikes arrive at once."""
    groups, parts, monitors = {}, [], {}
    for k, p in enumerate(case.populations):
        if case.biases[k].any():
            raise ValueError("brian2-loihi's neurons have no bias (loihi_neuron_group.py l.75-80)")
        groups[p["name"]] = group = _group(case, p)
        if p["role"] != "input":
            monitors[k] = (LoihiSpikeMonitor(group), LoihiStateMonitor(group, "v"))
            parts += monitors[k]
    for j, projection in enumerate(case.projections):
        parts.append(_synapses(case, j, projection, groups))
    LoihiNetwork(*groups.values(), *parts).run(case.n_rows)
    out = case.empty()
    for k, (fired, state) in monitors.items():
        n = case.populations[k]["n"]
        v = np.asarray(state.v)  # [n_samples * n, n_rows]
        if np.any(v != np.rint(v)):
            raise ValueError(f"a potential is no integer: {v[v != np.rint(v)][0]!r}")
        out[f"v.{k}"][:] = v.reshape(case.n_samples, n, -1).swapaxes(1, 2)
        steps = np.asarray(fired.t).astype(int)  # its monitor gives steps
        which = np.asarray(fired.i)
        out[f"spikes.{k}"][which // n, steps, which % n] = 1
    return out


def _group(case: Case, p: dict) -> LoihiNeuronGroup | LoihiSpikeGeneratorGroup:
    n = case.n_samples * p["n"]
    if p["role"] == "input":
        sample, step, neuron = np.nonzero(case.spikes)
        return LoihiSpikeGeneratorGroup(n, sample * p["n"] + neuron, step)
    return LoihiNeuronGroup(n, threshold_v_mant=p["threshold"], decay_v=p["decay"], decay_I=p["du"] + 1)


def _synapses(case: Case, j: int, projection: dict, groups: dict) -> LoihiSynapses:
    pre, post = (case.populations[case.index[projection[end]]] for end in ("pre", "post"))
    weights, copies = case.weights[j], np.arange(case.n_samples)[:, None, None]
    synapses = LoihiSynapses(
        groups[pre["name"]],
        groups[post["name"]],
        delay=post["depth"] - pre["depth"] - 1,
        w_exp=projection["exponent"],
        sign_mode=_SIGN[case.sign(j)],
    )
    to, start = np.indices(weights.shape)
    synapses.connect(i=(copies * pre["n"] + start).ravel(), j=(copies * post["n"] + to).ravel())
    synapses.w = np.tile(weights.ravel(), case.n_samples)
    return synapses


if __name__ == "__main__":
    serve(run)
