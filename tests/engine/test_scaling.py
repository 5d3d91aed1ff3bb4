"""The scaling model's arithmetic, the real scheduler with sleeping workers, and clusters that cannot work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from distributed import Client, LocalCluster

from neuroport.engine import cluster, open_engine
from neuroport.engine.cluster import ClusterEngine
from neuroport.errors import EngineError
from tests.benchmarks.scaling import Asleep, Plan, Watch, by_simulated
from tests.processes import is_alive, wait_until

pytestmark = pytest.mark.timeout(60)
SHARDS = [slice(k, k + 1) for k in range(40)]


def test_the_scheduler_with_sleeping_workers():
    found = by_simulated(4, 40, 0.05)
    assert found["tasks"] == 40
    assert found["ideal_s"] == pytest.approx(0.5)
    assert found["wall_s"] >= found["ideal_s"]


@pytest.mark.parametrize(
    ("times", "rate"),
    [([(2.0, 40)], 20), ([(2.0, 10), (4.0, 20)], 5), ([(3.0, 1), (4.0, 2), (5.0, 3), (7.0, 11)], 4)],
)
def test_the_rate_is_that_after_the_first_shards_or_of_the_only_one(times, rate):
    watch = Watch()
    watch.times = times
    assert watch.rate == rate


def test_the_plan():
    plan = Plan(images=1000, nodes=2, threads=4, image_s=1.0, shard=5, task_s=0.01, start_s=10).as_json()
    assert plan["tasks"] == 200
    assert plan["seconds"] == {"start": 10, "compute": 125.0, "scheduler": 2.0}
    assert plan["bottleneck"] == "compute"
    assert plan["total_h"] == pytest.approx(135 / 3600)
    assert plan["busy"] == 1
    assert plan["images_read_GB"] == pytest.approx(0.150528)
    assert Plan(images=1000, nodes=100, shard=1, task_s=0.1, start_s=5).as_json()["bottleneck"] == "scheduler"


@pytest.fixture
def inside():
    """A scheduler in this process."""
    options = {"processes": False, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(n_workers=1, **options) as made:
        yield made


def test_workers_of_another_version(inside, monkeypatch):
    monkeypatch.setattr(cluster, "__version__", "0.0")
    with Client(inside) as client:
        engine = ClusterEngine(client, "here")
        with pytest.raises(EngineError, match=r"runs neuroport .*, this is 0\.0; install the same version there"):
            list(engine.outcomes(Asleep(0.0), SHARDS))


def test_workers_that_go_and_none_that_comes(inside, monkeypatch):
    monkeypatch.setattr(cluster, "_WORKERS_S", 2.0)
    with Client(inside) as client:
        engine = ClusterEngine(client, "here")
        done = []
        with pytest.raises(EngineError, match=r"the scheduler at here has had no worker for \d+ s; start workers"):
            for outcome in engine.outcomes(Asleep(0.1), SHARDS):
                done.append(outcome)
                if len(done) == 3:
                    inside.scale(0)
        assert 3 <= len(done) < 40
        with pytest.raises(EngineError, match="the scheduler at here has no worker after 2 s"):
            ClusterEngine(client, "here")


def test_nothing_is_waited_for_for_ever(inside, monkeypatch):
    monkeypatch.setattr(cluster, "_STALLED_S", 1.0)
    with Client(inside) as client:
        engine = ClusterEngine(client, "here")
        with pytest.raises(EngineError, match=r"no shard has ended at here for \d+ s; look at the dashboard for why"):
            list(engine.outcomes(Asleep(4.0), SHARDS[:1]))


class Deadly(Asleep):
    """Work that kills who does its third shard."""

    def run(self, shard):
        if shard.start == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(shard)


def simulator() -> int:
    """A process of a worker's, in a group of its own as those of toolchains are."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


def test_a_shard_that_kills_its_workers_does_not_stop_the_rest(monkeypatch):
    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.allowed-failures", 0)
    with open_engine("local", workers=1) as engine:
        found = list(engine.outcomes(Deadly(0.01), SHARDS[:6]))
        wait_until(lambda: bool(engine._addresses()))
        started = engine.client.run(simulator)
    assert len(found) == 6
    failed = {outcome.shard.start: outcome.reason for outcome in found if outcome.result is None}
    assert "workers died of it" in failed[2]
    assert len(started) == 1
    assert not any(is_alive(pid) for pid in started.values())


def cannot(paths):
    raise ImportError("No module named 'neuroport'")


def test_workers_without_neuroport(inside, monkeypatch):
    monkeypatch.setattr(cluster, "probe", cannot)
    with Client(inside) as client:
        engine = ClusterEngine(client, "here")
        with pytest.raises(EngineError, match="cannot work for neuroport: ImportError: No module named 'neuroport'"):
            list(engine.outcomes(Asleep(0.0), SHARDS))
        with pytest.raises(EngineError, match=r"has not answered for 0 s; is it overloaded\?"):
            engine._within(0.05, lambda: time.sleep(1))
        with pytest.raises(EngineError, match="refused: OSError: no"):
            engine._within(5, refuse)


def refuse():
    raise OSError("no")


def test_dask_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "neuroport.engine.cluster")
    with pytest.raises(EngineError, match=r"needs Dask .* install neuroport\[cluster\]"), open_engine("local"):
        pass
