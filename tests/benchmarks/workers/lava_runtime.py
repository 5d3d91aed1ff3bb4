"""The path `lava-runtime`: one sample of a dense network on Lava's runtime. Runs in Lava's Python 3.10.

Lava starts one operating system process for each of its processes, so only wall time is given. argv: case, mark of the
shared memory that is freed at the end.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.shared_memory as shared_memory
import os
import sys
from pathlib import Path

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.dense.process import Dense
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import LIF

from .plain import Plain, read_plain
from .protocol import Prepared, UnsupportedError, serve


def prepare(case: Path) -> Prepared:
    """Start the runtime and run one sample; the source begins it again in every later run."""
    plain = read_plain(case / "plain.npz")
    _refuse(plain)
    port = Source(data=np.ascontiguousarray(plain.spikes[0].T).astype(np.int32)).s_out
    kept = []  # Lava compiles what it reaches, and needs it alive
    for k, p in enumerate(plain.populations[1:]):
        dense = Dense(weights=plain.weights[k].astype(int), weight_exp=plain.projections[k]["exponent"])
        lif = LIF(shape=tuple(p["shape"]), vth=p["threshold_mantissa"], du=4095, dv=p["decay"])
        port.connect(dense.s_in)
        dense.a_out.connect(lif.a_in)
        port = lif.s_out
        kept += [dense, lif]
    depth = len(plain.projections)  # each Dense hands on its sums one step later
    sink = Sink(shape=tuple(plain.populations[-1]["shape"]), buffer=plain.n_steps + depth)
    port.connect(sink.a_in)
    config = Loihi2SimCfg(select_tag="fixed_pt")

    def run(n_steps: int = plain.n_steps) -> None:
        sink.run(condition=RunSteps(num_steps=n_steps), run_cfg=config)

    run(plain.n_steps + depth)
    totals = {plain.populations[-1]["name"]: sink.data.get()[:, depth:].sum(1).astype(int).tolist()}
    pids = [child.pid for child in multiprocessing.active_children()]
    return Prepared(run, totals, 1, plain.n_steps, f"1 sample, {len(pids)} processes", children=lambda: pids)


def _refuse(plain: Plain) -> None:
    chained = [(j["pre"], j["post"]) for j in plain.projections] == [
        (a["name"], b["name"])
        for a, b in zip(plain.populations, plain.populations[1:])  # noqa: B905 - 3.10
    ]
    simple = all(j["kind"] == "dense" for j in plain.projections) and plain.is_reset_to_zero and not plain.currents
    if not (chained and simple) or plain.spikes is None or any(p["v_init_int"] for p in plain.populations):
        raise UnsupportedError("Lava's runtime is measured on the dense network only")
    if any(bias.any() for bias in plain.biases):
        raise UnsupportedError("Lava's runtime is measured without biases")


if __name__ == "__main__":
    mark = f"/{sys.argv[2]}_"
    vars(shared_memory).update(_SHM_NAME_PREFIX=mark, _SHM_SAFE_NAME_LENGTH=len(mark) + 16)
    try:
        serve(lambda: prepare(Path(sys.argv[1])))
    finally:
        for child in multiprocessing.active_children():
            child.kill()
        for path in Path("/dev/shm").glob(f"{sys.argv[2]}_*"):
            path.unlink(missing_ok=True)
        sys.stderr.flush()
        os._exit(0)  # Lava's own exit handlers can hang
