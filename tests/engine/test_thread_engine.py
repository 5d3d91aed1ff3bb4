"""Shards in this process: a backend's are run where Ctrl-C reaches them."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from neuroport.engine.shards import ShardResult
from neuroport.engine.threads import ThreadEngine
from neuroport.errors import ConversionError

SHARDS = [slice(k, k + 1) for k in range(4)]


class Work:
    """What a simulator would do."""

    networks = SimpleNamespace(backend="a simulator")

    def __init__(self, raised: BaseException) -> None:
        self.raised, self.threads = raised, []

    def run(self, shard):
        self.threads.append(threading.current_thread())
        if shard.start == 1:
            raise self.raised
        return ShardResult(np.zeros(1, np.int64), 1, np.zeros(0, np.int64))


def test_an_interrupt_of_a_backend_is_not_kept_waiting_for_the_shard():
    work = Work(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(ThreadEngine(2).outcomes(work, SHARDS))
    assert work.threads == [threading.main_thread()] * 2


@pytest.mark.parametrize(("error", "is_misfit"), [(ConversionError("too much"), True), (OSError("no"), False)])
def test_a_shard_that_fails_does_not_stop_the_rest(error, is_misfit):
    found = list(ThreadEngine(2).outcomes(Work(error), SHARDS))
    assert [outcome.result is None for outcome in found] == [False, True, False, False]
    assert found[1].reason == f"{type(error).__name__}: {error}"
    assert found[1].is_misfit is is_misfit
