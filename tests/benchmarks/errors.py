"""What can go wrong with a benchmark, apart from a path that cannot run a network."""


class BenchmarkError(Exception):
    """The benchmark ends without a result."""


class WorkerDiedError(BenchmarkError):
    """A worker ended, or answered with something else than JSON."""


class WorkerDeadlineError(BenchmarkError):
    """A worker did not answer in time."""


class UnequalSpikesError(BenchmarkError):
    """Two paths gave different spikes, so their speeds cannot be compared."""


class SaturatedError(BenchmarkError):
    """A register of the core saturated, which the other paths do not follow."""
