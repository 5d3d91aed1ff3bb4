"""Shards on a Dask scheduler: a user's, or one with processes of this machine.

Tasks carry about 2 kB: networks and samples lie in a folder that the workers read. Workers that do not see it
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
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar

import dask
from distributed import Client, Future, KilledWorker
from distributed.comm.registry import get_backend

from neuroport.engine.parcel import NotSeenError, Parcel, probe, run_task
from neuroport.engine.shards import Outcome
from neuroport.engine.threads import failed, reason_of
from neuroport.engine.work import Storable, Stored
from neuroport.errors import EngineError
from neuroport.version import __version__

_Made = TypeVar("_Made")
_LOOK_S, CONNECT_S, _WORKERS_S, _SEND_S, _STALLED_S = 1.0, 15.0, 60.0, 600.0, 3600.0
_IN_FLIGHT = 4  # tasks for each thread that are with the scheduler at a time
_REDO = 3  # times that a shard which the scheduler has lost is handed out again
_DEATHS = 3  # workers that may die of a shard before it counts as poisoned
_THREADS_S = 3.0  # workers of a cluster come one by one
_POLL_S = 0.1
SETTINGS = {
    "distributed.comm.timeouts.connect": f"{CONNECT_S:.0f}s",
    "distributed.scheduler.allowed-failures": _DEATHS,
    "distributed.admin.large-graph-warning-threshold": "1 GB",
}


class ClusterEngine:
    """A client of a scheduler.

    shared: where files for the workers go, a folder that all of them see if possible; None for a temporary one.
    """

    def __init__(self, client: Client, where: str, *, shared: Path | None = None) -> None:
        self.client, self.where = client, where
        self.shared = None if shared is None else shared.absolute()  # workers have other current directories
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
            sent: list[str] = []
            try:
                if not self._see(stored.paths):
                    self._send(stored, sent)
                yield from self._run(stored, list(shards), ended, sent)
            finally:
                if sent and self.client.status == "running":
                    with suppress(EngineError):
                        self._within(CONNECT_S, lambda: self.client.unregister_worker_plugin(folder.name))

    def _run(
        self, work: Stored, shards: list[slice], ended: queue.SimpleQueue[Future | None], sent: list[str]
    ) -> Generator[Outcome, None, None]:
        """sent: the parcel's name, once there is one; samples then go with the tasks."""
        waiting, n_lost = deque(shards), Counter[int]()
        flying: dict[str, tuple[Future, slice]] = {}
        last = counted = time.monotonic()
        try:
            while waiting or flying:
                while waiting and len(flying) < max(1, _IN_FLIGHT * self.n_threads):
                    shard = waiting.popleft()
                    try:
                        raw = work.samples.raw(shard) if sent else None
                    except Exception as error:  # noqa: BLE001 - what a worker reads is reported in the same way
                        yield failed(shard, error)
                        continue
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
                if last - counted > _THREADS_S:
                    self.n_threads, counted = self._count_threads(), last
                _, shard = flying.pop(future.key)
                outcome = self._outcome(future, shard, work, sent)
                future.release()
                if outcome is None:
                    n_lost[shard.start] += 1
                    if n_lost[shard.start] <= _REDO:
                        waiting.appendleft(shard)
                        continue
                    outcome = Outcome(shard, None, f"the scheduler lost this shard {n_lost[shard.start]} times")
                yield outcome
        finally:
            if flying and self.client.status == "running":
                with suppress(EngineError):
                    self._within(CONNECT_S, lambda: self.client.cancel([f for f, _ in flying.values()]))

    def _outcome(self, future: Future, shard: slice, work: Stored, sent: list[str]) -> Outcome | None:
        """What came of a task; None where it has to be done again."""
        try:
            if future.status == "finished":
                return Outcome(shard, future.result(timeout=CONNECT_S))
            error = future.exception(timeout=CONNECT_S) if future.status == "error" else None
        except Exception as raised:  # noqa: BLE001 - whatever it is, its result cannot be had
            error = raised if future.status == "error" else None
        if error is None:  # cancelled, or who had the result died before it was fetched
            self._check_alive(time.monotonic())
            return None
        if isinstance(error, NotSeenError):  # of a worker that came later
            if not sent:
                self._send(work, sent)
            return None
        if isinstance(error, KilledWorker):
            return Outcome(shard, None, f"more than {_DEATHS} workers died of it")
        return failed(shard, error)

    def _send(self, work: Stored, sent: list[str]) -> None:
        """Give the networks to all workers, and to those that start later."""
        parcel = Parcel(work.folder.name, {p.name: p.read_bytes() for p in work.parcel})
        sent.append(parcel.name)
        self._within(_SEND_S, lambda: self.client.register_plugin(parcel))

    def _check_alive(self, last: float) -> None:
        """Refuse to wait for a scheduler that is gone, for workers that are gone, or for ever."""
        if self.client.status != "running":
            raise self._gone()
        idle = time.monotonic() - last
        if idle > _WORKERS_S and not self._addresses():
            raise EngineError(f"the scheduler at {self.where} has had no worker for {idle:.0f} s; start workers for it")
        if idle > _STALLED_S:
            raise EngineError(f"no shard has ended at {self.where} for {idle:.0f} s; look at the dashboard for why")

    def _gone(self) -> EngineError:
        return EngineError(
            f"the scheduler at {self.where} is gone: the connection was lost; start it again and repeat the command"
        )

    def _addresses(self) -> dict[str, int]:
        """Workers and their threads."""
        info = self._within(_WORKERS_S, lambda: self.client.scheduler_info(n_workers=-1))
        return {address: int(worker["nthreads"]) for address, worker in info["workers"].items()}

    def _count_threads(self) -> int:
        """Threads of all workers; as they were counted before if the scheduler does not say."""
        try:
            return int(within(CONNECT_S, lambda: self.client.scheduler_info(n_workers=0))["total_threads"])
        except (KeyError, OSError, ValueError):
            return self.n_threads

    def _await_workers(self) -> int:
        """Threads of the workers, once there is one."""
        deadline = time.monotonic() + _WORKERS_S
        while not (found := self._addresses()):
            if time.monotonic() > deadline:
                raise EngineError(
                    f"the scheduler at {self.where} has no worker after {_WORKERS_S:.0f} s; start some: "
                    f"dask worker ADDRESS"
                )
            time.sleep(_POLL_S)
        return sum(found.values())

    def _see(self, paths: Sequence[Path]) -> bool:
        """Whether all workers see these files; and none of them is another neuroport.

        Raises:
            EngineError: a worker cannot import neuroport, is of another version, or does not answer.
        """
        names = [str(path) for path in paths]
        # beside the queues of tasks: a worker that is busy answers, and for one that dies now nobody waits
        answers = self._within(_WORKERS_S, lambda: self.client.run(probe, names, on_error="return"))
        alive = self._addresses()
        found = {address: answer for address, answer in answers.items() if address in alive}
        for address, answer in found.items():
            if isinstance(answer, Exception):
                raise EngineError(
                    f"worker {address} cannot work for neuroport: {reason_of(answer)}; install the same neuroport there"
                ) from answer
            if answer.version != __version__:
                raise EngineError(
                    f"worker {address} runs neuroport {answer.version}, this is {__version__}; install the same "
                    f"version there"
                )
        return all(answer.sees_all for answer in found.values())

    def _within(self, seconds: float, call: Callable[[], _Made]) -> _Made:
        """The call's result, where Dask offers no deadline of its own.

        Raises:
            EngineError: the scheduler is gone, refuses, or does not answer in time.
        """
        try:
            return within(seconds, call)
        except NoAnswerError as error:
            raise EngineError(
                f"the scheduler at {self.where} has not answered for {seconds:.0f} s; is it overloaded?"
            ) from error
        except Exception as error:
            if self.client.status != "running":
                raise self._gone() from error
            raise EngineError(f"the scheduler at {self.where} refused: {reason_of(error)}") from error


class NoAnswerError(TimeoutError):
    """A call has not come back in time; what it does is left to itself."""


def within(seconds: float, call: Callable[[], _Made]) -> _Made:
    """The call's result, or what it raises.

    Raises:
        NoAnswerError: there is neither in time.
    """
    found: list[_Made] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:  # noqa: BLE001 - raised again by who waits
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not found:
        raise NoAnswerError(f"no answer for {seconds:.0f} s")
    return found[0]


@contextmanager
def connected(address: str, *, shared: Path | None = None) -> Iterator[ClusterEngine]:
    """An engine on the scheduler at an address.

    Raises:
        EngineError: it does not answer, or has no workers.
    """
    with dask.config.set(SETTINGS), quiet():
        try:
            get_backend(address.partition("://")[0])  # a client that never was one takes half a minute to end
            # a scheduler that hangs takes the connection, and never says a word
            client = within(2 * CONNECT_S, lambda: Client(address, timeout=CONNECT_S, set_as_default=False))
        except (ImportError, OSError, ValueError) as error:
            raise EngineError(
                f"no scheduler answers at '{address}' ({reason_of(error)}); start one with `dask scheduler`, or use "
                f"--scheduler local"
            ) from error
        try:
            yield ClusterEngine(client, address, shared=shared)
        finally:
            with suppress(Exception):  # of a scheduler that hangs; what went wrong was told
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
