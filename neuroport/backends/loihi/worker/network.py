"""Builds the Lava processes of an integer network: sources, delays, connections, neurons."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.io.source import RingBuffer
from lava.proc.sparse.process import Sparse
from neuroport_lava.delays import SpikeDelay
from neuroport_lava.neurons import IntegrateFire, SampleLIF, Samples
from neuroport_lava.sources import CurrentSource
from run_config import run_config
from scipy.sparse import csr_matrix, identity

_SHIFT = 6  # of all that arrives at a neuron (lava/proc/lif/models.py l.108)
_MESSAGE_BITS = 24  # of a port of Lava's; the connection asks whether there are any


@dataclass(frozen=True, eq=False)
class Job:
    """The files of one run, read. spikes: [S * T, *shape] of the source, or None; currents: [S, *shape] by name."""

    populations: list[dict[str, Any]]
    projections: list[dict[str, Any]]
    n_samples: int
    n_steps: int
    spikes: np.ndarray | None
    currents: Mapping[str, np.ndarray]


def read_job(work_dir: Path) -> Job:
    """Everything in network.h5 and inputs.h5, as plain dictionaries and arrays."""
    with h5py.File(work_dir / "network.h5", "r") as f:
        populations = [_contents(f["populations"][str(k)]) for k in range(len(f["populations"]))]
        n_projections = len(f["projections"]) if "projections" in f else 0
        projections = [_contents(f["projections"][str(k)]) for k in range(n_projections)]
        arithmetic = json.loads(f.attrs["arithmetic"])
    if arithmetic["synaptic_shift"] != 6 or arithmetic["decay_bits"] != 12:
        raise ValueError("Lava computes with a shift of 6 and decays of 12 bits; this network asks for others")
    with h5py.File(work_dir / "inputs.h5", "r") as f:
        currents = {d.attrs["name"]: d[()] for d in f["currents"].values()} if "currents" in f else {}
        spikes = None
        if "spikes" in f:
            shape = tuple(int(n) for n in f["spikes"].attrs["shape"])
            bits = np.unpackbits(f["spikes"][()], axis=-1, count=int(np.prod(shape)))
            spikes = bits.reshape(-1, *shape)  # [S * T, *shape]
        return Job(populations, projections, int(f.attrs["n_samples"]), int(f.attrs["n_steps"]), spikes, currents)


def _contents(group: h5py.Group) -> dict[str, Any]:
    """Attributes as Python's own types, and the arrays."""
    out: dict[str, Any] = dict(group.attrs.items())
    for key, value in out.items():
        if isinstance(value, np.ndarray):
            out[key] = tuple(int(n) for n in value)
        elif isinstance(value, (np.integer, np.bool_)):
            out[key] = int(value)
    out.update({name: dataset[()] for name, dataset in group.items()})
    return out


def lava_order(x: np.ndarray) -> np.ndarray:
    """Values of one population, [C, H, W] say, in Lava's order [W, H, C]."""
    return np.ascontiguousarray(x.T)


class Network:
    """The processes of one network and its run.

    parts: a process of each set that connections join, for Lava compiles and runs only what it reaches from one
    (lava-nc 0.10.0, lava/magma/compiler/compiler_graphs.py l.106-163); the sets run one after the other.
    """

    def __init__(self, parts: list[Any], others: list[Any], max_depth: int) -> None:
        self.parts, self.others, self.max_depth = parts, others, max_depth
        self.started = False

    def run(self, n_steps: int, on_start: Callable[[Mapping[str, Any]], None]) -> None:
        """Run Lava for n_steps; on_start gets the operating system processes once they exist."""
        config = run_config()
        if not self.started:
            actors: dict[str, Any] = {}
            for k, process in enumerate(self.parts):
                process.create_runtime(run_cfg=config)
                actors.update(self._actors(process.runtime, k))
            self.started = True
            on_start(actors)
        for process in self.parts:
            process.run(condition=RunSteps(num_steps=n_steps), run_cfg=config)

    @staticmethod
    def _actors(runtime: Any, part: int) -> dict[str, Any]:
        actors = runtime._messaging_infrastructure.actors
        names = [f"{process.name} ({k})" for k, process in enumerate(runtime._executable.proc_builders)]
        names += [f"runtime service {k} of part {part}" for k in range(len(actors) - len(names))]
        return dict(zip(names, actors, strict=True))


def parts_of(job: Job) -> list[str]:
    """One population of each set that projections join; never a spike source, which nothing would run alone."""
    part = {p["name"]: p["name"] for p in job.populations}
    for j in job.projections:
        old, new = part[j["pre"]], part[j["post"]]
        part = {name: new if mine == old else mine for name, mine in part.items()}
    last = {part[p["name"]]: p["name"] for p in job.populations if p["role"] != "input"}
    return list(last.values())


def build(job: Job, work_dir: Path, *, graded: bool = False) -> Network:
    """Processes for every population and projection, connected.

    graded: input currents arrive as graded spikes, through a connection of their own, and not as biases.
    """
    driven = [p for p in job.populations if p["driven"]] if graded else []
    if graded:
        job = replace(job, populations=[_behind_a_source(p) for p in job.populations])
    neurons: dict[str, Any] = {}
    others: list[Any] = []  # kept alive: sources, delays and connections
    out_ports: dict[tuple[str, int], Any] = {}  # by population and delay
    depth = {p["name"]: p["depth"] for p in job.populations}
    n_neurons = {p["name"]: p["bias_mantissa"].size for p in job.populations}
    for k, p in enumerate(job.populations):
        if p["role"] == "input":
            if job.spikes is None:
                raise ValueError(f"no spikes for the input population {p['name']}")
            source = RingBuffer(data=np.ascontiguousarray(job.spikes.T).astype(np.int32))
            source.name = p["name"]
            others.append(source)
            out_ports[p["name"], 0] = source.s_out
        else:
            neurons[p["name"]] = _neuron(k, p, job, work_dir)
            out_ports[p["name"], 0] = neurons[p["name"]].s_out
    for j in job.projections:
        pre, delay = j["pre"], depth[j["post"]] - depth[j["pre"]] - 1
        if (pre, delay) not in out_ports:  # one for all projections that skip as many levels
            before = out_ports[pre, 0]
            ring = SpikeDelay(shape=tuple(before.shape), delay=delay, name=f"{pre}, {delay} later")
            others.append(ring)
            before.connect(ring.s_in)
            out_ports[pre, delay] = ring.s_out
        connection = _connection(j, n_neurons[pre])
        others.append(connection)
        after = neurons[j["post"]].a_in
        _relabel(out_ports[pre, delay], tuple(connection.s_in.shape)).connect(connection.s_in)
        _relabel(connection.a_out, tuple(after.shape)).connect(after)
    for p in driven:
        others += _graded_input(p, job, depth[p["name"]] - 1, neurons[p["name"]].a_in)
    return Network([neurons[name] for name in parts_of(job)], [*others, *neurons.values()], max(depth.values()))


def _behind_a_source(p: dict[str, Any]) -> dict[str, Any]:
    """A population one connection later, without biases where its input currents hold them."""
    if p["role"] == "input":
        return p
    held = {"driven": 0, "bias_mantissa": np.zeros_like(p["bias_mantissa"])} if p["driven"] else {}
    return {**p, **held, "depth": p["depth"] + 1}


def _graded_input(p: dict[str, Any], job: Job, depth: int, port: Any) -> list[Any]:
    """A source of the sample's currents in C order, and an identity into the neurons' port."""
    values = payloads(job, p)
    flat = values.reshape(len(values), -1)
    source = CurrentSource(currents=flat, n_steps=job.n_steps, depth=depth, name=f"currents of {p['name']}")
    weights = csr_matrix(identity(flat.shape[1], dtype=np.int64))
    connection = Sparse(weights=weights, num_message_bits=_MESSAGE_BITS, name=f"currents -> {p['name']}")
    source.s_out.connect(connection.s_in)
    _relabel(connection.a_out, tuple(port.shape)).connect(port)
    return [source, connection]


def payloads(job: Job, p: dict[str, Any]) -> np.ndarray:
    """Input currents [S, *shape] as what arrives at the neurons' port, which Lava shifts."""
    exact = job.currents[p["name"]].astype(np.int64) << p["bias_exponent"]
    if (exact & ((1 << _SHIFT) - 1)).any():
        raise ValueError(f"input currents of {p['name']} are no multiples of {1 << _SHIFT}, as all that arrives is")
    arriving: np.ndarray = (exact >> _SHIFT).astype(np.int32)
    return arriving


def _neuron(k: int, p: dict[str, Any], job: Job, work_dir: Path) -> Any:
    currents = None
    if p["driven"]:
        currents = np.stack([lava_order(x) for x in job.currents[p["name"]]]).astype(np.int32)
    readout = p["role"] == "readout"
    samples = Samples(
        n_samples=job.n_samples,
        n_steps=job.n_steps,
        depth=p["depth"],
        currents=currents,
        spike_file=work_dir / f"spikes.{k}.bin",
        potential_file=work_dir / f"potentials.{k}.bin" if readout else None,
    )
    common = {
        "shape": tuple(reversed(p["shape"])),
        "samples": samples,
        "vth": p["threshold_mantissa"],
        "bias_mant": lava_order(p["bias_mantissa"]),
        "bias_exp": p["bias_exponent"],
        "name": p["name"],
        "du": p.get("current_decay", 4096) - 1,  # Lava adds 1 (lava/proc/lif/models.py l.94, l.145)
    }
    if p["reset"] == "zero" and p["v_init_int"] == 0 and p["clamp_until"] == 0 and p["decay"] < 4096:
        return SampleLIF(dv=p["decay"], **common)
    return IntegrateFire(
        v_init=p["v_init_int"],
        subtract=p["reset"] == "subtract",
        clamp_until=p["clamp_until"],
        decay=p["decay"],
        **common,
    )


def _connection(j: dict[str, Any], n_in: int) -> Any:
    mantissa, name, exponent = j["mantissa"].astype(np.int64), f"{j['pre']} -> {j['post']}", j["exponent"]
    if j["kind"] != "conv" and mantissa.min() < 0 < mantissa.max() and (mantissa % 2).any():
        # Lava floors odd weights of mixed signs (lava/utils/weightutils.py l.239-247); doubled they fit, and the sums
        # are halved exactly
        mantissa, exponent = 2 * mantissa, exponent - 1
    if j["kind"] == "dense":
        return Dense(weights=mantissa, weight_exp=exponent, name=name)
    if j["kind"] == "sparse":
        shape = (len(j["row_start"]) - 1, n_in)
        weights = csr_matrix((mantissa, j["columns"], j["row_start"]), shape)
        return Sparse(weights=weights, weight_exp=exponent, name=name)
    if j["kind"] != "conv":
        raise ValueError(f"{name}: Lava has no process for synapses of kind '{j['kind']}'")
    # Lava: weights [C_out, W, H, C_in], true convolution (flipped), geometry in (x, y); its Conv ignores weight_exp
    weight = (mantissa << j["exponent"])[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
    return Conv(
        weight=np.ascontiguousarray(weight),
        input_shape=tuple(reversed(j["in_shape"])),
        stride=tuple(reversed(j["stride"])),
        padding=tuple(reversed(j["padding"])),
        dilation=tuple(reversed(j["dilation"])),
        groups=j["groups"],
        name=name,
    )


def _relabel(port: Any, shape: tuple[int, ...]) -> Any:
    """A port read under another shape, both reversed as Lava has them: the same numbers in C order."""
    if tuple(port.shape) == shape:
        return port
    flat = port.transpose(list(range(len(port.shape)))[::-1]).flatten() if len(port.shape) > 1 else port
    if len(shape) == 1:
        return flat
    return flat.reshape(tuple(reversed(shape))).transpose(list(range(len(shape)))[::-1])
