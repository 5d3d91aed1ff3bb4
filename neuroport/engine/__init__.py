"""The evaluation engine: samples in shards, run in this process, on processes of this machine, or on a Dask cluster.

shards.py: what a shard is and what comes back; work.py: what is done with one, by whoever has it; threads.py,
cluster.py: who does it; start.py: which of them --scheduler names; evaluate.py: the whole, from samples to an accuracy.
"""

from neuroport.engine.evaluate import Evaluation, evaluate_samples
from neuroport.engine.start import open_engine

__all__ = ["Evaluation", "evaluate_samples", "open_engine"]
