"""The reference core: bit-accurate integer simulation, event-driven, sharded over threads.

A few samples at a time run through the network population by population over all steps, so that what is at work stays
in the cache. The oracle (chip/oracle.py) is its judge.

run.py: the entry; record.py, results.py: what is kept; shard.py: some samples in one thread; layout.py, storage.py,
stamps.py: a network as the kernels need it; work.py, kernels.py, vectors.py, spikes.py: compiled code and what it is
handed; dense.py, device.py: matrix products; selftest.py: the trial at start-up.
"""

from neuroport.chip.core.record import CoreRun, Path, Raster, Record
from neuroport.chip.core.run import run_core

__all__ = ["CoreRun", "Path", "Raster", "Record", "run_core"]
