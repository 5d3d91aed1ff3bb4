"""The core's entry: samples are shared among threads, or go to a device, and results are gathered."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import MappingProxyType
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core.dense import exact_products, is_exact_in_floats
from neuroport.chip.core.device import DeviceShard
from neuroport.chip.core.record import CoreRun, Keep, Record, check_memory, record_of
from neuroport.chip.core.results import Results
from neuroport.chip.core.selftest import check_kernels
from neuroport.chip.core.shard import Job, Room, Shard, Synapses
from neuroport.chip.inputs import Inputs, IntInputs, check_inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.trace import Trace
from neuroport.errors import DataError, SelfTestError, UsageError

_AT_WORK = 1 << 22  # neuron-steps of one population that a thread holds at a time
_MAX_SHARD = 16
_ON_DEVICE, _MAX_ON_DEVICE = 1 << 26, 1024  # the same on a device: sums take 8 bytes each


def run_core(
    network: IntNetwork,
    inputs: Inputs,
    *,
    record: Keep | Record = "none",
    n_threads: int | None = None,
    memory_mb: int = 2048,
    synapses: Synapses = "auto",
    device: str = "cpu",
    forced: Mapping[str, NDArray[np.uint8]] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> CoreRun:
    """Run every sample for inputs.n_steps.

    Args:
        inputs: IntInputs, or EncodedInputs, which are encoded as they are needed.
        record: what to keep besides readouts and totals; see Record, and record_of for the words.
        n_threads: threads that share the samples; all processors if None.
        memory_mb: what a record may take; what is at work does not grow with the number of samples.
        synapses: 'event' adds up the weights of arriving spikes, 'dense' multiplies matrices where that is exact here,
            'auto' chooses for each population by how many spikes arrive. The results are the same.
        device: 'cpu' is the compiled core; other names are torch's ('cuda', 'cuda:1', and 'cpu:0' for torch on the
            processor): sums by matrix products there. The results are the same.
        forced: spikes [S, T, *shape] that populations hand on instead of computing their own.
        on_progress: told the number of samples finished since it was told last.

    Raises:
        DataError: the inputs are not those of this network.
        UsageError: the record names what there is not, or takes too much memory; or there is no such device; or spikes
            are forced on what cannot fire them.
        SelfTestError: this machine does not give the reference's spikes, or the device no exact integers.
    """
    if isinstance(inputs, IntInputs):
        check_inputs(network, inputs)
    elif inputs.n_steps < 1:
        raise DataError(f"inputs of {inputs.n_steps} steps cannot be run; give at least one step")
    if synapses not in get_args(Synapses):
        raise UsageError(f"synapses '{synapses}' is unknown; use 'auto', 'event' or 'dense'")
    if n_threads is not None and n_threads < 1:
        raise UsageError(f"n_threads is {n_threads}; at least one is needed")
    kept = record_of(record, network)
    check_memory(kept, network, inputs.n_samples, inputs.n_steps, memory_mb)
    if device != "cpu":
        _check_device(device)
    _check_forced(forced or {}, network, kept, (inputs.n_samples, inputs.n_steps))
    results = Results(network, kept, inputs.n_samples, inputs.n_steps)
    _execute(results, inputs, synapses, device, n_threads, forced=forced or {}, on_progress=on_progress)
    return results.run()


def _execute(
    results: Results,
    inputs: Inputs,
    synapses: Synapses,
    device: str,
    n_threads: int | None,
    *,
    is_tested: bool = True,
    forced: Mapping[str, NDArray[np.uint8]] = MappingProxyType({}),
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Run all samples, a few at a time; results are written where they belong."""
    stop, local = np.zeros(1, np.uint8), threading.local()
    job = Job(results, synapses, stop, _tested if is_tested else lambda types: None)

    def shard_of(samples: slice, part: IntInputs) -> Shard | DeviceShard:
        if device != "cpu":
            return DeviceShard(results, device, samples, part)
        if not hasattr(local, "room"):
            local.room = Room()
        return Shard(job, local.room, samples, part)

    def run_shard(samples: slice) -> int:
        try:
            part = inputs.part(samples)
            if not isinstance(inputs, IntInputs):
                check_inputs(results.network, part)
            shard, source = shard_of(samples, part), results.network.input
            if source is not None and part.spikes is not None:
                shard.start(source, part.spikes)
            for layer in results.layout.layers:
                if stop[0]:
                    return 0
                given = forced.get(layer.population.name)
                if given is None:
                    shard.run(layer)
                else:
                    shard.start(layer.population, given[samples])
            results.add(shard.tally)
        except BaseException:
            stop[0] = 1  # the others need not finish
            raise
        return part.n_samples

    largest = max(storage.size for storage in results.layout.storages.values()) * inputs.n_steps
    n_workers = 1 if device != "cpu" else n_threads or os.cpu_count() or 1
    size = _AT_WORK // largest if device == "cpu" else _ON_DEVICE // largest
    size = max(1, min(size, _MAX_SHARD if device == "cpu" else _MAX_ON_DEVICE))
    # as many for one thread as for another
    n_shards = min(inputs.n_samples, -(-inputs.n_samples // (size * n_workers)) * n_workers)
    ends = [k * inputs.n_samples // max(n_shards, 1) for k in range(n_shards + 1)]
    shards = [slice(start, end) for start, end in pairwise(ends)]
    executor = ThreadPoolExecutor(n_workers)
    with exact_products():
        try:
            for n_done in executor.map(run_shard, shards):
                if on_progress is not None:
                    on_progress(n_done)
        except BaseException:
            stop[0] = 1
            raise
        finally:  # an interrupt waits for a step (on a device: for a population), not for a sample
            executor.shutdown(wait=True, cancel_futures=True)


def _check_forced(
    forced: Mapping[str, NDArray[np.uint8]], network: IntNetwork, record: Record, lead: tuple[int, int]
) -> None:
    """Refuse spikes for what is no population of neurons that fire, or whose potentials are asked for."""
    silent = {head.population for head in network.heads if head.read == "membrane"} | set(record.potentials)
    for name, spikes in forced.items():
        p = network.by_name.get(name)
        if p is None or p.role == "input" or name in silent:
            raise UsageError(
                f"spikes cannot be forced on '{name}': it is no population of neurons, or its potentials are read; "
                f"force those of {', '.join(q.name for q in network.populations if q.name not in silent)}"
            )
        if spikes.shape != (*lead, *p.shape) or spikes.dtype != np.uint8 or spikes.max(initial=0) > 1:
            raise UsageError(
                f"spikes forced on '{name}' have shape {list(spikes.shape)} and type {spikes.dtype}; needed are 0 and "
                f"1 in uint8 [{', '.join(map(str, (*lead, *p.shape)))}]"
            )


def _check_device(device: str) -> None:
    """Refuse a device that is not there, or that rounds what must not be rounded."""
    try:
        is_exact = is_exact_in_floats(device)
    except (AssertionError, RuntimeError) as error:  # torch's ways to say that there is no such device
        raise UsageError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}; use device='cpu'") from error
    if not is_exact:
        raise SelfTestError(f"matrix products on '{device}' give no exact integers; use device='cpu', and report this")


def _tested(types: tuple[str, str, bool]) -> None:
    check_kernels(types, _untested)


def _untested(network: IntNetwork, inputs: IntInputs) -> Trace:
    """The run that the self-test looks at."""
    results = Results(network, record_of("all", network), inputs.n_samples, inputs.n_steps)
    _execute(results, inputs, "event", "cpu", 1, is_tested=False)
    return results.run().trace
