"""The commands for files of netx: deploy --via netx, export, load, and what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import neuroport as nrp
from neuroport.backends.base import Job
from neuroport.backends.cpu import CpuBackend
from neuroport.bundle import verify
from neuroport.chip.core import run_core
from neuroport.chip.files import read_network, write_network
from neuroport.chip.trace import Trace
from neuroport.cli import app
from neuroport.errors import DoesNotFitError, UsageError
from neuroport.verbs.exchange import export_netx
from neuroport.verbs.exchange_samples import read_samples
from tests.backends.netx_files import CUBA, dense, layer, write
from tests.backends.test_netx_runs import conv_chain

INPUT = {**CUBA, "vThMant": 90}

SPIKES = {"spikes": np.ones((2, 5, 6))}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def spiking(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return write(
        tmp_path / "n.net", [dense(2 * rng.integers(-30, 50, (8, 6))), dense(2 * rng.integers(-30, 50, (3, 8)))]
    )


def driven(tmp_path: Path) -> Path:
    first = layer("input", [1, 2, 3], neuron=INPUT, weight=np.array([40.0]), bias=np.array([8.0]))
    return write(tmp_path / "d.net", [first, layer("flatten", [6, 1, 1]), dense([[60, 20, 4, 8, 10, 12]])])


def data(tmp_path: Path, **arrays: object) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    return tmp_path / "data.npz"


@pytest.mark.lava
def test_deploy_via_netx_keeps_the_file_that_ran(lava: object, tmp_path: Path) -> None:
    """The bundle's file is what `export` writes of it, read back it is the same network, and every spike was equal."""
    done = run(
        "deploy", "--via", "netx", "--steps", 24, "--samples", 4, "--eval", 40, "--out", tmp_path / "b", "--json"
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["recipe"] == "hard-reset-unclamped"
    assert report["backend"]["name"] == "netx"
    assert report["backend"]["mismatches"] == 0
    assert report["backend"]["compared_spikes"] > 1000
    assert report["versions"]["lava:lava-dl"] == "0.6.0"
    verify(tmp_path / "b")
    said = run("export", tmp_path / "b", "--to", "netx", "--out", tmp_path / "n.net")
    assert said.exit_code == 0
    assert "4 layers of neurons" in said.output
    assert "reset_interval=24, reset_offset=0)" in said.output
    assert "into net.in_layer.neuron.a_in" in said.output
    for name in ("layer/1/weight", "layer/3/bias"):
        with h5py.File(tmp_path / "n.net") as ours, h5py.File(tmp_path / "b" / "network.net") as bundled:
            np.testing.assert_array_equal(ours[name][()], bundled[name][()])
    read = nrp.read_netx(tmp_path / "n.net").network
    assert (read.n_neurons, read.n_synapses) == (report["network"]["neurons"], report["network"]["synapses"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--via", "nir"], "--via 'nir' is not known; netx is"),
        (["--via", "netx", "--backend", "cpu"], "--via netx runs on Lava, not with backend 'cpu'"),
        (["--via", "netx", "--target", "cpu"], "--via netx runs on Lava, not with target 'cpu', which has no Lava"),
        (["--via", "netx", "--recipe", "robust"], "recipe 'robust' needs reset 'subtract', v_init 0.5, netx's neurons"),
        (
            ["--via", "netx", "--recipe", "hard-reset"],
            "recipe 'hard-reset' needs clamp 1, netx's neurons reset to zero",
        ),
    ],
)
def test_deploy_via_netx_refuses_before_it_reads_a_model(arguments: list[str], message: str) -> None:
    done = run("deploy", "nosuch.pt2", *arguments)
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.lava
@pytest.mark.parametrize("backend", ["netx", "lava", "cpu"])
def test_load_runs_and_compares(lava: object, tmp_path: Path, backend: str) -> None:
    net, rng = spiking(tmp_path), np.random.default_rng(1)
    spikes = (rng.random((5, 20, 6)) < 0.4).astype(np.uint8)
    given = data(tmp_path, spikes=spikes, y=np.zeros(5, int))
    done = run("load", net, "--data", given, "--backend", backend, "--samples", 4, "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert f"exact comparison with {backend}: 4 samples, 2 populations" in done.output
    assert "0 mismatches" in done.output and "every spike equal" in done.output
    assert "accuracy of the core: " in done.output
    verify(tmp_path / "b")
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert report["layers"][0]["spikes"] > 10
    page = (tmp_path / "b" / "report.html").read_text(encoding="utf-8")
    assert "Every spike is equal" in page and f"{report['backend']['compared_spikes']:,} spikes of 4 samples" in page
    names = {p.name for p in (tmp_path / "b").iterdir()}
    assert names >= {"network.h5", "network.net", "inputs.h5", "core.h5", "backend.h5", "report.json"}
    assert read_network(tmp_path / "b" / "network.h5").n_neurons == 11


@pytest.mark.lava
def test_load_of_input_neurons(lava: object, tmp_path: Path) -> None:
    """x becomes weight * x + bias, cut; currents are taken as they are: here the same numbers."""
    rng = np.random.default_rng(1)
    x = rng.random((3, 1, 2, 3))
    reports = []
    for arrays in ({"x": x}, {"currents": np.trunc(40 * x + 8).astype(int).reshape(3, 6)}):
        done = run("load", driven(tmp_path), "--data", data(tmp_path, **arrays), "--steps", 30, "--json")
        assert done.exit_code == 0, done.output
        reports.append(json.loads(done.stdout))
    assert reports[0]["backend"] == reports[1]["backend"]
    assert reports[0]["backend"]["compared_spikes"] > 10


@pytest.mark.lava
def test_a_file_that_netx_runs_differently_is_found(
    lava: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were its weights let through, the comparison would show what netx makes of them: exit code 1."""
    monkeypatch.setattr("neuroport.backends.loihi.netx_read.dense_problem", lambda weight: "")
    net = write(tmp_path / "n.net", [dense([[-64, -64]], bias=np.array([100]))])
    done = run("load", net, "--data", data(tmp_path, spikes=np.ones((2, 20, 2), np.uint8)))
    assert done.exit_code == 1
    assert "DIFFERENT" in done.output
    assert "the backend differs from the core: population '0.dense', neuron [0], sample 0, step" in done.output
    assert "it multiplies with other weights, as netx and Lava do not agree on the bits of these" in done.output


def test_load_shows_what_it_read(tmp_path: Path) -> None:
    done = run("load", driven(tmp_path), "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert "0.input" in done.output and "4096, 0" in done.output
    assert "input: 1x2x3 currents (40 x + 8); answer: count of the last layer" in done.output
    verify(tmp_path / "b")
    assert run("load", driven(tmp_path), "--quiet").output == ""


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"spikes": np.ones((2, 5, 7))}, [], "spikes has shape [2, 5, 7], the network reads [samples, steps, 6]"),
        ({"x": np.ones((2, 6))}, [], "holds x, the network reads spikes; save them under that name with numpy.savez"),
        ({"spikes": np.full((2, 5, 6), 2)}, [], "spikes holds other values than 0 and 1; give spikes"),
        ({"spikes": np.ones((2, 5, 6)), "y": np.ones(3)}, [], "3 labels for 2 samples; give one for each, or none"),
        ({"spikes": np.ones((2, 5, 6))}, ["--steps", 4], "--steps 4, but the spikes have 5 steps; leave it out"),
        (
            {"spikes": np.ones((2, 5, 6))},
            ["--backend", "no"],
            "--backend 'no' cannot run a file of netx; netx, lava, cpu can",
        ),
        (SPIKES, ["--backend", "loihi2-board"], "--backend 'loihi2-board' cannot run a file of netx; netx, lava, cpu"),
        (SPIKES, ["--input-shape", "0,2"], "--input-shape '0,2' holds numbers below 1"),
        (SPIKES, ["--input-shape", "9999,9999,99"], "--input-shape [9999, 9999, 99]: a layer may have 16,777,216 neu"),
        (SPIKES | {"y": np.array(["a", "b"])}, [], "y holds <U1, real numbers are read; save them as such"),
        (SPIKES | {"y": np.array(3)}, [], "y is a single number, its first axis counts the samples; give at least one"),
        (SPIKES | {"y": np.array([0, np.nan])}, [], "y holds nan, labels are whole numbers below 2^31; give one for"),
        (SPIKES | {"y": np.array([0.5, 1])}, [], "y holds 0.5, labels are whole numbers below 2^31"),
        (SPIKES | {"y": np.array([1, 1e30])}, [], "y holds 1e+30, labels are whole numbers below 2^31"),
        (SPIKES | {"y": np.zeros((4, 2))}, ["--samples", 1], "2 labels for 1 samples; give one for each, or none"),
        ({"spikes": np.array(1)}, [], "spikes is a single number, its first axis counts the samples; give at least on"),
        ({"spikes": np.ones((0, 5, 6))}, [], "spikes holds no samples, its first axis counts the samples; give at le"),
        ({"spikes": np.ones((2, 5, 6), complex)}, [], "spikes holds complex128, real numbers are read; save them as"),
        ({"spikes": np.ones((2, 0, 6))}, [], "spikes has 0 steps, a sample needs at least one; save spikes"),
        ({"spikes": np.ones((2, 5, 6))}, ["--input-shape", "2,x"], "--input-shape '2,x' is not a list of whole numb"),
        ({"spikes": np.ones((2, 5, 6))}, ["--input-shape", "0"], "--input-shape '0' holds numbers below 1; give C,H"),
    ],
)
def test_samples_that_do_not_suit_the_network(
    tmp_path: Path, arrays: dict[str, object], options: list[object], message: str
) -> None:
    done = run("load", spiking(tmp_path), "--data", data(tmp_path, **arrays), *options)
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": np.ones((2, 6))}, [], "the samples are input currents, which last as long as they are shown; say so wi"),
        (
            {"currents": np.full((2, 6), 0.5)},
            ["--steps", 3],
            "currents are no whole numbers; round them as the chip is",
        ),
        ({"x": np.full((2, 6), "1")}, ["--steps", 3], "x holds <U1, real numbers are read; save them as such"),
        ({"currents": np.ones((2, 6), complex)}, ["--steps", 3], "currents holds complex128, real numbers are read"),
        ({"x": np.ones((0, 6))}, ["--steps", 3], "x holds no samples, its first axis counts the samples"),
        ({"x": np.full((2, 6), 1e308)}, ["--steps", 3], "x holds infinite values or NaN, which are no currents; take"),
        ({"currents": np.full((2, 6), np.nan)}, ["--steps", 3], "currents holds infinite values or NaN, which are no"),
        ({"x": np.full((2, 6), 200)}, ["--steps", 3], "currents 8008 to 8008, loihi-sim takes -4096 to 4095; scale t"),
    ],
)
def test_currents_that_do_not_suit_the_network(
    tmp_path: Path, arrays: dict[str, object], options: list[object], message: str
) -> None:
    done = run("load", driven(tmp_path), "--data", data(tmp_path, **arrays), *options)
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")


def damaged(tmp_path: Path) -> list[bytes]:
    """No archive, an empty file, a single array, deflated data with a byte changed."""
    np.save(tmp_path / "a.npy", np.ones(3))
    np.savez_compressed(tmp_path / "z.npz", spikes=np.arange(4000))
    changed = bytearray((tmp_path / "z.npz").read_bytes())
    changed[200:260] = bytes(60)
    return [b"PK\x03\x04", b"", (tmp_path / "a.npy").read_bytes(), bytes(changed)]


def test_damaged_data(tmp_path: Path) -> None:
    for content in damaged(tmp_path):
        (tmp_path / "data.npz").write_bytes(content)
        done = run("load", spiking(tmp_path), "--data", tmp_path / "data.npz")
        assert done.exit_code == 2
        assert "cannot be read as .npz" in done.output


def test_more_samples_than_a_bundle_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs, and the number that is named runs."""
    monkeypatch.setattr("neuroport.verbs.exchange._MEMORY_MB", 1)
    given = data(tmp_path, spikes=np.zeros((900, 64, 6), np.uint8))
    options = ["load", spiking(tmp_path), "--backend", "cpu", "--data", given, "--out", tmp_path / "b"]
    done = run(*options)
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    found = re.search(r"a bundle holds .* all 900 samples of 64 steps.* the 1 MB .*; give --samples (\d+), or le", said)
    assert found is not None, said
    n_fit = int(found[1])
    assert f"{n_fit} samples fit" in said
    assert f"give --samples {n_fit}" in run(*options, "--samples", n_fit + 1).output
    whole = run(*options[:-2])  # without a bundle they run in parts
    assert whole.exit_code == 0, whole.output
    assert "exact comparison with cpu: 900 samples" in whole.output
    assert whole.output.count("on the core") > 2
    net = nrp.read_netx(tmp_path / "n.net").network
    inputs = read_samples(given, nrp.read_netx(tmp_path / "n.net"), None, n_fit).inputs
    run_core(net, inputs, record="spikes", memory_mb=1, n_threads=1)  # and is not refused
    monkeypatch.setattr("neuroport.verbs.exchange._MEMORY_MB", 0)
    assert "take more than the 0 MB that load keeps; give samples of fewer steps" in " ".join(
        run(*options).output.split()
    )


def _unfair(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    """The cpu backend adds a spike to the tenth sample of all; the size of each part is noted."""
    honest = CpuBackend.run

    def dishonest(self: CpuBackend, job: Job) -> Trace:
        trace, before = honest(self, job), sum(sizes)
        sizes.append(job.inputs.n_samples)
        if before <= 9 < sum(sizes):
            trace.spikes["1.dense"][9 - before, 3, 1] ^= 1
        return trace

    monkeypatch.setattr(CpuBackend, "run", dishonest)


def test_more_samples_than_memory_holds_run_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is the same, and so is the place where the backend differs."""
    rng, sizes = np.random.default_rng(0), list[int]()
    given = data(tmp_path, spikes=(rng.random((24, 64, 6)) < 0.4).astype(np.uint8), y=rng.integers(0, 3, 24))
    options = ["load", spiking(tmp_path), "--backend", "cpu", "--data", given, "--json"]
    whole = json.loads(run(*options).stdout)
    monkeypatch.setattr(
        "neuroport.verbs.exchange._samples_that_fit", lambda network, inputs, bits=1: 7 if bits > 1 else 24
    )
    assert json.loads(run(*options).stdout) == whole
    assert whole["backend"]["samples"] == 24
    assert 0 < whole["accuracy"] < 1
    reports = []
    for n_fit in (24, 7):
        sizes.clear()
        _unfair(monkeypatch, sizes)
        monkeypatch.setattr("neuroport.verbs.exchange._samples_that_fit", lambda *_, n=n_fit: n)
        done = run(*options)
        assert done.exit_code == 1
        assert "population '1.dense', neuron [1], sample 9, step 3" in done.output
        reports.append(json.loads(done.stdout))
        monkeypatch.undo()
    assert sizes == [7, 7, 7, 3]
    origins = [report["backend"].pop("divergence")["origins"] for report in reports]
    assert [[origin["first"]["sample"] for origin in of_one] for of_one in origins] == [[9], [9]]
    assert reports[0] == reports[1]
    assert reports[0]["backend"]["mismatches"] == 1


@pytest.mark.lava
@pytest.mark.parametrize("backend", ["netx", "lava"])
def test_parts_on_lava(lava: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    rng = np.random.default_rng(0)
    given = data(tmp_path, spikes=(rng.random((5, 12, 6)) < 0.4).astype(np.uint8))
    monkeypatch.setattr("neuroport.verbs.exchange._samples_that_fit", lambda *_: 3)
    done = run("load", spiking(tmp_path), "--backend", backend, "--data", given)
    assert done.exit_code == 0, done.output
    assert f"exact comparison with {backend}: 5 samples, 2 populations" in done.output
    assert "0 mismatches" in done.output


def test_options_of_a_run_need_data(tmp_path: Path) -> None:
    done = run("load", spiking(tmp_path), "--steps", 3, "--samples", 2, "--workers", 1)
    assert done.exit_code == 2
    assert "--steps, --samples, --workers: nothing runs without samples; give them with --data" in done.output


def test_places_to_export_to_and_from(tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    assert run("load", driven(tmp_path), "--out", bundle).exit_code == 0
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "manifest.json").write_text("{}")
    network, target = bundle / "network.h5", tmp_path / "new.net"
    before = {p: p.read_bytes() for p in bundle.iterdir()}
    cases = [
        (bundle, tmp_path / "nosuch" / "n.net", "nosuch' is no folder; make it, or choose another --out"),
        (bundle, tmp_path / "empty", "is a folder; name a file in it: "),
        (bundle, bundle / "manifest.json", "would change the source"),
        (bundle, tmp_path / "empty" / ".." / "b" / "more.net", "choose a place outside of it"),
        (network, bundle / "manifest.json", "would change the source"),
        (network, network, "would change the source"),
        (tmp_path / "nosuch", target, "nosuch' is not there; give a bundle made by `neuroport deploy`"),
        (tmp_path / "empty", target, "is a folder without manifest.json, no bundle; give a bundle made by"),
        (tmp_path / "half", target, "half' holds no network.h5; give a bundle made by"),
        (bundle, tmp_path / ("n" * 250), "': File name too long; choose another --out"),
    ]
    for source, out, message in cases:
        done = run("export", source, "--out", out)
        assert done.exit_code == 2
        assert message in done.output and ".part" not in done.output
        assert not target.exists()
    assert {p: p.read_bytes() for p in bundle.iterdir()} == before
    assert run("export", bundle, "--out", target).exit_code == 0


def test_export_of_a_network_file_and_what_is_refused(tmp_path: Path) -> None:
    net, _ = conv_chain(3)
    write_network(tmp_path / "network.h5", net)
    made = export_netx(tmp_path / "network.h5", tmp_path / "n.net")
    assert (made.n_layers, made.entry) == (5, "spikes into net.inp")
    assert made.call == "hdf5.Network(net_config='n.net', reset_interval=n_steps, reset_offset=1)"
    write_network(tmp_path / "other.h5", conv_chain(3, reset="subtract")[0])
    with pytest.raises(DoesNotFitError, match="has reset 'subtract'"):
        export_netx(tmp_path / "other.h5", tmp_path / "m.net")
    assert not (tmp_path / "m.net").exists()
    done = run("export", tmp_path / "other.h5", "--out", tmp_path / "m.net")
    assert done.exit_code == 3
    assert run("export", tmp_path / "network.h5", "--to", "onnx", "--out", tmp_path / "m.net").exit_code == 2
    assert run("export", tmp_path, "--out", tmp_path / "m.net").exit_code == 2  # no bundle
    read = nrp.read_netx(tmp_path / "n.net")
    with pytest.raises(UsageError, match=r"cannot be read as \.npz"):
        read_samples(tmp_path / "nosuch.npz", read)
