"""How a worker talks to the benchmark: a line in, a run, a line of JSON out. Python 3.10 and the standard library."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class UnsupportedError(Exception):
    """This path cannot run this network; the text says why."""


@dataclass
class Prepared:
    """A path ready to run.

    run: what is timed. totals: spikes per neuron of the populations that the path knows, of `n_samples` samples of
    `n_steps` steps. children: pids of other processes that take part; then only wall time is given.
    """

    run: Callable[[], Any]
    totals: dict[str, list[int]]
    n_samples: int
    n_steps: int
    note: str = ""
    children: Callable[[], Iterable[int]] = field(default=lambda: ())


def channel() -> Callable[[dict[str, Any]], None]:
    """Return what sends an answer; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    return answer


def serve(prepare: Callable[[], Prepared]) -> None:
    """Prepare, say so, then run once for every line that comes in."""
    answer = channel()
    try:
        prepared = prepare()
    except UnsupportedError as reason:
        answer({"unsupported": str(reason)})
        return
    answer(
        {
            "totals": prepared.totals,
            "n_samples": prepared.n_samples,
            "n_steps": prepared.n_steps,
            "note": prepared.note,
        }
    )
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        prepared.run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        children = list(prepared.children())
        memory = peak_rss_mb() + sum(peak_rss_mb(pid) for pid in children)
        answer({"wall_s": wall, "cpu_s": None if children else cpu, "peak_rss_mb": memory})


def peak_rss_mb(pid: int | None = None) -> float:
    """Largest resident memory of the process so far, in MB of 10^6 bytes.

    Linux's getrusage inherits that of the process which started this one, so its own record is read there.
    """
    status = Path(f"/proc/{pid or 'self'}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
