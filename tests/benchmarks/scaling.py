"""How evaluation scales: `python -m tests.benchmarks.scaling`, with --bundle and --data on a network of one's own.

Measured: the same samples by 1 and 2 processes, and what the real scheduler manages, with simulated workers whose tasks
only sleep. Computed from these: hours, data and scheduler load of a run of any size (`Plan`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster

from neuroport.engine.cluster import SETTINGS, ClusterEngine, quiet
from neuroport.engine.samples import HeldSamples
from neuroport.engine.shards import ShardResult
from neuroport.validation.outputs import TestSet
from neuroport.verbs.evaluate import EvaluateOptions, evaluate


@dataclass(frozen=True)
class Asleep:
    """Work whose tasks take a time and answer as many bytes as real ones do."""

    seconds: float
    n_classes: int = 15
    n_steps: int = 64
    folder: Path = Path("/")
    paths: tuple[Path, ...] = ()
    parcel: tuple[Path, ...] = ()

    @property
    def samples(self) -> HeldSamples:
        return HeldSamples(TestSet(np.zeros((0, 1), np.float32), np.zeros(0, np.int64)))

    def stored(self, folder: Path) -> Asleep:
        return self

    def moved(self, folder: Path) -> Asleep:
        return self

    def run_raw(self, shard: slice, raw: object) -> ShardResult:
        return self.run(shard)

    def run(self, shard: slice) -> ShardResult:
        time.sleep(self.seconds)
        return ShardResult(np.zeros(self.n_classes, np.int64), 0, np.zeros(self.n_steps, np.int64))


@dataclass(frozen=True)
class Plan:
    """A run on a cluster, computed.

    threads, processes: of each node; image_s: one image on one thread; task_s: what the scheduler and the client take
    for a task; start_s: until a worker has read its network and its compiled code.
    """

    images: int = 50_000
    nodes: int = 100
    threads: int = 32
    processes: int = 1
    image_s: float = 1.0
    shard: int = 1
    image_bytes: int = 3 * 224 * 224
    network_bytes: int = 110_000_000
    task_s: float = 0.002
    start_s: float = 60.0

    def as_json(self) -> dict[str, Any]:
        """Seconds by what limits them; the largest is the bottleneck."""
        tasks = -(-self.images // self.shard)
        rounds = -(-tasks // (self.nodes * self.threads))
        compute = rounds * self.shard * self.image_s
        limits = {"start": self.start_s, "compute": compute, "scheduler": tasks * self.task_s}
        return dataclasses.asdict(self) | {
            "tasks": tasks,
            "seconds": limits,
            "bottleneck": max(limits, key=lambda name: limits[name]),
            "busy": self.images * self.image_s / (self.nodes * self.threads) / compute,
            "total_h": (self.start_s + max(compute, limits["scheduler"])) / 3600,
            "images_read_GB": self.images * self.image_bytes / 1e9,
            "networks_read_GB": self.nodes * self.processes * self.network_bytes / 1e9,
            "sent_with_tasks_and_results_MB": tasks * (2000 + 8 * (self.shard + 64)) / 1e6,
        }


def by_workers(bundle: Path | None, data: Path | None, n: int | None, rounds: int) -> dict[str, Any]:
    """Seconds of the same evaluation by one and by two processes, in turn; their answers must be equal."""
    watches: dict[int, list[Watch]] = {1: [], 2: []}
    answers: set[tuple[int, bytes]] = set()
    bounds: list[float] = []
    for _ in range(rounds):
        bounds.append(of_the_machine())
        for workers, found in watches.items():
            found.append(Watch())
            options = EvaluateOptions(
                model=bundle, data=data, samples=n, target=None if bundle else "cpu", scheduler="local", workers=workers
            )
            result = evaluate(options, found[-1])
            answers.add((result.evaluation.n_right, result.evaluation.classes.tobytes()))
    rates = {k: [watch.rate for watch in found] for k, found in watches.items()}
    seconds = {k: [watch.times[-1][0] - watch.began for watch in found] for k, found in watches.items()}
    return {
        "samples": result.evaluation.n,
        "are_equal": len(answers) == 1,
        "samples_per_s": rates,
        "speedup_of_an_empty_loop": bounds,
        "speedup": statistics.median(rates[2]) / statistics.median(rates[1]),
        "seconds_with_first_import_and_compilation": seconds,
        "speedup_with_these": statistics.median(seconds[1]) / statistics.median(seconds[2]),
    }


class Watch:
    """Times of a run whose shards have begun; the rate is that after the first ones, which import and compile.

    A run of one shard is counted from its start.
    """

    def __init__(self) -> None:
        self.began = 0.0
        self.times: list[tuple[float, int]] = []

    def stage(self, text: str) -> None:
        if "steps each" in text:
            self.began = time.monotonic()

    def samples(self, n_done: int, n_total: int) -> None:
        self.times.append((time.monotonic(), n_done))

    @property
    def rate(self) -> float:
        times = [(self.began, 0), *self.times]
        (first, n_first), (last, n_last) = times[min(3, len(times) - 2)], times[-1]
        return (n_last - n_first) / (last - first)


def spun(seconds: float) -> float:
    """Rounds a second of a loop that needs nothing but a processor."""
    n, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        n += 1
    return n / seconds


def of_the_machine(seconds: float = 3.0) -> float:
    """What two processes can be faster than one here and now, beside whatever else runs: the bound of any speed-up."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(spun, (0.1, 0.1)))
        one = spun(seconds)
        return sum(pool.map(spun, (seconds, seconds))) / one


def by_simulated(n_workers: int, n_tasks: int, seconds: float) -> dict[str, Any]:
    """The real scheduler with workers that sleep: tasks a second, and how far from the ideal."""
    with dask.config.set(SETTINGS), quiet():
        options = {"n_workers": n_workers, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
        with LocalCluster(**options, memory_limit=0) as cluster, Client(cluster) as client:
            engine = ClusterEngine(client, "simulated")
            began, cpu = time.monotonic(), time.process_time()
            n = sum(1 for _ in engine.outcomes(Asleep(seconds), [slice(k, k + 1) for k in range(n_tasks)]))
            wall, cpu = time.monotonic() - began, time.process_time() - cpu
    ideal = -(-n // n_workers) * seconds
    return {
        "workers": n_workers,
        "task_s": seconds,
        "tasks": n,
        "wall_s": wall,
        "ideal_s": ideal,
        "efficiency": ideal / wall,
        "tasks_per_s": n / wall,
        "cpu_s_per_task": cpu / n,  # of scheduler, client and simulated workers together
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="the digits network if left out")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image-s", type=float, default=Plan.image_s, help="one image on one core, for the plan")
    options = parser.parse_args(argv)
    report: dict[str, Any] = {"load_average": os.getloadavg()}
    report["workers"] = by_workers(options.bundle, options.data, options.samples, options.rounds)
    report["simulated"] = [by_simulated(n, 10 * n, s) for n, s in ((10, 0.2), (100, 1.0), (200, 2.0))]
    report["simulated"].append(by_simulated(100, 3000, 0.0))
    task_s = 1 / report["simulated"][-1]["tasks_per_s"]
    report["plan"] = [Plan(image_s=options.image_s, task_s=task_s, shard=shard).as_json() for shard in (1, 4, 16)]
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
