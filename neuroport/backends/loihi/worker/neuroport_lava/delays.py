"""A delay of whole steps for spikes on their way to a connection.

A connection process adds one step (lava-nc 0.10.0, lava/proc/dense/models.py l.93-107: it sends what it summed up a
step before). Where a projection skips k levels, k steps more bring its spikes to the population behind together with
those that went through the levels between, and so within the same sample. Lava's own DelayDense and DelaySparse delay
each synapse by itself, with a buffer of all sums, and there is none for convolutions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class SpikeDelay(AbstractProcess):
    """Sends the spikes it received `delay` steps ago, at least 1, and none before."""

    def __init__(self, *, shape: tuple[int, ...], delay: int, name: str) -> None:
        super().__init__(shape=shape, name=name)
        self.s_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.proc_params["delay"] = delay


@implements(proc=SpikeDelay, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeDelay(PyLoihiProcessModel):
    """A ring of `delay` rasters."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.ring = np.zeros((int(proc_params["delay"]), *proc_params["shape"]), np.int32)

    def run_spk(self) -> None:
        """Send the oldest raster and keep the new one in its place."""
        place = self.time_step % len(self.ring)
        self.s_out.send(self.ring[place].copy())
        self.ring[place] = self.s_in.recv()
