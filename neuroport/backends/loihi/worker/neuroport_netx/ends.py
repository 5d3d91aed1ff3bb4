"""Behind a network of netx: recorders of spikes and potentials.

They only read: what lies before them is what netx made of the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


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
