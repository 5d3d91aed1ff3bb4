"""The two ends of a network of netx: a source of input currents, and recorders of spikes and potentials.

They only send and read: what lies between is what netx made of the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class CurrentSource(AbstractProcess):
    """Sends the current of each sample, [S, *shape], at every one of its steps, and nothing behind the last."""

    def __init__(self, *, currents: np.ndarray, n_steps: int, name: str) -> None:
        super().__init__(name=name)
        self.s_out = OutPort(shape=currents.shape[1:])
        self.proc_params["currents"] = currents
        self.proc_params["n_steps"] = n_steps


@implements(proc=CurrentSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyCurrentSource(PyLoihiProcessModel):
    """Lava's steps begin at 1."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.currents, self.n_steps = proc_params["currents"], int(proc_params["n_steps"])

    def run_spk(self) -> None:
        """One step."""
        sample = (self.time_step - 1) // self.n_steps
        current = self.currents[sample] if sample < len(self.currents) else np.zeros_like(self.currents[0])
        self.s_out.send(current)


class Recorder(AbstractProcess):
    """Keeps the spikes of a population."""

    def __init__(self, *, shape: tuple[int, ...], samples: Any, name: str) -> None:
        super().__init__(name=name)
        self.s_in = InPort(shape=shape)
        self.proc_params["samples"] = samples


@implements(proc=Recorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecorder(PyLoihiProcessModel):
    """Writes at the end of each sample."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.samples = proc_params["samples"]

    def run_spk(self) -> None:
        """One step."""
        spikes = self.s_in.recv()
        self.samples.record(self.samples.position(self.time_step), spikes, spikes)


class ReadoutRecorder(AbstractProcess):
    """Keeps the spikes of a population and its potentials after each step."""

    def __init__(self, *, shape: tuple[int, ...], samples: Any, name: str) -> None:
        super().__init__(name=name)
        self.s_in = InPort(shape=shape)
        self.v = RefPort(shape=shape)
        self.proc_params["samples"] = samples


@implements(proc=ReadoutRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyReadoutRecorder(PyLoihiProcessModel):
    """Spikes arrive while neurons compute; potentials are read when all have."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    v: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.samples = proc_params["samples"]
        self.spikes: Any = None

    def run_spk(self) -> None:
        """One step."""
        self.spikes = self.s_in.recv()

    def post_guard(self) -> bool:
        """Ask for the phase behind each step (lava-nc 0.10.0, lava/proc/monitor/models.py, does it so, too)."""
        return True

    def run_post_mgmt(self) -> None:
        """Behind the step."""
        self.samples.record(self.samples.position(self.time_step), self.spikes, self.v.read())
