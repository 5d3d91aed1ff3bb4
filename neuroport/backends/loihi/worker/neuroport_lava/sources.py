"""Input currents as numbers that a process sends: graded spikes, or straight to where netx's neurons add up."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class CurrentSource(AbstractProcess):
    """Sends the current of each sample, [S, *shape], at every one of its steps, and 0 before and behind them.

    The first sample begins `depth` steps after the run.
    """

    def __init__(self, *, currents: np.ndarray, n_steps: int, name: str, depth: int = 0) -> None:
        super().__init__(name=name)
        self.s_out = OutPort(shape=currents.shape[1:])
        self.proc_params["currents"] = currents
        self.proc_params["n_steps"] = n_steps
        self.proc_params["depth"] = depth


@implements(proc=CurrentSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyCurrentSource(PyLoihiProcessModel):
    """Lava's steps begin at 1."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.currents, self.n_steps = proc_params["currents"], int(proc_params["n_steps"])
        self.depth = int(proc_params["depth"])
        self.nothing = np.zeros_like(self.currents[0])

    def run_spk(self) -> None:
        """One step."""
        since = self.time_step - 1 - self.depth
        is_inside = 0 <= since < self.n_steps * len(self.currents)
        self.s_out.send(self.currents[since // self.n_steps] if is_inside else self.nothing)
