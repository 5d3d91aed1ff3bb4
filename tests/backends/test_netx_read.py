"""Files of netx as integer networks: SLAYER's own, their ground truth, and what is refused by layer."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.backends.loihi.netx_backend import NetxBackend
from neuroport.backends.loihi.netx_export import write_netx
from neuroport.backends.loihi.netx_read import read_netx
from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork
from neuroport.errors import DoesNotFitError, ModelFileError, UnsupportedOperatorError, UsageError
from neuroport.validation.divergence import compare
from tests.backends.lava_networks import TARGET
from tests.backends.netx_files import CUBA, conv, dense, layer, write
from tests.backends.test_netx_runs import conv_chain

LOIHI = {**CUBA, "type": "LOIHI"}
KERNEL = np.arange(24).reshape(3, 2, 2, 2) - 11.0


@pytest.fixture(scope="session")
def files(lava) -> Path:
    """lava-dl's own tests, which its wheel brings along with their networks and what these should answer."""
    return next((lava.root / "lib").glob("python3.*")) / "site-packages" / "tests" / "lava" / "lib" / "dl" / "netx"


def currents(net: IntNetwork, values, n_steps) -> IntInputs:
    return IntInputs(len(values), n_steps, None, {net.populations[0].name: np.asarray(values, np.int32)})


def same_on(backend, net, inputs, tmp_path):
    folder = tmp_path / backend.name
    folder.mkdir()
    job = Job(TARGET, net, inputs, folder)
    backend.check(job)
    core = run_core(net, inputs, record="spikes").trace
    result = compare(net, inputs, core, backend.run(job))
    assert result.mismatches == 0, result.first_mismatch
    return result


@pytest.mark.lava
@pytest.mark.parametrize(("name", "n_steps"), [("tiny.net", 32), ("mnist.net", 24)])
def test_networks_of_lava_dl_run_as_netx_and_lava_run_them(files, tmp_path, name, n_steps):
    read = read_netx(files / name)
    weight, bias = read.transform
    rng = np.random.default_rng(0)
    values = np.trunc(weight * rng.random((4, *read.network.populations[0].shape)) + bias)
    inputs = currents(read.network, values, n_steps)
    for backend in (NetxBackend(files / name), LavaBackend()):
        assert same_on(backend, read.network, inputs, tmp_path).compared_spikes > 50_000


@pytest.mark.lava
def test_the_answer_of_lava_dl_to_its_tiny_network(files):
    """gts/tinynet: recorded for a sample of 17 steps, first steps left out (lava-dl 0.6.0, test_hdf5.py l.84-141)."""
    net = read_netx(files / "tiny.net").network
    image = np.load(files / "gts" / "tinynet" / "input_bias.npy").T
    expected = np.load(files / "gts" / "tinynet" / "output.npy")[0]  # [36, 1, 1, 16]
    core = run_core(net, currents(net, image[None], 17), record="spikes").trace.spikes["2.conv"][0]
    np.testing.assert_array_equal(core[:15], np.moveaxis(expected, -1, 0)[1:])
    assert core[:15].sum() > 50


@pytest.mark.lava
def test_every_layer_of_lava_dl_s_pilotnet(files):
    """gts/pilotnet_lif: spikes and potentials (before the reset) of all layers, each a step behind the one before.

    158,509 neurons; 16 steps per sample (lava-dl 0.6.0, test_hdf5_nx.py l.91-134, which needs a chip).
    """
    folder = files / "gts" / "pilotnet_lif"
    net = read_netx(folder / "network.net").network
    inputs = currents(net, np.load(folder / "image.npy").T[None], 16)
    trace = run_core(net, inputs, record="all", memory_mb=8192).trace
    n_spikes = 0
    names = ["conv-0", "conv-1", "conv-2", "conv-3", "conv-4", "fc-0", "fc-1", "fc-2"]
    for depth, (p, name) in enumerate(zip(net.populations[1:], names, strict=False), start=1):
        spikes, v = (np.stack([x.T for x in values[p.name][0]]) for values in (trace.spikes, trace.potentials))
        theirs, their_v = (np.moveaxis(np.load(folder / f"{name}{end}.npy"), -1, 0)[depth:] for end in ("", "-v"))
        n = min(16, len(theirs))
        np.testing.assert_array_equal(spikes[:n], theirs[:n], err_msg=name)
        np.testing.assert_array_equal(v[:n][spikes[:n] == 0], their_v[:n][spikes[:n] == 0], err_msg=name)
        n_spikes += int(theirs[:n].sum())
    assert n_spikes > 150_000


@pytest.mark.lava
@pytest.mark.parametrize("iDecay", [0, 410, 2048, 4096])
def test_files_without_an_input_with_decays_odd_weights_and_no_neurons(lava, tmp_path, iDecay):  # noqa: N803
    """Odd weights of 7 bits among mixed signs, a last layer that only sums, biases: by netx and by Lava."""
    rng = np.random.default_rng(5)
    cuba = {**CUBA, "iDecay": iDecay, "vDecay": 300, "vThMant": np.array([200])}
    layers = [
        dense(rng.integers(-90, 120, (12, 9)), cuba, bias=rng.integers(-5, 30, 12)),
        dense(rng.integers(-128, 128, (8, 12)), cuba, delay=np.zeros(12)),
        dense(rng.integers(-60, 60, (3, 8)), None),
    ]
    read = read_netx(write(tmp_path / "n.net", layers))
    net = read.network
    assert [p.current_decay for p in net.populations] == [None, iDecay, iDecay, 0]
    assert (net.readout, net.output.threshold_mantissa, net.output.decay) == ("membrane", 131071, 4096)
    assert "has no neurons" in read.notes[0] and "odd weights" in read.notes[1]
    inputs = IntInputs(4, 30, (rng.random((4, 30, 9)) < 0.2).astype(np.uint8), {})
    for backend in (NetxBackend(tmp_path / "n.net"), LavaBackend()):
        result = same_on(backend, net, inputs, tmp_path)
        assert result.compared_spikes > 100


@pytest.mark.parametrize("changes", [{}, {"decay": 200, "current_decay": 410}])
def test_what_was_written_is_read(tmp_path, changes):
    net, inputs = conv_chain(3, **changes)
    write_netx(tmp_path / "n.net", net)
    read = read_netx(tmp_path / "n.net").network
    ours, theirs = (run_core(n, inputs, record="spikes").trace for n in (net, read))
    assert [p.name for p in read.populations] == ["input", "1.conv", "2.conv", "3.conv", "5.dense", "6.dense"]
    for p, q in zip(net.populations, read.populations, strict=True):
        np.testing.assert_array_equal(ours.spikes[p.name].reshape(-1), theirs.spikes[q.name].reshape(-1))
        assert p.role == q.role
    np.testing.assert_array_equal(ours.potentials["e"], theirs.potentials["6.dense"])


IMAGE = layer("input", [2, 4, 3])
FINE = conv(KERNEL, [3, 3, 2])
BIG = np.full((2, 700), 200)
REFUSED = {
    "pool": ([IMAGE, layer("pool", [2, 2, 1])], r"layer '1.pool' is of another kind than input, dense, conv and fla"),
    "average": ([dense([[2, 4]]), layer("average", [1])], r"layer '1.average' is of another kind than input"),
    "recurrent": ([dense([[2, 4]]) | {"type": "dense_rec"}], r"layer '0.dense_rec' is of another kind"),
    "neuron": ([dense([[2, 4]], {**CUBA, "type": "SDNN"})], r"layer '0.dense' has SDNN neurons, CUBA \(or LOIHI\)"),
    "delay": ([dense([[2, 4]], delay=np.array([0, 5]))], r"layer '0.dense' delays its inputs by up to 5 steps"),
    "exponent": ([dense([[2, 4]], {**CUBA, "wgtExp": 2})], r"has wgtExp 2, a weight exponent, which netx ignores with"),
    "graded": ([dense([[2, 4]], {**CUBA, "gradedSpike": True})], r"has gradedSpike 1, graded spikes, which netx igno"),
    "thresholds": ([dense([[2], [4]], {**CUBA, "vThMant": [3, 4]})], r"has 2 values of 'neuron/vThMant', one for all"),
    "complex": ([layer("dense", [1], neuron=CUBA, **{"weight/real": [[1.0]]})], r"has weights \[0, 0, 0\] for 1 neur"),
    "bias": ([dense([[2, 4], [6, 8]], bias=np.array([1, 2, 3]))], r"has biases of shape \[3\] for neurons \[2\]"),
    "sizes": ([dense([[2, 4]]), dense([[2, 4]])], r"layer '1.dense' reads 2 neurons of the 1 before it"),
    "no-image": ([conv(KERNEL, [3, 3, 2])], r"layer '0.conv' is the first layer, netx needs the shape of the image"),
    "flat-conv": ([layer("input", [24]), FINE], r"layer '1.conv' reads a flat layer, netx needs an image there"),
    "kernel": ([IMAGE, conv(KERNEL[:, :1], [3, 3, 2])], r"has weights \[3, 1, 2, 2\] in 1 groups, which do not fit an"),
    "shape": ([IMAGE, conv(KERNEL, [3, 3, 3])], r"says its shape is \[3, 3, 3\], its kernel makes \[3, 3, 2\]"),
    "bare-conv": ([IMAGE, conv(KERNEL, [3, 3, 2], None)], r"layer '1.conv' has no neurons, at which netx fails"),
    "unflattened": ([IMAGE, FINE, dense(np.ones((2, 18)))], r"reads an image of \[3, 3, 2\] that nothing flattens"),
    "flattened": ([dense([[2, 4]]), layer("flatten", [1]), dense([[2]])], r"layer '2.dense' reads flattened already"),
    "flat-first": ([IMAGE, layer("flatten", [24]), FINE], r"layer '2.conv' follows a flatten layer, which netx woul"),
    "late-input": ([dense([[2, 4]]), layer("input", [1])], r"layer '1.input' is an input behind other layers"),
    "empty": ([IMAGE], r"layer '0.input' ends a file without dense or conv layers"),
    "no-type": ([{"shape": np.array([2])}], r"layer '0' has no 'type', netx needs it"),
    "type-empty": ([{"type": np.array([], "S4")}], r"layer '0' holds nothing in 'type', netx needs text there; check"),
    "type-number": ([{"type": np.array([3.0])}], r"layer '0' holds float64 in 'type', netx needs text there; check"),
    "type-bytes": ([{"type": np.array([b"\xff"])}], "layer '0.\ufffd' is of another kind than input"),
    "no-shape": ([layer("dense", [], neuron=CUBA)], r"layer '0.dense' has 'shape' \[\], 1 to 8 axes are possible"),
    "axes": ([layer("input", [1] * 70)], r"layer '0.input' has 'shape' \[1, 1, .*\], 1 to 8 axes are possible; check"),
    "negative": ([layer("input", [2, -4, 3])], r"layer '0.input' has 'shape' \[2, -4, 3\], every axis needs 1 or more"),
    "zero": ([layer("dense", [0], neuron=CUBA)], r"layer '0.dense' has 'shape' \[0\], every axis needs 1 or more"),
    "huge": ([layer("input", [4000, 4000, 4000])], r"has 'shape' \[4000, 4000, 4000\], a layer may have 16,777,216 n"),
    "nan": ([layer("input", [2.0, np.nan, 3.0])], r"layer '0.input' holds nan in 'shape', chips hold whole numbers"),
    "infinite": ([dense([[2, np.inf]])], r"layer '0.dense' holds inf in 'weight', chips hold whole numbers"),
    "1e30": ([dense([[2, 1e30]])], r"layer '0.dense' holds 2 to 1e\+30 in 'weight', numbers of 32 bits are read; ch"),
    "u64": ([dense([[2]], bias=np.array([2**64 - 1], np.uint64))], r"holds 1.84467e\+19 to 1.84467e\+19 in 'bias', nu"),
    "1-d": ([dense([[1], [2]]) | {"weight": np.ones(3)}], r"layer '0.dense' has weights \[3\] for 2 neurons"),
    "no-weight": ([dense([[1], [2]]) | {"weight": np.ones(0)}], r"layer '0.dense' has weights \[2, 0\] for 2 neurons"),
    "no-kernel": ([IMAGE, conv(np.ones((3, 2, 0, 2)), [3, 3, 2])], r"has weights \[3, 2, 0, 2\] in 1 groups, which do"),
    "padding": ([IMAGE, conv(KERNEL, [3, 1, 2], padding=np.array([-1, 0]))], r"padding \[-1, 0\], netx needs 1 or mo"),
    "stride": (
        [IMAGE, conv(KERNEL, [3, 3, 2], stride=np.array([0, 1]))],
        r"has stride \[0, 1\], dilation \[1, 1\] and",
    ),
    "groups": ([IMAGE, FINE | {"groups": 0}], r"has weights \[3, 2, 2, 2\] in 0 groups, which do not fit an image"),
    "decay": ([dense([[2, 4]], {**CUBA, "iDecay": 5000})], r"layer '0.dense': current decay 5000, loihi-sim allows 0"),
    "sum": (
        [dense(BIG)],
        r"layer '0.dense': one step can add weights up to 140000, loihi-sim's accumulator holds 131071",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused_by_layer(tmp_path, case):
    layers, message = REFUSED[case]
    with pytest.raises((UnsupportedOperatorError, DoesNotFitError), match=message):
        read_netx(write(tmp_path / "n.net", layers))


def test_a_number_between_two_layers_is_missing(tmp_path):
    path = write(tmp_path / "n.net", [dense([[2, 4]]), dense([[2]])], names=["0", "2"])
    with pytest.raises(
        UnsupportedOperatorError, match=r"has layers 0, 2, netx reads 0, 1, 2 and so on; number them so"
    ):
        read_netx(path)


def test_input_neurons_that_keep_current(tmp_path):
    """lava-dl feeds input as biases (its test_hdf5.py l.110), SLAYER through the current, our netx run as spikes."""
    path = write(tmp_path / "n.net", [layer("input", [2], neuron={**CUBA, "iDecay": 410}), dense([[2, 4]])])
    read = read_netx(path)
    assert "layer '0.input' has current decay 410: its input is added to the potential as a bias" in read.notes[0]
    job = Job(TARGET, read.network, currents(read.network, [[5, 6]], 3), tmp_path)
    LavaBackend().check(job)
    with pytest.raises(DoesNotFitError, match=r"'0.input' has current decay 410, .* linger, .*; use --backend lava"):
        NetxBackend(path).check(job)


def test_names_that_are_no_text(tmp_path):
    path = write(tmp_path / "n.net", [layer("input", [2]), dense([[2, 4]])])
    with h5py.File(path, "a") as f:
        f["layer/1"].create_dataset(b"\xff\xfe", data=3)
    assert read_netx(path).network.n_synapses == 2
    with h5py.File(path, "a") as f:
        f["layer"].create_group(b"\xff")
    with pytest.raises(UnsupportedOperatorError, match="has layers 0, 1, \ufffd, netx reads 0, 1, 2 and so on"):
        read_netx(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ModelFileError, match=r"nosuch.net' is not there"):
        read_netx(tmp_path / "nosuch.net")
    with pytest.raises(ModelFileError, match=r"' is a folder; give a file of lava-dl's netx \(.net\) in it"):
        read_netx(tmp_path)
    (tmp_path / "text.net").write_text("layer")
    with pytest.raises(ModelFileError, match=r"text.net' is not an HDF5 file of lava-dl's netx, or is damaged"):
        read_netx(tmp_path / "text.net")
    full = write(tmp_path / "n.net", [dense(np.ones((40, 50)))]).read_bytes()
    (tmp_path / "short.net").write_bytes(full[: len(full) // 2])
    with pytest.raises(ModelFileError, match=r"short.net' is not an HDF5 file of lava-dl's netx, or is damaged"):
        read_netx(tmp_path / "short.net")


def test_shapes_that_the_file_leaves_out(tmp_path):
    path = write(tmp_path / "n.net", [conv(KERNEL[..., None], [3, 3, 2], LOIHI, stride=1, padding=0, dilation=1)])
    net = read_netx(path, input_shape=(2, 4, 3)).network
    assert net.populations[0].shape == (2, 4, 3)
    assert net.projections[0].synapse.geometry.out_shape == (3, 3, 2)
    with pytest.raises(
        UnsupportedOperatorError, match=r"'0.input' has shape \[2, 4, 3\], --input-shape says \[1, 2\]; leave --in"
    ):
        read_netx(write(tmp_path / "m.net", [IMAGE, FINE]), input_shape=(1, 2))
    with pytest.raises(UnsupportedOperatorError, match=r"reads 2 neurons of the 5 before it; .* or --input-shape"):
        read_netx(write(tmp_path / "d.net", [dense([[2, 4]])]), input_shape=(5,))
    with pytest.raises(UsageError, match=r"--input-shape \[2, 0\]: every axis needs 1 or more; give C,H,W"):
        read_netx(path, input_shape=(2, 0))
    with pytest.raises(UnsupportedOperatorError, match=r"has no shape, .*; give it with --input-shape C,H,W"):
        read_netx(write(tmp_path / "s.net", [{"type": "input"}, dense([[2]])]))


def test_a_threshold_beyond_17_bits_is_one_that_nothing_reaches(tmp_path):
    """What SLAYER writes for a layer without spikes (lava-dl 0.6.0, slayer/block/base.py l.396)."""
    read = read_netx(write(tmp_path / "n.net", [dense([[2, 4]], {**CUBA, "vThMant": (1 << 18) - 1})]))
    assert read.network.output.threshold_mantissa == 131071
    assert read.network.readout == "membrane"
    assert read.notes == (
        "layer '0.dense': threshold 262143 is beyond Loihi's 17 bits and never reached; held as 131071, the largest",
    )
