"""The `cpu` backend: the oracle, a second and independent implementation of the chip's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from neuroport.backends.base import Job
from neuroport.chip.oracle import run_oracle
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace, join_traces
from neuroport.errors import UsageError


class CpuBackend:
    """Runs any chip's arithmetic without a toolchain, by the int64 oracle the fast core is checked against."""

    name = "cpu"
    summary = "the int64 oracle (numpy), independent of the fast core"

    def check(self, job: Job) -> None:
        """Everything the integer network can express runs here.

        Raises:
            UsageError: workers are asked for.
        """
        if job.n_workers is not None:
            raise UsageError(
                f"--workers {job.n_workers}: backend '{self.name}' runs in one process, without workers; leave it out"
            )

    def prepare(self, target: Target, on_message: Callable[[str], None]) -> Mapping[str, str]:
        """Nothing to prepare."""
        return {}

    def run(self, job: Job) -> Trace:
        """Run the samples one by one."""
        traces = []
        for s in range(job.inputs.n_samples):
            traces.append(run_oracle(job.network, job.inputs.sample(s)))
            job.on_progress(s + 1)
        return join_traces(traces)
