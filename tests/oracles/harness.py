"""Emulators of Loihi that others wrote, each in a process of its own that answers one network after the other."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import IntWindow, as_sparse
from neuroport.chip.trace import Trace
from neuroport.interpreters import child_environment
from neuroport.toolchains import Toolchain, ToolchainSpec

_WORKERS = Path(__file__).parent / "workers"

# brian2 2.8.0.4 is the last version with wheels for Python 3.10: nothing is compiled. Both want numpy below 2.
SPEC = ToolchainSpec(
    "oracles",
    "3.10",
    (
        "brian2-loihi==0.5.2",
        "brian2==2.8.0.4",
        "nengo-loihi==1.1.0",
        "nengo==3.2.0",
        "numpy==1.26.4",
        "scipy==1.15.3",
    ),
    imports=("brian2_loihi", "nengo_loihi"),
)

# Steps by which a population of depth d lags behind the core. Lava's models are driven without their delays;
# nengo-loihi adds a step per projection (emulator/interface.py l.485-504); so does brian2-loihi, but input spikes
# arrive in the step they are sent (schedule in loihi_network.py l.60: synapses before groups).
LAGS: Mapping[str, Callable[[int], int]] = {"lava": lambda d: 0, "nengo": lambda d: d, "brian2": lambda d: d - 1}


class OracleError(Exception):
    """What an emulator raised, in its own words."""


@dataclass
class Oracle:
    """One emulator's running process; `warnings`: those of the last case."""

    name: str
    process: subprocess.Popen[str]
    folder: Path
    warnings: list[str] = field(default_factory=list)

    def run_case(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays `spikes.K` and `v.K` in the emulator's own time; see workers/cases.py.

        Raises:
            OracleError: it refused the case.
        """
        path = self.folder / "case.npz"
        np.savez(path, header=np.array(json.dumps(header)), **arrays)
        if self.process.stdin is None or self.process.stdout is None:
            raise OracleError("it was started without pipes")
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise OracleError(f"its process ended with {self.process.wait()}: {self._log()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise OracleError(f"{answer['error']}\n{answer['traceback']}")
        self.warnings = answer["warnings"]
        with np.load(answer["file"]) as f:
            return {key: f[key] for key in f.files}

    def run(self, network: IntNetwork, inputs: IntInputs, **options: Any) -> Trace:
        """Spikes and potentials of all neurons, moved to where the core has them."""
        raw = self.run_case(*case_of(network, inputs, **options))
        spikes, potentials = {}, {}
        for k, p in enumerate(network.populations):
            if p.role == "input":
                continue
            start = LAGS[self.name](network.depth[p.name])
            window = np.s_[:, start : start + inputs.n_steps]
            shape = (inputs.n_samples, inputs.n_steps, *p.shape)
            spikes[p.name] = raw[f"spikes.{k}"][window].reshape(shape)
            potentials[p.name] = raw[f"v.{k}"][window].reshape(shape)
        return Trace(spikes, potentials)

    def _log(self) -> str:
        return (self.folder / "worker.log").read_text(errors="replace")


def case_of(network: IntNetwork, inputs: IntInputs, **options: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header and the arrays of one case: every synapse as a matrix, every population as a row of neurons."""
    header: dict[str, Any] = {
        "n_samples": inputs.n_samples,
        "n_steps": inputs.n_steps,
        "options": options,
        "populations": [
            {
                "name": p.name,
                "n": p.n_neurons,
                "role": p.role,
                "depth": network.depth[p.name],
                "threshold": p.threshold_mantissa,
                "decay": p.decay,
                "du": 4095 if p.current_decay is None else p.current_decay - 1,
                "bias_exponent": p.bias_exponent,
            }
            for p in network.populations
        ],
        "projections": [{"pre": j.pre, "post": j.post, "exponent": j.exponent} for j in network.projections],
    }
    arrays: dict[str, NDArray[Any]] = {}
    for k, p in enumerate(network.populations):
        mantissa = inputs.currents[p.name] if p.driven else p.bias_mantissa[None]
        arrays[f"bias.{k}"] = np.broadcast_to(mantissa.reshape(-1, p.n_neurons), (inputs.n_samples, p.n_neurons))
    for k, j in enumerate(network.projections):
        if isinstance(j.synapse, IntWindow):
            raise OracleError("max-pool gates are ours alone")
        s = as_sparse(j.synapse)
        shape = (network.by_name[j.post].n_neurons, network.by_name[j.pre].n_neurons)
        arrays[f"weights.{k}"] = csr_matrix((s.mantissa, s.columns, s.row_start), shape).toarray().astype(np.int64)
    if inputs.spikes is not None:
        arrays["spikes"] = inputs.spikes.reshape(inputs.n_samples, inputs.n_steps, -1)
    return header, arrays


@contextmanager
def started(name: str, toolchain: Toolchain) -> Iterator[Oracle]:
    """The emulator's process, ended with the block."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [str(toolchain.python), str(_WORKERS / f"{name}_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=child_environment({"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}),
        )
        try:
            yield Oracle(name, process, Path(folder))
        finally:
            process.kill()
            process.communicate()
