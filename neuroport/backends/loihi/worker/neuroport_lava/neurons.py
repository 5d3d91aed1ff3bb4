"""Populations as Lava processes: Lava's own LIF with sample handling around it, and an IF neuron of ours.

Many samples run one after the other in one Lava run. Sample s of a population at depth d (projections from the
input) occupies the Lava steps s * T + d + 1 to (s + 1) * T + d, because every connection process adds one step. At
the first of them the neurons start afresh, and a driven population takes up the sample's input current.
"""

from __future__ import annotations

from pathlib import Path
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
from lava.proc.lif.models import AbstractPyLifModelFixed, PyLifModelBitAcc
from lava.proc.lif.process import LIF


class Samples:
    """Where a population stands in the run, what it reads per sample, and the files it records to.

    spikes go to `spike_file`, one row of packed bits per step; potentials, where asked for, to `potential_file` as
    int32. Lava's [W, H, C] becomes C order over [C, H, W] on the way. Plain data: it travels into the process.
    """

    def __init__(
        self,
        *,
        n_samples: int,
        n_steps: int,
        depth: int,
        currents: np.ndarray | None,
        spike_file: Path,
        potential_file: Path | None,
    ) -> None:
        self.n_samples, self.n_steps, self.depth = n_samples, n_steps, depth
        self.currents = currents  # bias mantissas [S, ...] in Lava's axis order, or None
        self.spike_file, self.potential_file = spike_file, potential_file
        self.rows: list[np.ndarray] = []
        self.potentials: list[np.ndarray] = []

    def position(self, time_step: int) -> tuple[int, int] | None:
        """(sample, step within it) at a Lava step, both from 0; None outside the run."""
        since = time_step - 1 - self.depth
        if not 0 <= since < self.n_samples * self.n_steps:
            return None
        return divmod(since, self.n_steps)

    def record(self, position: tuple[int, int] | None, spikes: np.ndarray, v: np.ndarray) -> None:
        """Keep one step; write the files at the end of each sample."""
        if position is None:
            return
        self.rows.append(np.packbits(np.asarray(spikes).astype(bool).T.reshape(-1)))
        if self.potential_file:
            self.potentials.append(np.asarray(v).T.reshape(-1).astype("<i4"))
        if position[1] == self.n_steps - 1:
            with self.spike_file.open("ab") as f:
                f.write(np.stack(self.rows).tobytes())
            if self.potential_file:
                with self.potential_file.open("ab") as f:
                    f.write(np.stack(self.potentials).tobytes())
            self.rows, self.potentials = [], []


class SampleLIF(LIF):
    """Lava's LIF, started afresh for each sample with the sample's input current; it records itself."""

    def __init__(self, *, samples: Samples, **lif: Any) -> None:
        super().__init__(**lif)
        self.proc_params["samples"] = samples


@implements(proc=SampleLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySampleLIF(AbstractPyLifModelFixed):
    """The dynamics are Lava's: everything between two samples is AbstractPyLifModelFixed.run_spk, unchanged.

    Threshold and spike test are those of PyLifModelBitAcc, which cannot be subclassed (a model implements one process).
    """

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: int = LavaPyType(int, np.int32, precision=17)
    scale_threshold = PyLifModelBitAcc.scale_threshold
    spiking_activation = PyLifModelBitAcc.spiking_activation

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.effective_vth = 0
        self.samples = proc_params["samples"]

    def run_spk(self) -> None:
        """Start a sample as Lava's LIFReset does (u = v = 0), let Lava compute, record."""
        position = self.samples.position(self.time_step)
        if position is not None and position[1] == 0:
            self.u *= 0
            self.v *= 0
            if self.samples.currents is not None:
                self.bias_mant[:] = self.samples.currents[position[0]]
        super().run_spk()
        self.samples.record(position, self.s_out_buff, self.v)


class IntegrateFire(AbstractProcess):
    """IF neuron in Lava's integer ranges with both resets, an initial potential and a clamp (Loihi 2 microcode).

    u <- wrap(leak(u) + (a_in << 6)); v <- sat(leak(v) + u + (bias_mant << bias_exp)); s = v > vth << 6; v <- 0 or
    v - (vth << 6).
    Registers as in lava-nc 0.10.0, lava/proc/lif/models.py l.145-192: u wraps and v saturates at 24 bits.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        samples: Samples,
        vth: int,
        v_init: int,
        subtract: bool,
        clamp_until: int,
        decay: int,
        du: int,
        bias_mant: np.ndarray,
        bias_exp: int,
        name: str,
    ) -> None:
        super().__init__(shape=shape, name=name)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        for key, value in {
            "samples": samples,
            "vth": vth,
            "v_init": v_init,
            "subtract": subtract,
            "clamp_until": clamp_until,
            "decay": decay,
            "du": du,
            "bias_mant": bias_mant,
            "bias_exp": bias_exp,
        }.items():
            self.proc_params[key] = value


@implements(proc=IntegrateFire, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyIntegrateFire(PyLoihiProcessModel):
    """The neuron of IntegrateFire, in numpy integers."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.samples = proc_params["samples"]
        self.threshold = int(proc_params["vth"]) << 6
        self.v_init = int(proc_params["v_init"])
        self.subtract = bool(proc_params["subtract"])
        self.clamp_until = int(proc_params["clamp_until"])
        self.keep, self.keep_u = 4096 - int(proc_params["decay"]), 4095 - int(proc_params["du"])
        self.bias_exp = int(proc_params["bias_exp"])
        self.bias = np.asarray(proc_params["bias_mant"], np.int64) << self.bias_exp
        self.v = np.full(proc_params["shape"], self.v_init, np.int64)
        self.u = np.zeros_like(self.v)

    def run_spk(self) -> None:
        """One step."""
        a_in = self.a_in.recv().astype(np.int64)
        position = self.samples.position(self.time_step)
        step = 0 if position is None else position[1]
        if position is not None and step == 0:
            self.v[:] = self.v_init
            self.u[:] = 0
            if self.samples.currents is not None:
                self.bias = self.samples.currents[position[0]].astype(np.int64) << self.bias_exp
        fired = np.zeros(self.v.shape, bool)
        if position is not None and step >= self.clamp_until:
            u = np.sign(self.u) * ((np.abs(self.u) * self.keep_u) >> 12) + (a_in << 6)
            u = self.u = np.where(u > 1 << 23, u - (1 << 24), np.where(u <= -(1 << 23), u + (1 << 24), u))
            v = np.sign(self.v) * ((np.abs(self.v) * self.keep) >> 12) + u + self.bias
            v = np.clip(v, 1 - (1 << 23), (1 << 23) - 1)
            fired = v > self.threshold
            self.v[:] = np.where(fired, v - self.threshold if self.subtract else 0, v)
        self.s_out.send(fired.astype(np.int32))
        self.samples.record(position, fired, self.v)
