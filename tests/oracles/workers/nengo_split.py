"""nengo-loihi's own splitter on layers of our making. Runs in the oracles' Python 3.10: a JSON of layers in, one out.

Each network is a list of layers behind a spike input; a layer is {"dense": [n_in, n_out]}, or {"conv": [C, H, W],
"filters", "kernel", "stride", "padding"}. For each: blocks after split_model, the most that one takes of each resource,
and what validate_block has against them.
"""

from __future__ import annotations

import json
import sys

import nengo
import numpy as np
from nengo.exceptions import BuildError
from nengo_loihi.block import Axon, LoihiBlock, Synapse
from nengo_loihi.builder.builder import Model
from nengo_loihi.builder.split_blocks import split_model
from nengo_loihi.builder.validate import validate_block
from nengo_loihi.conv import channel_idxs, conv2d_loihi_weights, pixel_idxs
from nengo_loihi.inputs import SpikeInput

_RNG = np.random.default_rng(0)  # no two rows alike: its splitter stores equal ones once


def _conv(layer: dict) -> tuple[Synapse, Axon, int]:
    """As nengo_loihi/builder/connection.py l.797-828 does, with population axons of 32 bits, its default."""
    c, h, w = layer["conv"]
    kernel = (layer["kernel"],) * 2
    transform = nengo.Convolution(
        layer["filters"],
        (c, h, w),
        strides=(layer["stride"],) * 2,
        kernel_size=kernel,
        padding=layer["padding"],
        channels_last=False,
        init=_RNG.normal(size=(*kernel, c, layer["filters"])),
    )
    weights, indices, axon_to_weight, offsets = conv2d_loihi_weights(transform)
    synapse = Synapse(h * w)
    synapse.set_population_weights(weights, indices, axon_to_weight, offsets, pop_type=32)
    axon = Axon(synapse.n_axons)
    axon.target = synapse
    axon.set_compartment_axon_map(pixel_idxs(transform.input_shape), atoms=channel_idxs(transform.input_shape))
    return synapse, axon, transform.output_shape.size


def _dense(layer: dict) -> tuple[Synapse, Axon, int]:
    n_in, n_out = layer["dense"]
    synapse = Synapse(n_in)
    synapse.set_weights(_RNG.normal(size=(n_in, n_out)).astype(np.float32))
    axon = Axon(n_in)
    axon.target = synapse
    axon.set_compartment_axon_map(np.arange(n_in))
    return synapse, axon, n_out


def split(layers: list[dict]) -> list[dict]:
    """What becomes of each layer."""
    model = Model(dt=0.001)
    n_in = layers[0]["dense"][0] if "dense" in layers[0] else int(np.prod(layers[0]["conv"]))
    before = SpikeInput(n_in)
    model.add_input(before)
    blocks = []
    for layer in layers:
        synapse, axon, n_out = _dense(layer) if "dense" in layer else _conv(layer)
        block = LoihiBlock(n_out)
        block.compartment.configure_relu()
        block.add_synapse(synapse)
        before.add_axon(axon)
        model.add_block(block)
        blocks.append(block)
        before = block
    pieces = split_model(model)
    return [_row(list(pieces[block])) for block in blocks]


def _row(pieces: list[LoihiBlock]) -> dict:
    fullest = {name: int(max(piece.utilization()[name][0] for piece in pieces)) for name in pieces[0].utilization()}
    try:
        for piece in pieces:
            validate_block(piece)
    except BuildError as error:
        return {"cores": len(pieces), "fullest": fullest, "error": str(error)}
    return {"cores": len(pieces), "fullest": fullest, "error": ""}


if __name__ == "__main__":
    networks = json.load(sys.stdin)
    answers = [split(layers) for layers in networks]
    sys.stdout.write("ANSWER " + json.dumps(answers) + "\n")
