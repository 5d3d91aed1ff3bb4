"""Shards on a Dask scheduler: a user's, or one with processes of this machine.

Tasks carry a few hundred bytes: networks and samples lie in a folder that the workers read. Workers that do not see it
get the networks once each, by a plugin that the scheduler also gives to workers that start later, and each shard's
samples with its task. Every wait has a deadline.
"""

from __future__ import annotations

import logging
import queue
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar

import dask
from distributed import Client, Future, KilledWorker

from neuroport.engine.parcel import Answered, Parcel, probe, run_task
from neuroport.engine.shards import Outcome
from neuroport.engine.threads import reason_of
from neuroport.engine.work import Storable, Stored
from neuroport.errors import EngineError
from neuroport.version import __version__

_Made = TypeVar("_Made")
_LOOK_S, CONNECT_S, _WORKERS_S, _STALLED_S = 1.0, 15.0, 60.0, 3600.0
_IN_FLIGHT = 4  # tasks for each thread that are with the scheduler at a time
_REDO = 3  # times that a shard which the scheduler has lost is handed out again
SETTINGS = {
    "distributed.comm.timeouts.connect": f"{CONNECT_S:.0f}s",
    "distributed.scheduler.allowed-failures": 3,  # workers that die of a shard before it counts as poisoned
    "distributed.admin.large-graph-warning-threshold": "1 GB",
}


class ClusterEngine:
    """A client of a scheduler.

    shared: where files for the workers go, a folder that all of them see if possible; None for a temporary one.
    """

    def __init__(self, client: Client, where: str, *, shared: Path | None = None) -> None:
        self.client, self.where, self.shared = client, where, shared
        self.n_threads = self._await_workers()

    @property
    def summary(self) -> str:
        """Where the work is done, and where to watch it."""
        return f"{self.where}, {self.n_threads} threads; dashboard: {self.client.dashboard_link}"

    def outcomes(self, work: Storable, shards: Sequence[slice]) -> Generator[Outcome, None, None]:
        """Each shard's outcome as it ends.

        A shard whose worker died is given to another; one that kills them, or raises, is a failed outcome.

        Raises:
            EngineError: the scheduler or all workers are gone, or nothing has ended for an hour.
        """
        ended: queue.SimpleQueue[Future | None] = queue.SimpleQueue()
        with _interrupts_to(ended), tempfile.TemporaryDirectory(prefix="neuroport-", dir=self.shared) as made:
            folder = Path(made)
            stored = work.stored(folder)
            see_it = self._see(stored.paths)
            if not see_it:
                parcel = Parcel(folder.name, {p.name: p.read_bytes() for p in stored.parcel})
                self._within(_WORKERS_S, lambda: self.client.register_plugin(parcel))
            try:
                yield from self._run(stored, list(shards), ended, ships=not see_it)
            finally:
                if not see_it and self.client.status == "running":
                    with suppress(EngineError, OSError):
                        self._within(CONNECT_S, lambda: self.client.unregister_worker_plugin(folder.name))

    def _run(
        self, work: Stored, shards: list[slice], ended: queue.SimpleQueue[Future | None], *, ships: bool
    ) -> Generator[Outcome, None, None]:
        waiting, n_lost = deque(shards), dict.fromkeys(range(len(shards)), 0)
        place = {shard.start: k for k, shard in enumerate(shards)}
        flying: dict[str, tuple[Future, slice]] = {}
        last = time.monotonic()
        try:
            while waiting or flying:
                while waiting and len(flying) < max(1, _IN_FLIGHT * self.n_threads):
                    shard = waiting.popleft()
                    # the shards are named in order: the scheduler takes the first ones first
                    raw = work.samples.raw(shard) if ships else None
                    future = self.client.submit(run_task, work, shard, raw, pure=False)
                    flying[future.key] = (future, shard)
                    future.add_done_callback(ended.put)
                try:
                    future = ended.get(timeout=_LOOK_S)
                except queue.Empty:
                    self._check_alive(last)
                    continue
                if future is None:
                    raise KeyboardInterrupt
                last = time.monotonic()
                _, shard = flying.pop(future.key)
                if future.status in ("cancelled", "lost"):
                    self._check_alive(last)
                    k = place[shard.start]
                    n_lost[k] += 1
                    if n_lost[k] <= _REDO:
                        waiting.appendleft(shard)
                    else:
                        yield Outcome(shard, None, f"the scheduler lost this shard {n_lost[k]} times")
                    continue
                yield self._outcome(future, shard)
                future.release()
        finally:
            if flying and self.client.status == "running":
                with suppress(EngineError, OSError):
                    self._within(CONNECT_S, lambda: self.client.cancel([f for f, _ in flying.values()]))

    def _outcome(self, future: Future, shard: slice) -> Outcome:
        if future.status == "error":
            error = future.exception(timeout=CONNECT_S)
            if isinstance(error, KilledWorker):
                return Outcome(
                    shard, None, f"its worker died {SETTINGS['distributed.scheduler.allowed-failures']} times"
                )
            return Outcome(shard, None, reason_of(error))
        try:
            return Outcome(shard, future.result(timeout=CONNECT_S))
        except Exception as error:  # noqa: BLE001 - whatever it is, its result cannot be had
            self._check_alive(time.monotonic())
            return Outcome(shard, None, reason_of(error))

    def _check_alive(self, last: float) -> None:
        """Refuse to wait for a scheduler that is gone, for workers that are gone, or for ever."""
        if self.client.status != "running":
            raise EngineError(
                f"the scheduler at {self.where} is gone: the connection was lost; start it again and repeat the command"
            )
        idle = time.monotonic() - last
        if idle > _WORKERS_S and not self._addresses():
            raise EngineError(f"the scheduler at {self.where} has had no worker for {idle:.0f} s; start workers for it")
        if idle > _STALLED_S:
            raise EngineError(f"no shard has ended at {self.where} for {idle:.0f} s; look at the dashboard for why")

    def _addresses(self) -> dict[str, int]:
        """Workers and their threads."""
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"]
        except (KeyError, OSError, ValueError):
            return {}
        return {address: int(worker["nthreads"]) for address, worker in workers.items()}

    def _await_workers(self) -> int:
        """Threads of the workers, once there is one."""
        try:
            self.client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError as error:
            raise EngineError(
                f"the scheduler at {self.where} has no worker after {_WORKERS_S:.0f} s; start some: dask worker ADDRESS"
            ) from error
        return sum(self._addresses().values())

    def _see(self, paths: Sequence[Path]) -> bool:
        """Whether all workers see these files; and none of them is another neuroport.

        Raises:
            EngineError: a worker cannot import neuroport, is of another version, or does not answer.
        """
        names = [str(path) for path in paths]
        asked = {a: self.client.submit(probe, names, workers=[a], pure=False) for a in self._addresses()}
        answers: list[Answered] = []
        for address, future in asked.items():
            try:
                answers.append(future.result(timeout=_WORKERS_S))
            except Exception as error:
                self._check_alive(time.monotonic())
                raise EngineError(
                    f"worker {address} cannot work for neuroport: {reason_of(error)}; install the same neuroport there"
                ) from error
            if answers[-1].version != __version__:
                raise EngineError(
                    f"worker {address} runs neuroport {answers[-1].version}, this is {__version__}; install the same "
                    f"version there"
                )
        return all(answer.sees_all for answer in answers)

    def _within(self, seconds: float, call: Callable[[], _Made]) -> _Made:
        """The call's result, where Dask offers no deadline of its own."""
        found: list[_Made] = []
        failed: list[Exception] = []

        def run() -> None:
            try:
                found.append(call())
            except Exception as error:  # noqa: BLE001 - raised again by who waits
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(seconds)
        if failed:
            raise EngineError(f"the scheduler at {self.where} refused: {reason_of(failed[0])}") from failed[0]
        if not found:
            raise EngineError(f"the scheduler at {self.where} has not answered for {seconds:.0f} s; is it overloaded?")
        return found[0]


@contextmanager
def connected(address: str, *, shared: Path | None = None) -> Iterator[ClusterEngine]:
    """An engine on the scheduler at an address.

    Raises:
        EngineError: it does not answer, or has no workers.
    """
    with dask.config.set(SETTINGS), quiet():
        try:
            client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise EngineError(
                f"no scheduler answers at '{address}' ({reason_of(error)}); start one with `dask scheduler`, or use "
                f"--scheduler local"
            ) from error
        try:
            yield ClusterEngine(client, address, shared=shared)
        finally:
            client.close(timeout=CONNECT_S)


@contextmanager
def _interrupts_to(ended: queue.SimpleQueue[Future | None]) -> Iterator[None]:
    """Ctrl-C as an entry of the queue: raised anywhere, Python drops it where it meets a callback of Dask's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def put(number: int, frame: FrameType | None) -> None:
        ended.put(None)  # a SimpleQueue can be put into while it is

    before = signal.signal(signal.SIGINT, put)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def quiet() -> Iterator[None]:
    """What Dask logs of workers that die and come back is not for the user: outcomes say what matters."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
