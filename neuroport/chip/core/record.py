"""What a run of the core keeps, what it returns, and how much memory that takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core import spikes as bits
from neuroport.chip.core.storage import storage_of
from neuroport.chip.core.work import Words
from neuroport.chip.network import IntNetwork
from neuroport.chip.trace import Trace
from neuroport.errors import UsageError
from neuroport.snn.operators import Shape

Keep = Literal["none", "counts", "readout", "spikes", "all"]


@dataclass(frozen=True)
class Record:
    """What to keep of populations by name, besides the readouts and the sums over all samples.

    counts: each sample's spikes per neuron; spikes: every spike, in bits; potentials: after every step, of the neurons
    (indices in C order) given, None for all of them; samples: those that spikes and potentials are kept of, None for
    all.
    """

    counts: Sequence[str] = ()
    spikes: Sequence[str] = ()
    potentials: Mapping[str, Sequence[int] | None] = field(default_factory=dict)
    samples: Sequence[int] | None = None


def record_of(keep: Keep | Record, network: IntNetwork) -> Record:
    """The record a word stands for.

    'none': nothing more; 'counts': of all populations; 'readout': potentials of the heads read by them; 'spikes': of
    all populations, with counts and potentials of the readouts; 'all': potentials of all populations besides.

    Raises:
        UsageError: a population or neuron that the network does not have.
    """
    if isinstance(keep, Record):
        return _checked(keep, network)
    every = [p.name for p in network.populations]
    membranes = [head.population for head in network.heads if head.read == "membrane"]
    readouts = [p.name for p in network.populations if p.role == "readout"]
    neurons = [p.name for p in network.populations if p.role != "input"]
    match keep:
        case "none":
            return Record()
        case "counts":
            return Record(counts=every)
        case "readout":
            return Record(potentials=dict.fromkeys(membranes))
        case "spikes":
            return Record(counts=every, spikes=every, potentials=dict.fromkeys(readouts))
        case "all":
            return Record(counts=every, spikes=every, potentials=dict.fromkeys(neurons))
    raise UsageError(
        f"record '{keep}' is unknown; 'none', 'counts', 'readout', 'spikes', 'all' or a Record is possible"
    )


def _checked(record: Record, network: IntNetwork) -> Record:
    for name in (*record.counts, *record.spikes, *record.potentials):
        if name not in network.by_name:
            raise UsageError(
                f"nothing to record of '{name}': the network has the populations {', '.join(network.by_name)}"
            )
    for name, neurons in record.potentials.items():
        n = network.by_name[name].n_neurons
        if network.by_name[name].role == "input":
            raise UsageError(f"'{name}' is a spike source and has no potentials; record its spikes")
        if neurons is not None and not all(_is_index(k, n) for k in neurons):
            raise UsageError(f"potentials of neurons {list(neurons)} asked for; '{name}' has neurons 0 to {n - 1}")
    return record


def _is_index(k: object, n: int) -> bool:
    """Whether k is a whole number from 0 to n - 1."""
    return isinstance(k, int | np.integer) and not isinstance(k, bool) and 0 <= int(k) < n


def check_memory(record: Record, network: IntNetwork, n_samples: int, n_steps: int, limit_mb: int) -> None:
    """Refuse a record that would not fit.

    Raises:
        UsageError: it needs more than limit_mb.
    """
    n_kept = n_samples if record.samples is None else len(record.samples)
    size = {p.name: p.n_neurons for p in network.populations}
    watched = (size[name] if n is None else len(n) for name, n in record.potentials.items())
    needed = 4 * n_samples * sum(size[name] for name in record.counts)
    places = sum(storage_of(network, network.by_name[name]).size for name in record.spikes)
    needed += n_kept * n_steps * (places // 8 + 8 * sum(watched))
    if needed > limit_mb << 20:
        raise UsageError(
            f"the record of {n_samples} samples and {n_steps} steps needs {-(-needed >> 20)} MB, {limit_mb} MB are "
            f"allowed; record fewer populations or samples (`neuroport deploy`: --samples), or allow more (memory_mb)"
        )


@dataclass(frozen=True, eq=False)
class Raster:
    """Spikes of one population in bits: words [samples, T, n / 64], neuron k's bit at place[k]."""

    words: Words
    place: NDArray[np.int64]
    shape: Shape

    def unpack(self) -> NDArray[np.uint8]:
        """[samples, T, *shape]."""
        s, t, n_words = self.words.shape
        raster = np.empty((s * t, len(self.place)), np.uint8)
        bits.unpack(self.words.reshape(-1, n_words), self.place, raster)
        return raster.reshape(s, t, *self.shape)


@dataclass(frozen=True)
class Path:
    """How a population was computed.

    dense: fraction of steps whose sums were matrix products, the others being added up spike by spike; accumulator:
    bits of the sums; bound: the largest |sum| of weights one step can bring, which chose them; membrane: bits of the
    potentials; density: spikes per neuron and step of what arrives.
    """

    dense: float
    accumulator: int
    bound: int
    membrane: int
    density: float


@dataclass(frozen=True, eq=False)
class CoreRun:
    """What a run returns.

    readouts: [S, n] int64 of each head's population, spike counts or potentials after the last step; readout: those of
    the first head; totals: spikes per neuron over all samples [*shape] int64 of each population; overflows:
    neuron-steps in which a current left its register, or a potential at the upper end; floored: those in which a
    potential was held at the lower end; paths: how each population was computed. As recorded: counts [S, *shape]
    int32; rasters; potentials [samples, T, *shape], or [samples, T, n] of chosen neurons, int64.
    """

    readouts: Mapping[str, NDArray[np.int64]]
    readout: NDArray[np.int64]
    totals: Mapping[str, NDArray[np.int64]]
    overflows: Mapping[str, int]
    floored: Mapping[str, int]
    paths: Mapping[str, Path]
    counts: Mapping[str, NDArray[np.int32]]
    rasters: Mapping[str, Raster]
    potentials: Mapping[str, NDArray[np.int64]]

    @cached_property
    def trace(self) -> Trace:
        """What was recorded, spikes as [samples, T, *shape] uint8."""
        return Trace({name: raster.unpack() for name, raster in self.rasters.items()}, self.potentials)


def positions(samples: Iterable[int] | None, n_samples: int) -> NDArray[np.int64]:
    """[S]: where each sample stands among those recorded, -1 where it is not.

    Raises:
        UsageError: a sample that there is not, or one named twice.
    """
    if samples is None:
        return np.arange(n_samples, dtype=np.int64)
    found = np.full(n_samples, -1, np.int64)
    for k, sample in enumerate(samples):
        if not _is_index(sample, n_samples):
            raise UsageError(f"sample {sample} is to be recorded, there are samples 0 to {n_samples - 1}")
        if found[sample] >= 0:
            raise UsageError(f"sample {sample} is to be recorded twice; name each sample once")
        found[sample] = k
    return found
