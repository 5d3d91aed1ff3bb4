"""What the machine can do on one thread: copying, and int8 multiply-accumulate. Prints one JSON line."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from .protocol import channel

_REPEATS = 7


def best_s(act: Callable[[], object], n: int) -> float:
    """CPU seconds of the fastest of several repeats, per call of n calls."""
    act()
    found = []
    for _ in range(_REPEATS):
        start = time.process_time()
        for _ in range(n):
            act()
        found.append((time.process_time() - start) / n)
    return min(found)


def copy_bytes_per_s(n_bytes: int, n: int) -> float:
    """Bytes read and written per second by a copy of that size."""
    source, goal = np.ones(n_bytes // 8), np.zeros(n_bytes // 8)
    return 2 * n_bytes / best_s(lambda: np.copyto(goal, source), n)


def int8_macs_per_s(side: int = 1024) -> float:
    """Multiply-accumulates per second of torch's int8 matrix product."""
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.integers(-128, 128, (side, side)).astype(np.int8)) for _ in range(2))
    b = b.t().contiguous().t()  # the layout its fast kernels take
    return side**3 / best_s(lambda: torch._int_mm(a, b), 3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    channel()(
        {
            "copy_in_cache_bytes_per_s": copy_bytes_per_s(1 << 18, 2000),
            "copy_in_memory_bytes_per_s": copy_bytes_per_s(1 << 28, 1),
            "int8_macs_per_s": int8_macs_per_s(),
        }
    )
