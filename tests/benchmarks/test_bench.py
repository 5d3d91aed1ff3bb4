"""The benchmark's own parts on tiny networks: equal spikes, counted operations, the report's keys. Nothing is timed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from neuroport.chip.core import run_core
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntSparse, as_sparse, n_synapses
from neuroport.snn.operators import ConvGeometry
from tests.benchmarks import __main__ as bench
from tests.benchmarks import lava_runs
from tests.benchmarks.cases import Reference, write_case
from tests.benchmarks.errors import (
    BenchmarkError,
    SaturatedError,
    UnequalSpikesError,
    WorkerDeadlineError,
    WorkerDiedError,
)
from tests.benchmarks.measure import Command, Track, Worker, measure, ratio
from tests.benchmarks.networks import cnn, mlp, resnet20, totals_of
from tests.benchmarks.paths import HERE, ROOT, own
from tests.benchmarks.synops import count_synops, fan_out
from tests.benchmarks.table import as_markdown
from tests.benchmarks.workers.torch_loop import StepLoop, prepare_loop

TINY = {
    "mlp": lambda: mlp(5, 20, (30, 40, 24, 10)),
    "cnn": lambda: cnn(5, 16, 16, (3, 4)),
    "resnet20": lambda: resnet20(3, 12, 8, 4, 2),
}
KEYS = {
    "network",
    "path",
    "samples_steps_per_s",
    "synops_per_s",
    "peak_rss_mb",
    "vs_lava_maths",
    "vs_torch_loop",
}


@pytest.mark.parametrize("name", TINY)
def test_torch_loop_gives_the_cores_spikes(name, tmp_path):
    case = TINY[name]()
    write_case(tmp_path, case)
    prepared = prepare_loop(tmp_path, StepLoop)
    reference = Reference(case)
    totals = reference.totals(prepared.n_samples, prepared.n_steps)
    assert set(prepared.totals) == {p.name for p in case.network.populations}
    assert all(totals[name].sum() for name in prepared.totals)
    reference.check("torch-loop", prepared.totals, prepared.n_samples, prepared.n_steps)
    counts = prepared.run()  # what is timed gives the same answer
    np.testing.assert_array_equal(counts.sum(0), totals[case.network.output.name])


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_torch_loop_does_not_depend_on_its_layout(batch, channels_last, tmp_path):
    from tests.benchmarks.workers.plain import read_plain

    case = TINY["cnn"]()
    write_case(tmp_path, case)
    plain = read_plain(tmp_path / "plain.npz")
    counts = StepLoop(plain, batch, channels_last).run(plain.n_steps)
    np.testing.assert_array_equal(counts.sum(0), totals_of(case.network, case.inputs)["dense"])


@pytest.mark.parametrize("name", TINY)
def test_layers_fire_at_the_rate(name):
    case = TINY[name]()
    n = case.inputs.n_samples * case.inputs.n_steps
    totals = totals_of(case.network, case.inputs)
    rates = [totals[p.name].mean() / n for p in case.network.populations if p.role != "input"]
    assert 0.04 < float(np.mean(rates)) < 0.12  # ten output neurons of a tiny network move in large steps


def brute_force_synops(case):
    """Spike by spike, synapse by synapse, over a matrix of ones."""
    totals, n = totals_of(case.network, case.inputs), 0
    for j in case.network.projections:
        ones = as_sparse(replace(j.synapse, mantissa=np.ones_like(j.synapse.mantissa)))
        for column in ones.columns:
            n += int(totals[j.pre].reshape(-1)[column])
    return n


@pytest.mark.parametrize("name", TINY)
def test_synops_are_counted_right(name):
    case = TINY[name]()
    found = count_synops(case.network, totals_of(case.network, case.inputs))
    assert found == brute_force_synops(case) > 0


GEOMETRIES = [
    ConvGeometry((4, 7, 6), (6, 4, 5), (3, 2), (2, 1), (1, 0), (1, 1), 2),
    ConvGeometry((2, 5, 5), (2, 3, 4), (3, 3), (2, 1), (0, 1), (1, 1), 2),
    ConvGeometry((2, 6, 6), (4, 5, 6), (2, 2), (1, 1), (-1, 2), (2, 3), 1),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", [IntConv2d, IntConvTranspose2d])
def test_fan_out_of_any_geometry(geometry, kind):
    first, second = geometry.out_shape[0], geometry.in_shape[0]
    if kind is IntConvTranspose2d:
        first, second = second, first
    ones = kind(np.ones((first, second // geometry.groups, *geometry.kernel), np.int32), geometry)
    n_in = int(np.prod(geometry.in_shape))
    found = fan_out(ones, n_in)
    assert found.sum() == n_synapses(ones)
    np.testing.assert_array_equal(found, np.bincount(as_sparse(ones).columns, minlength=n_in))


def test_fan_out_of_sparse_synapses():
    synapse = IntSparse(np.array([1, 0, 3], np.int32), np.array([0, 2, 2]), np.array([0, 2, 3]))
    np.testing.assert_array_equal(fan_out(synapse, 4), [1, 0, 2, 0])


def test_other_spikes_are_refused():
    case = TINY["mlp"]()
    reference = Reference(case)
    wrong = {name: x.reshape(-1).tolist() for name, x in reference.totals(5, 20).items()}
    reference.check("path", wrong, 5, 20)
    wrong["dense2"][3] += 1
    with pytest.raises(UnequalSpikesError, match="path gives other spike counts than the core for 1 of 24 neurons"):
        reference.check("path", wrong, 5, 20)


def test_saturated_registers_are_refused():
    case = TINY["resnet20"]()
    currents = {name: np.full_like(x, -4096) for name, x in case.inputs.currents.items()}
    inputs = replace(case.inputs, n_steps=80, currents=currents)
    with pytest.raises(SaturatedError, match="resnet20: registers saturated"):
        Reference(replace(case, inputs=inputs)).totals(3, 80)


def test_the_report_has_its_keys(monkeypatch, tmp_path):
    monkeypatch.setattr(bench.networks, "CASES", TINY)
    monkeypatch.setattr(bench, "_QUICK", dict.fromkeys(TINY, ()))
    monkeypatch.setattr(bench, "ask_once", lambda command: ONCE[command.path])
    out = tmp_path / "bench.json"
    assert bench.main(["--networks", "mlp", "--paths", "torch-loop", "--quick", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert [r["path"] for r in report["results"]] == ["core", "torch-loop"]
    assert {"machine", "results"} <= set(report)
    for result in report["results"]:
        assert set(result) >= KEYS
        assert result["vs_lava_maths"] is None
        assert min(result["samples_steps_per_s"], result["synops_per_s"], result["peak_rss_mb"]) > 0
    core, loop = report["results"]
    assert loop["vs_torch_loop"] == 1
    assert core["spread"]["vs_torch_loop"]["min"] <= core["vs_torch_loop"] <= core["spread"]["vs_torch_loop"]["max"]
    text = as_markdown(report)
    assert "| mlp | core |" in text
    assert report["machine"]["cpu"] in text


ONCE = {
    "peaks": {"copy_in_cache_bytes_per_s": 2e11, "copy_in_memory_bytes_per_s": 2e10, "int8_macs_per_s": 5e11},
    "scaling": {
        "base": {"samples": 1, "steps": 2, "neurons": 3, "rate": 0.1},
        "axes": [{"axis": "steps", "exponent": 1.0, "last_doubling": 2.0, "points": [{"steps": 2}, {"steps": 4}]}],
    },
}


def test_ratios_are_those_of_neighbours():
    a, b = (Track(name, 1, 2, 50, "") for name in "ab")
    a.runs = [{"cpu_s": s, "wall_s": 9.0} for s in (1.0, 2.0, 4.0)]
    b.runs = [{"cpu_s": s, "wall_s": 3.0} for s in (2.0, 4.0, 4.0)]
    assert ratio(a, b) == {"min": 1.0, "median": 2.0, "max": 2.0}
    assert ratio(a, None) is None
    two = replace(a, threads=2)
    assert two.rates == [100 / 9] * 3
    assert ratio(two, b) == {"min": 1 / 3, "median": 1 / 3, "max": 1 / 3}  # wall time on both sides


def fake(body: str) -> Command:
    return Command("fake", [sys.executable, "-c", body], ROOT, os.environ)


def test_a_worker_that_dies_is_reported_with_its_words():
    with pytest.raises(WorkerDiedError, match=r"fake: its worker ended with exit status 3; it said:\nno memory"):
        measure([fake("import sys; sys.stderr.write('no memory'); sys.exit(3)")], lambda *_: None, 1, lambda _: None)


def test_a_worker_that_hangs_is_ended():
    worker = Worker(fake("import time; time.sleep(60)"))
    with pytest.raises(WorkerDeadlineError, match=r"fake: no answer after 0 s"):
        worker.answer(0.2)
    worker.stop()
    assert worker.process.poll() is not None


def test_a_path_that_cannot_run_a_network_is_left_out():
    body = "import json; print(json.dumps({'unsupported': 'no leak'}))"
    assert measure([fake(body)], lambda *_: None, 1, lambda _: None) == ([], {"fake": "no leak"})


def test_main_reports_what_failed(monkeypatch, capsys, tmp_path):
    def fail(options, say):
        raise BenchmarkError("no machine")

    monkeypatch.setattr(bench, "benchmark", fail)
    assert bench.main(["--out", str(tmp_path / "b.json")]) == 1
    assert "BenchmarkError: no machine" in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()


@pytest.mark.lava
def test_lavas_own_models_give_the_cores_spikes(lava, tmp_path):
    from tests.benchmarks.paths import foreign

    for name, make in TINY.items():
        folder = tmp_path / name
        folder.mkdir()
        case = make()
        write_case(folder, case)
        command = foreign("lava-maths", lava.python, "lava_maths", str(folder))
        tracks, left_out = measure([command], Reference(case).check, 1, lambda _: None)
        assert not left_out
        assert tracks[0].runs[0]["cpu_s"] > 0


@pytest.mark.lava
def test_neuroports_runs_of_lava_and_the_scripts_give_the_cores_spikes(lava, monkeypatch, tmp_path, capsys):
    tiny = [TINY["mlp"](), lava_runs.reset_to_zero(TINY["cnn"]())]
    monkeypatch.setattr(lava_runs, "chains", lambda quick: tiny)
    out = tmp_path / "bench.json"
    assert bench.main(["--lava-runs", "--rounds", "1", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert [row["network"] for row in report["lava_runs"]] == ["mlp", "cnn"]
    for row in report["lava_runs"]:
        assert row["compared_spikes"] > 100
        assert row["running"]["median"] > 0 and row["whole"]["median"] > 0
    assert report["start_up"]["median_s"] > 0
    assert "| mlp | 5 x 20 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        ([(12.0, 1), (14.0, 5)], 40),
        ([(11.0, 0), (12.0, 3), (16.0, 5)], 20),
        ([(14.0, 5)], 25),
        ([(14.0, 5), (14.1, 5)], 25),
    ],
)
def test_speed_is_counted_from_the_first_news_or_from_the_start_when_all_came_at_once(progress, expected):
    inputs = TINY["mlp"]().inputs
    assert (inputs.n_samples, inputs.n_steps) == (5, 20)
    assert lava_runs.steps_per_s(10.0, progress, inputs) == expected


@pytest.mark.lava
def test_a_script_with_other_spikes_is_refused(lava):
    case = lava_runs.reset_to_zero(TINY["cnn"]())
    expected = run_core(case.network, case.inputs, record="spikes").trace
    expected.spikes["conv2"][-1, -1, 0, 0, 0] ^= 1
    with pytest.raises(UnequalSpikesError, match="cnn: the script gives other spikes than the core in 'conv2'"):
        lava_runs.by_hand(case, expected)


def test_workers_lie_where_commands_look():
    for name in (
        "core",
        "torch_loop",
        "peaks",
        "scaling",
        "lava_maths",
        "lava_runtime",
        "lava_script",
        "spikingjelly_loop",
    ):
        assert (HERE / "workers" / f"{name}.py").exists()
    assert own("core", "core").folder == ROOT
