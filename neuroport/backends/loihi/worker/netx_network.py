"""Runs a .net file as lava-dl's netx builds it, recorded from outside.

network.net is the program. network.h5 tells which population each of its layers is; inputs.h5 what the samples are.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from lava.proc.io.source import RingBuffer
from network import Job, Network, payloads, read_job
from neuroport_lava.neurons import Samples
from neuroport_lava.sources import CurrentSource
from neuroport_netx.ends import ReadoutRecorder, Recorder

__all__ = ["build", "read_job"]


def build(job: Job, work_dir: Path) -> Network:
    """Processes of netx, a source in front of the first, and a recorder behind each."""
    neurons = [p for p in job.populations if p["role"] != "input"]
    driven = bool(neurons[0]["driven"])
    # a layer behind a source of spikes runs one step behind it; netx counts from the first neurons on
    net = _load(work_dir / "network.net", reset_interval=job.n_steps, reset_offset=0 if driven else 1)
    if len(net.layers) != len(neurons):
        raise ValueError(f"netx made {len(net.layers)} layers of network.net, which has {len(neurons)}")
    # netx leaves the port of its input neurons unconnected (lava-dl 0.6.0, blocks/process.py l.101-106)
    entry = net.in_layer.neuron.a_in if driven else net.inp
    source = _source(job, neurons[0], entry.shape) if driven else _spikes(job, entry.shape)
    source.s_out.connect(entry)
    others = [source]
    for k, p in enumerate(job.populations):
        if p["role"] != "input":
            others.append(_recorder(k, p, net.layers[len(others) - 1], job, work_dir))
    return Network([net], others, max(p["depth"] for p in neurons))


def _load(path: Path, **how: Any) -> Any:
    """netx's Network; torch, which it imports for other kinds of neurons, is left out.

    lava-dl 0.6.0: netx/__init__.py imports sequential_modules, which imports torch (l.42), and netx/hdf5.py l.19
    imports slayer for resonate-and-fire neurons alone. Lava looks for the file of every module (lava-nc 0.10.0,
    lava/magma/compiler/compiler_graphs.py l.795-900), so the stand-in names it.
    """

    def neuron_params(*_: Any, **__: Any) -> Any:
        raise ValueError("resonate-and-fire neurons need slayer, which needs torch")

    found = importlib.util.find_spec("lava.lib.dl.netx")
    if found is None or found.origin is None:
        raise ValueError("lava-dl is not in this toolchain; the datasheet must name it")
    folder = Path(found.origin).parent
    for name in ("slayer", "slayer.neuron", "slayer.neuron.rf", "netx.sequential_modules"):
        module = ModuleType(f"lava.lib.dl.{name}")
        vars(module).update(__path__=[], neuron_params=neuron_params)
        sys.modules[module.__name__] = module
    vars(sys.modules["lava.lib.dl.netx.sequential_modules"])["__file__"] = str(folder / "sequential_modules.py")
    from lava.lib.dl.netx import hdf5

    return hdf5.Network(net_config=str(path), **how)


def _in_order(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rows [n, *any] in C order as [n, *shape]: flat, or Lava's [W, H, C]."""
    image = rows.reshape(len(rows), *reversed(shape))
    return np.ascontiguousarray(image.transpose(0, *range(image.ndim - 1, 0, -1)))


def _spikes(job: Job, shape: tuple[int, ...]) -> Any:
    if job.spikes is None:
        raise ValueError("no spikes for the input population")
    return RingBuffer(data=np.moveaxis(_in_order(job.spikes, shape), 0, -1).astype(np.int32))


def _source(job: Job, p: dict[str, Any], shape: tuple[int, ...]) -> Any:
    currents = _in_order(payloads(job, p), shape)
    return CurrentSource(currents=currents, n_steps=job.n_steps, name=f"currents of {p['name']}")


def _recorder(k: int, p: dict[str, Any], layer: Any, job: Job, work_dir: Path) -> Any:
    is_readout = p["role"] == "readout"
    samples = Samples(
        n_samples=job.n_samples,
        n_steps=job.n_steps,
        depth=p["depth"],
        currents=None,
        spike_file=work_dir / f"spikes.{k}.bin",
        potential_file=work_dir / f"potentials.{k}.bin" if is_readout else None,
    )
    shape = tuple(layer.neuron.s_out.shape)
    made = (ReadoutRecorder if is_readout else Recorder)(shape=shape, samples=samples, name=p["name"])
    layer.neuron.s_out.connect(made.s_in)
    if is_readout:
        made.v.connect_var(layer.neuron.v)
    return made
