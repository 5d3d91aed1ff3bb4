"""Files of netx written by hand, and lava-dl itself, used as its documentation says."""

import json
import subprocess
from pathlib import Path

import h5py
import numpy as np

CUBA = {"type": "CUBA", "iDecay": 4096, "vDecay": 0, "vThMant": 60}
PROBE = Path(__file__).parent / "netx_probe.py"


def layer(kind, shape, *, neuron=None, **fields):
    """One layer: its datasets by path."""
    made = {"type": kind, "shape": np.array(shape), **fields}
    return made | {f"neuron/{key}": value for key, value in (neuron or {}).items()}


def dense(weight, neuron=CUBA, **fields):
    return layer("dense", [len(weight)], neuron=neuron, weight=np.array(weight, np.float32), **fields)


def conv(weight, shape, neuron=CUBA, **fields):
    given = {"stride": np.array([1, 1]), "padding": np.array([0, 0]), "dilation": np.array([1, 1]), "groups": 1}
    return layer("conv", shape, neuron=neuron, weight=np.array(weight, np.float32), **(given | fields))


def write(path, layers, *, names=None):
    """The file, layers numbered from 0 unless `names` says otherwise."""
    with h5py.File(path, "w") as f:
        for name, fields in zip(names or map(str, range(len(layers))), layers, strict=True):
            group = f.create_group(f"layer/{name}")
            for key, value in fields.items():
                group.create_dataset(key, data=np.bytes_(value) if isinstance(value, str) else value)
    return path


def probe(lava, tmp_path, net, spikes, n_steps, **how):
    """Spikes [T, n] (or currents, with input neurons) through hdf5.Network(net, **how): output spikes [n_steps, ...].

    The error's text where lava-dl refuses.
    """
    np.save(tmp_path / "in.npy", np.asarray(spikes))
    (tmp_path / "how.json").write_text(json.dumps(how))
    command = [str(lava.python), str(PROBE), str(net), str(tmp_path), str(n_steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    error = tmp_path / "error.txt"
    if error.is_file():
        return error.read_text()
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "out.npy")
