"""Builds Lava's processes as `network` does, with input currents as graded spikes."""

from __future__ import annotations

from pathlib import Path

import network
from network import Job, Network, read_job

__all__ = ["build", "read_job"]


def build(job: Job, work_dir: Path) -> Network:
    """Processes for every population, projection and input current, connected."""
    return network.build(job, work_dir, graded=True)
