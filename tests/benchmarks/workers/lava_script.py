"""A Lava script as one writes it by hand: Lava's own processes, a sink behind each layer. Runs in Lava's Python 3.10.

All samples go through in one run; LIFReset starts each of them afresh. argv: case, mark of the shared memory that is
freed at the end, where the spikes of the last samples go (.npz, [S, T, N] by population). Answers twice: `ready` once
the processes run, then the `seconds` of the run. Sinks keep the last samples only and are read behind that: Lava hands
a variable over number by number, which would take longer than the run.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.shared_memory as shared_memory
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import LIFReset

from .plain import Plain, read_plain
from .protocol import channel

_KEPT = 2  # samples


def run(case: Path, out: Path) -> None:
    """Build the chain, run it, and save what the sinks hold."""
    answer = channel()
    plain = read_plain(case / "plain.npz")
    _refuse(plain)
    n_samples, n_steps, depth = plain.n_samples, plain.n_steps, len(plain.projections)
    total = n_samples * n_steps + depth  # each connection hands on its sums one step later
    n_kept = min(_KEPT, n_samples)
    buffer = n_kept * n_steps + depth
    raster = plain.spikes.reshape(-1, *plain.spikes.shape[2:])
    port = Source(data=np.ascontiguousarray(raster.T).astype(np.int32)).s_out
    sinks, kept = [], []  # Lava compiles what it reaches, and needs it alive
    for k, p in enumerate(plain.populations[1:]):
        shape = tuple(reversed(p["shape"]))
        synapses = _connection(plain, k)
        lif = LIFReset(
            shape=shape,
            du=4095,
            dv=p["decay"],
            vth=p["threshold_mantissa"],
            reset_interval=n_steps,
            reset_offset=k + 2,  # layer k + 1 sees the first step of a sample at Lava's step k + 2
        )
        sink = Sink(shape=shape, buffer=buffer)
        source = port.transpose([2, 1, 0]).flatten() if len(port.shape) == 3 and len(synapses.s_in.shape) == 1 else port
        source.connect(synapses.s_in)
        synapses.a_out.connect(lif.a_in)
        lif.s_out.connect(sink.a_in)
        port = lif.s_out
        sinks.append(sink)
        kept += [synapses, lif]
    config = Loihi2SimCfg(select_tag="fixed_pt")
    sinks[-1].create_runtime(run_cfg=config)
    answer({"ready": True})
    start = time.perf_counter()
    sinks[-1].run(condition=RunSteps(num_steps=total), run_cfg=config)
    seconds = time.perf_counter() - start
    answer({"seconds": seconds, "steps": total})
    spikes = {}
    for k, (p, sink) in enumerate(zip(plain.populations[1:], sinks)):  # noqa: B905 - 3.10
        last = np.roll(sink.data.get(), -(total % buffer), axis=-1)
        spikes[p["name"]] = last[..., k + 1 :][..., : n_kept * n_steps].T.reshape(n_kept, n_steps, -1)
    np.savez(out, **{name: x.astype(np.uint8) for name, x in spikes.items()})
    answer({"saved": True})


def _connection(plain: Plain, k: int) -> Any:
    j, weight = plain.projections[k], plain.weights[k].astype(int)
    if j["kind"] == "dense":
        return Dense(weights=weight, weight_exp=j["exponent"])
    return Conv(  # [C_out, W, H, C_in], flipped: Lava's is a true convolution
        weight=np.ascontiguousarray((weight << j["exponent"])[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)),
        input_shape=tuple(reversed(j["in_shape"])),
        groups=j["groups"],
        **{key: tuple(reversed(j[key])) for key in ("stride", "padding", "dilation")},
    )


def _refuse(plain: Plain) -> None:
    names = [p["name"] for p in plain.populations]
    chained = [(j["pre"], j["post"]) for j in plain.projections] == list(pairwise(names))
    known = all(j["kind"] in ("dense", "conv") for j in plain.projections) and plain.is_reset_to_zero
    if not chained or not known or plain.currents or any(bias.any() for bias in plain.biases):
        raise SystemExit("the script knows chains of dense layers and convolutions that reset to zero, without biases")


if __name__ == "__main__":
    mark = f"/{sys.argv[2]}_"
    vars(shared_memory).update(_SHM_NAME_PREFIX=mark, _SHM_SAFE_NAME_LENGTH=len(mark) + 16)
    try:
        run(Path(sys.argv[1]), Path(sys.argv[3]))
    finally:
        for child in multiprocessing.active_children():
            child.kill()
        for path in Path("/dev/shm").glob(f"{sys.argv[2]}_*"):
            path.unlink(missing_ok=True)
        sys.stderr.flush()
        os._exit(0)  # Lava's own exit handlers can hang
