"""The scaling model's arithmetic, the real scheduler with sleeping workers, and clusters that cannot work."""

from __future__ import annotations

import pytest
from distributed import Client, LocalCluster

from neuroport.engine import cluster
from neuroport.engine.cluster import ClusterEngine
from neuroport.errors import EngineError
from tests.benchmarks.scaling import Asleep, Plan, by_simulated

pytestmark = pytest.mark.timeout(60)
SHARDS = [slice(k, k + 1) for k in range(40)]


def test_the_scheduler_with_sleeping_workers():
    found = by_simulated(4, 40, 0.05)
    assert found["tasks"] == 40
    assert found["ideal_s"] == pytest.approx(0.5)
    assert found["wall_s"] >= found["ideal_s"]


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
