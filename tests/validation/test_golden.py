"""Golden recordings: bit for bit there and back, written once, and nothing damaged or changed is taken for whole."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings

from neuroport.chip.digest import network_hash
from neuroport.chip.trace import Trace
from neuroport.errors import BundleError, DataError, DatasheetError, GoldenError, UsageError
from neuroport.validation import golden
from neuroport.validation.golden import check_golden, read_golden, record_golden, record_run, write_golden
from neuroport.validation.recorded import read_bundle
from neuroport.validation.rerun import Reruns
from tests.chip.networks import TARGETS, networks, target
from tests.chip.test_files import assert_same_array
from tests.golden.runs import a_run, with_changed_spike, write_bundle
from tests.validation import planted

ARITHMETICS = [target(name).arithmetic for name in TARGETS]
HEAD = 512


@pytest.fixture(scope="module")
def run():
    return a_run()


@pytest.fixture
def path(run, tmp_path):
    write_golden(tmp_path / "net.golden.h5", run)
    return tmp_path / "net.golden.h5"


def sealed_again(path):
    """What somebody who knows the format could do: the checksum made anew."""
    content = path.read_bytes()
    text = b"neuroport-golden/1\nsha256 " + hashlib.sha256(content[HEAD:]).hexdigest().encode() + b"\n"
    path.write_bytes(text.ljust(HEAD - 1) + b"\n" + content[HEAD:])


def assert_same_run(a, b):
    assert network_hash(a.network) == network_hash(b.network)
    assert (a.inputs.n_samples, a.inputs.n_steps) == (b.inputs.n_samples, b.inputs.n_steps)
    assert (a.inputs.spikes is None) == (b.inputs.spikes is None)
    if a.inputs.spikes is not None:
        assert_same_array(a.inputs.spikes, b.inputs.spikes)
    assert a.inputs.currents.keys() == b.inputs.currents.keys()
    for name, x in a.inputs.currents.items():
        assert_same_array(x, b.inputs.currents[name])
    for p in (p for p in a.network.populations if p.role != "input"):
        assert_same_array(a.trace.spikes[p.name], b.trace.spikes[p.name])
    assert a.trace.potentials.keys() == b.trace.potentials.keys()
    for name, v in a.trace.potentials.items():
        assert_same_array(v, b.trace.potentials[name])


@given(networks(ARITHMETICS))
@settings(max_examples=20)
def test_a_run_comes_back_bit_for_bit_and_is_equal_again(tmp_path_factory, case):
    path = tmp_path_factory.mktemp("golden") / "n.golden.h5"
    run = record_run(*case)
    assert write_golden(path, run) == path.stat().st_size
    read = read_golden(path)
    assert_same_run(run, read.recorded)
    assert (read.network_hash, read.recorded.sheet) == (network_hash(run.network), None)
    (rerun,) = check_golden(path)
    assert rerun.is_equal


def test_the_same_run_gives_the_same_bytes_and_its_head_can_be_read(run, path, tmp_path):
    write_golden(tmp_path / "again.golden.h5", run)
    content = path.read_bytes()
    assert (tmp_path / "again.golden.h5").read_bytes() == content
    first, second = content.split(b"\n")[:2]
    assert first == b"neuroport-golden/1"
    assert second == b"sha256 " + hashlib.sha256(content[HEAD:]).hexdigest().encode()
    with h5py.File(path) as f:  # as any program reads it
        assert f.attrs["network_hash"] == network_hash(run.network)
        assert f["trace/spikes/0"].shape == (2, 32, 15)  # 120 neurons in bits
        assert {d.attrs["name"] for d in f["trace/spikes"].values()} == {"conv", "leaky", "skip", "out"}


def test_the_oracle_as_a_check(path):
    core, oracle = check_golden(path, ["cpu"])
    assert (core.name, oracle.name) == ("core", "cpu")
    assert core.is_equal and oracle.is_equal
    assert str(oracle) == "cpu: 2 samples, 2,811 spikes, every bit equal"


def test_the_first_differing_bit_is_told(run, tmp_path):
    changed = with_changed_spike(run, "leaky", (1, 7, 2, 3, 1))
    write_golden(tmp_path / "n.golden.h5", changed)
    for rerun in check_golden(tmp_path / "n.golden.h5", ["cpu"]):
        assert not rerun.is_equal
        found = rerun.comparison.first_mismatch
        assert (found.population, found.sample, found.step, found.neuron) == ("leaky", 1, 7, (2, 3, 1))
        core, other = (found.backend, found.core) if rerun.name == "core" else (found.core, found.backend)
        assert core == changed.trace.spikes["leaky"][1, 7, 2, 3, 1] != other
        assert f"{rerun.name} differs from the recording in 1 of " in str(rerun)
        assert str(found) in str(rerun)
        assert rerun.as_json()["first_mismatch"]["neuron"] == (2, 3, 1)


def test_the_rule_that_changed_is_told(run, tmp_path):
    """A recording of other arithmetic: the verdict, and both sides around the first difference."""
    altered = planted.with_population(
        run.network, "leaky", threshold_mantissa=run.network.by_name["leaky"].threshold_mantissa + 1
    )
    before = planted.run_with(run.network, run.inputs, "leaky", altered)
    write_golden(tmp_path / "n.golden.h5", replace(run, trace=before))
    (rerun,) = check_golden(tmp_path / "n.golden.h5")
    text = str(rerun)
    assert "(core: this neuroport's, backend: as recorded)" in text
    assert "population 'leaky' differs by itself" in text and "has threshold mantissa" in text
    assert "\n  v, core" in text and "\n  spike, backend" in text
    found = rerun.as_json()["divergence"]
    assert "threshold-off-by-one" in [e["rule"] for e in found["origins"][0]["explanations"]]


def test_a_potential_that_differs(run, tmp_path):
    potentials = {name: v.copy() for name, v in run.trace.potentials.items()}
    potentials["out"][0, 31, 2] += 1
    write_golden(tmp_path / "n.golden.h5", replace(run, trace=Trace(run.trace.spikes, potentials)))
    (rerun,) = check_golden(tmp_path / "n.golden.h5")
    assert rerun.comparison.first_mismatch.what == "potential"


def test_the_datasheet_for_backends(run, path):
    """neuroport's own of that name, else the one in the file, else none."""
    read = read_golden(path).recorded
    assert read.sheet.sources == {} and read.target.sources != {}
    own = replace(read, sheet=read.sheet.model_copy(update={"name": "mychip"}))
    assert own.target == own.sheet and own.sheet.energy == target("loihi1").energy
    other = replace(run.network, arithmetic=target("loihi2").arithmetic)
    assert replace(read, network=other).target.arithmetic == other.arithmetic  # as a backend narrowed it
    with pytest.raises(DatasheetError, match="unknown target 'testchip'"):
        _ = replace(run, network=replace(run.network, target="testchip"), sheet=None).target


def test_an_unknown_backend_is_told_before_anything_runs(path):
    def never(text):
        raise RuntimeError(text)

    with pytest.raises(UsageError, match="unknown backend 'nosuch'"):
        check_golden(path, ["nosuch"], Reruns(on_message=never))


def test_a_recording_is_written_once(run, path):
    before = path.read_bytes()
    with pytest.raises(GoldenError, match=r"is there already, and recordings are written once; .* with --force"):
        write_golden(path, with_changed_spike(run, "conv", (0, 0, 0, 0, 0)))
    assert path.read_bytes() == before
    write_golden(path, with_changed_spike(run, "conv", (0, 0, 0, 0, 0)), force=True)
    assert path.read_bytes() != before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.h5", r"does not end in \.golden\.h5, by which pytest finds recordings"),
        (".golden.h5", r"does not end in \.golden\.h5"),
        ("nosuch/net.golden.h5", "nosuch' is no folder; make it, or choose another place"),
        ("n" * 250 + ".golden.h5", "File name too long; choose another place"),
    ],
)
def test_places_that_are_refused(run, tmp_path, name, said):
    with pytest.raises(UsageError, match=said):
        write_golden(tmp_path / name, run)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_recording_as_it_was(run, path, monkeypatch):
    def full(self, content):
        with self.open("wb") as f:
            f.write(content[:100])
        raise OSError(28, "No space left on device", str(self))

    before = path.read_bytes()
    monkeypatch.setattr(golden.Path, "write_bytes", full)
    with pytest.raises(UsageError, match=r"cannot write .*: No space left on device; choose another place"):
        write_golden(path, run, force=True)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_every_damaged_byte_is_noticed(path):
    content = path.read_bytes()
    places = {0, 5, 16, 17, 18, 30, 90, 200, 511, 512, 513, len(content) - 1}
    places |= set(np.random.default_rng(0).integers(0, len(content), 150).tolist())
    for at in sorted(places):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
        with pytest.raises(GoldenError, match=r"damaged|has format neuroport-golden/\d"):
            read_golden(path)
    path.write_bytes(content)
    read_golden(path)


@pytest.mark.parametrize("kept", [0, 1, 16, 18, 300, 511, 512, 513, 5000, -1])
def test_a_file_that_was_cut_short(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(GoldenError, match="damaged") as caught:
        read_golden(path)
    assert caught.value.exit_code == 2
    assert "take it back from version control" in str(caught.value)


def test_something_added_behind(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(GoldenError, match="its checksum is another"):
        read_golden(path)


@pytest.mark.parametrize("name", ["trace/spikes/0", "network/projections/0/mantissa", "inputs/spikes"])
def test_a_file_that_was_edited(path, name):
    with h5py.File(path, "a") as f:
        f[name][(0,) * f[name].ndim] ^= 2
    with pytest.raises(GoldenError, match="damaged, cut short or edited"):
        read_golden(path)
    sealed_again(path)
    if name.startswith("network"):
        with pytest.raises(GoldenError, match=r"its network has the hash .* recorded was .* was exchanged"):
            read_golden(path)
    else:
        assert not check_golden(path)[0].is_equal


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("trace", "is whole, but this neuroport does not read it: "),
        ("trace/spikes/2", "holds no spikes of population 'skip'"),
        ("trace/potentials/0", "holds no potentials of population 'skip'"),
        ("inputs/spikes", "does not read it: the network needs 2 samples"),
        ("network/populations/3", "does not read it: "),
    ],
)
def test_a_file_with_a_part_missing(path, gone, said):
    with h5py.File(path, "a") as f:
        del f[gone]
    sealed_again(path)
    with pytest.raises(GoldenError, match=said):
        read_golden(path)


def test_spikes_of_another_length(path, run):
    cut = Trace({name: x[:, :30] for name, x in run.trace.spikes.items()}, run.trace.potentials)
    write_golden(path, replace(run, trace=cut), force=True)
    with pytest.raises(GoldenError, match=r"holds spikes \[2, 30, 4, 6, 5\] of population 'conv', not \[2, 32, 4, 6"):
        read_golden(path)


def test_foreign_files_other_formats_and_none(tmp_path, path):
    with h5py.File(tmp_path / "other.golden.h5", "w") as f:
        f["x"] = 1
    (tmp_path / "text.golden.h5").write_text("neuroport\n")
    for name in ("other", "text"):
        with pytest.raises(GoldenError, match="is no golden recording of neuroport, or is damaged"):
            read_golden(tmp_path / f"{name}.golden.h5")
    path.write_bytes(path.read_bytes().replace(b"golden/1", b"golden/2", 1))
    with pytest.raises(GoldenError, match="has format neuroport-golden/2, this neuroport reads neuroport-golden/1"):
        read_golden(path)
    for missing in (tmp_path / "nosuch.golden.h5", tmp_path):
        with pytest.raises(GoldenError, match=r"cannot be read: .*; make it with `neuroport golden record`"):
            read_golden(missing)


def test_a_bundle_s_first_samples(run, tmp_path):
    bundle = write_bundle(tmp_path / "b", run)
    made = record_golden(bundle, tmp_path / "one.golden.h5", n_samples=1)
    assert made.rerun.is_equal and made.network_hash == network_hash(run.network)
    read = read_golden(tmp_path / "one.golden.h5").recorded
    assert read.inputs.n_samples == 1
    assert_same_run(read, run.first(1))
    record_golden(bundle, tmp_path / "all.golden.h5")
    assert_same_run(read_golden(tmp_path / "all.golden.h5").recorded, run)
    with pytest.raises(UsageError, match=r"--samples 3: bundle '.*' holds 2 samples; give 1 to 2"):
        record_golden(bundle, tmp_path / "three.golden.h5", n_samples=3)


def test_a_bundle_that_the_core_no_longer_gives_is_not_recorded(run, tmp_path):
    bundle = write_bundle(tmp_path / "b", with_changed_spike(run, "conv", (1, 0, 0, 0, 0)))
    made = record_golden(bundle, tmp_path / "n.golden.h5")
    assert not made.rerun.is_equal and made.n_bytes == 0
    assert not (tmp_path / "n.golden.h5").exists()
    assert record_golden(bundle, tmp_path / "n.golden.h5", n_samples=1).rerun.is_equal  # sample 0 is as it was


@pytest.mark.parametrize("name", ["network", "inputs", "core"])
def test_a_bundle_without_a_run(run, tmp_path, name):
    bundle = write_bundle(tmp_path / "b", run, **{name: False})
    with pytest.raises(BundleError, match=rf"holds no {name}\.h5, so there is no run to repeat; give one that"):
        read_bundle(bundle)


def test_a_bundle_of_files_that_do_not_belong_together(run, tmp_path):
    other = a_run("loihi1", "currents")
    with pytest.raises(BundleError, match=r"core\.h5 holds no spikes of population 'conv'; it is from another network"):
        read_bundle(write_bundle(tmp_path / "a", replace(run, trace=other.trace)))
    with pytest.raises(DataError, match="the network needs 2 samples"):
        read_bundle(write_bundle(tmp_path / "b", replace(run, inputs=other.inputs, backend=run.trace)))
