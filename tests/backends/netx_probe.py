"""In Lava's toolchain: `netx_probe.py FILE FOLDER N_STEPS`, a file as lava-dl's tutorials load and run it.

Reads in.npy [T, n] and how.json of FOLDER, writes out.npy or error.txt.
"""

import json
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from lava.lib import dl


def without_torch():
    folder = next(Path(p) / "netx" for p in dl.__path__ if (Path(p) / "netx").is_dir())
    for name in ("slayer", "slayer.neuron", "slayer.neuron.rf", "netx.sequential_modules"):
        module = ModuleType(f"lava.lib.dl.{name}")
        module.__path__, module.neuron_params = [], None
        sys.modules[module.__name__] = module
    module.__file__ = str(folder / "sequential_modules.py")


def run(file, folder, n_steps):
    from lava.lib.dl.netx import hdf5
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc import io

    net = hdf5.Network(net_config=str(file), **json.loads((folder / "how.json").read_text()))
    values = np.load(folder / "in.npy").astype(np.int32)
    values = np.concatenate([values, np.zeros((max(0, n_steps - len(values)), *values.shape[1:]), np.int32)])
    has_neurons = type(net.layers[0]).__name__ == "Input"
    entry = net.in_layer.neuron.a_in if has_neurons else net.inp
    rows = values.reshape(len(values), *reversed(entry.shape))
    source = io.source.RingBuffer(data=np.ascontiguousarray(rows.T))
    sink = io.sink.RingBuffer(shape=net.out.shape, buffer=n_steps)
    source.s_out.connect(entry)
    net.out.connect(sink.a_in)
    net.run(condition=RunSteps(num_steps=n_steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    np.save(folder / "out.npy", sink.data.get().T)  # [T, *reversed shape]
    net.stop()


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    try:
        without_torch()
        run(Path(sys.argv[1]), folder, int(sys.argv[3]))
    except BaseException as error:  # noqa: BLE001 - it is what the test asks for
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
    os._exit(0)
