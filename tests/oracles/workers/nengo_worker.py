"""nengo-loihi's emulator, driven block by block with integers. Runs in the oracles' Python 3.10.

The chip's numbers are made by nengo-loihi's own functions (nengo_loihi/builder/discretize.py of version 1.1.0:
vth_to_manexp, bias_to_manexp, discretize_weights); what scales float models before that is left out.
"""

from __future__ import annotations

import numpy as np
from cases import Case, serve
from nengo_loihi.block import Axon, LoihiBlock, Synapse
from nengo_loihi.builder.builder import Model
from nengo_loihi.builder.discretize import bias_to_manexp, discretize_weights, vth_to_manexp
from nengo_loihi.builder.validate import validate_model
from nengo_loihi.emulator.interface import EmulatorInterface
from nengo_loihi.inputs import SpikeInput

_FANOUT = {"mixed": 1, "excitatory": 2, "inhibitory": 3}
_V_LIMIT = 2**23 - 1


def run(case: Case) -> dict[str, np.ndarray]:
    """All samples, one after the other; population k of depth d runs d steps behind the core."""
    out = case.empty()
    for s in range(case.n_samples):
        model, blocks = _model(case, s)
        validate_model(model)
        EmulatorInterface.strict = case.options.get("strict", False)
        with EmulatorInterface(model, seed=0) as emulator:
            places = {k: emulator.block_info.slices[block] for k, block in blocks.items()}
            for row in range(case.n_rows):
                for k, place in places.items():
                    if case.populations[k]["depth"] == row:  # the sample begins: as the worker's neurons do on Lava
                        emulator.compartment.current[place] = 0
                        emulator.compartment.voltage[place] = 0
                emulator.run_steps(1)
                for k, place in places.items():
                    out[f"spikes.{k}"][s, row] = emulator.compartment.spiked[place]
                    out[f"v.{k}"][s, row] = emulator.compartment.voltage[place]
    return out


def _model(case: Case, s: int) -> tuple[Model, dict[int, LoihiBlock]]:
    """The network of one sample: a block for each population, an input for the spike source."""
    model, sources, blocks = Model(dt=0.001), {}, {}
    for k, p in enumerate(case.populations):
        if p["role"] == "input":
            sources[p["name"]] = _source(case, s, p["n"])
            model.add_input(sources[p["name"]])
        else:
            blocks[k] = sources[p["name"]] = _block(p, case.biases[k][s])
            model.add_block(blocks[k])
    for j, projection in enumerate(case.projections):
        pre, post = case.index[projection["pre"]], case.index[projection["post"]]
        if case.populations[post]["depth"] - case.populations[pre]["depth"] != 1:
            raise ValueError("nengo-loihi's emulator has no delays (emulator/interface.py l.223)")
        synapse = _synapse(case, j, projection["exponent"])
        blocks[post].add_synapse(synapse)
        axon = Axon(synapse.n_axons)
        axon.target = synapse
        axon.set_compartment_axon_map(np.arange(synapse.n_axons))
        sources[projection["pre"]].add_axon(axon)
    return model, blocks


def _source(case: Case, s: int, n: int) -> SpikeInput:
    source = SpikeInput(n)
    for t, fired in enumerate(case.spikes[s]):
        source.add_spikes(t + 1, np.flatnonzero(fired))
    return source


def _block(p: dict, bias: np.ndarray) -> LoihiBlock:
    """Compartments in integers, past the part of discretize_compartment that chooses scales."""
    block = LoihiBlock(p["n"], label=p["name"])
    mantissa, exponent = vth_to_manexp(np.full(p["n"], p["threshold"] << 6))
    bias_mantissa, bias_exponent = bias_to_manexp(bias.astype(np.int64) << p["bias_exponent"])
    c = block.compartment
    c.vth = (mantissa << exponent).astype(np.int32)
    c.bias = (bias_mantissa << bias_exponent).astype(np.int32)
    c.decay_u = np.full(p["n"], p["du"], np.int32)
    c.decay_v = np.full(p["n"], p["decay"], np.int32)
    c.refract_delay = np.ones(p["n"], np.int32)
    c.scale_u = c.scale_v = False
    c.vmin, c.vmax = p.get("v_min", -_V_LIMIT), _V_LIMIT
    return block


def _synapse(case: Case, j: int, exponent: int) -> Synapse:
    weights = case.weights[j].T.astype(np.float32)  # one row for each axon
    synapse = Synapse(len(weights))
    synapse.set_weights(weights)
    synapse.format(weight_exp=exponent, fanout_type=_FANOUT[case.sign(j)])
    synapse.weights = [discretize_weights(synapse.synapse_cfg, w) for w in synapse.weights]
    return synapse


if __name__ == "__main__":
    serve(run)
