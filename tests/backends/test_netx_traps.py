"""What netx does without a word, shown through lava-dl itself; and that neuroport neither writes nor reads it."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from neuroport.backends.loihi import netx_weights
from neuroport.backends.loihi.netx_export import reset_offset, write_netx
from neuroport.backends.loihi.netx_read import read_netx
from neuroport.chip.core import run_core
from neuroport.errors import ConversionError, DoesNotFitError
from tests.backends.lava_networks import network
from tests.backends.netx_files import CUBA, conv, dense, layer, probe, write
from tests.backends.test_netx_runs import conv_chain

pytestmark = pytest.mark.lava

HELD = """
import importlib.util, json, sys, warnings
from pathlib import Path
import numpy as np
from lava.lib import dl
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights
warnings.simplefilter("ignore")
path = next(Path(p) / "netx" / "utils.py" for p in dl.__path__ if (Path(p) / "netx" / "utils.py").is_file())
spec = importlib.util.spec_from_file_location("netx_utils", path)
utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils)
out = []
for weight in json.load(open(sys.argv[1])):
    try:
        stored, bits, exponent, _ = utils.optimize_weight_bits(np.array(weight))
    except OverflowError:
        out.append(None)
        continue
    mode = determine_sign_mode(stored)
    held = truncate_weights(clip_weights(stored, mode, num_bits=8), mode, bits)
    out.append([held.tolist(), exponent])
json.dump(out, open(sys.argv[2], "w"))
"""


def matrices():
    """Small matrices of every sign, all sizes of weights, multiples of powers of two, and the ends of each range."""
    rng = np.random.default_rng(0)
    for _ in range(1500):
        shape, top = (rng.integers(1, 4), rng.integers(1, 5)), 2 ** rng.integers(0, 9)
        for low, high in ((-top, top), (0, top), (-top, 0), (-top, -1)):
            yield rng.integers(low, high + 1, shape) * rng.choice([1, 1, 2])
    for ends in ([-256, 254], [-255, 0], [0, 255], [-1, 0], [-128], [-64, -64], [255], [-256, 0], [300, 2], [201, -5]):
        yield np.array([ends])


def test_weights_that_are_let_through_are_what_lava_multiplies_with(lava, tmp_path):
    """netx's own function and Lava's two, on the same matrices: exactly those that come through unchanged pass."""
    given = list(matrices())
    (tmp_path / "in.json").write_text(json.dumps([w.tolist() for w in given]))
    (tmp_path / "held.py").write_text(HELD)
    command = [str(lava.python), "held.py", "in.json", "out.json"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120, stdout=subprocess.DEVNULL)
    n_passed = n_changed = 0
    for weight, found in zip(given, json.loads((tmp_path / "out.json").read_text()), strict=True):
        problem = netx_weights.dense_problem(weight)
        if found is None:
            assert "OverflowError" in problem
            continue
        held, exponent = np.array(found[0]) * 2.0 ** found[1], found[1]
        if not problem:
            assert exponent <= 0
            np.testing.assert_array_equal(held, weight)
            n_passed += 1
        elif not netx_weights.kernel_problem(weight):  # Loihi holds it: then it is netx that changes it
            assert (held != weight).any()
            n_changed += 1
    assert n_passed > 3000
    assert n_changed > 100  # among them inhibitory weights down to a power of two


def raw(lava, tmp_path, weight, rows, bias=None):
    """Output spikes [T, n] of one dense layer, as netx runs the file; by numpy, as the file says."""
    fields = {} if bias is None else {"bias": np.array(bias)}
    path = write(tmp_path / "raw.net", [dense(weight, **fields)])
    found = probe(lava, tmp_path, path, rows, len(rows) + 1)
    v = np.zeros(len(weight), np.int64)
    expected = []
    for row in rows:
        v = v + (np.array(weight) @ row << 6) + (np.array(bias if bias is not None else 0) << 6)
        expected.append(v > 60 << 6)
        v[v > 60 << 6] = 0
    return path, found, np.array(expected, float)


ONES = np.ones((6, 2), int)


def test_excitatory_weights_above_255_silence_a_layer(lava, tmp_path):
    path, found, expected = raw(lava, tmp_path, [[300, 2]], ONES)
    assert expected.all() and not found.any()
    with pytest.raises(DoesNotFitError, match=r"layer '0.dense': weights are 2 to 300, .* would become 0 without a wo"):
        read_netx(path)


def test_all_zero_weights_end_netx(lava, tmp_path):
    path = write(tmp_path / "zero.net", [dense([[0, 0]])])
    assert "OverflowError" in probe(lava, tmp_path, path, ONES, 6)
    with pytest.raises(DoesNotFitError, match=r"layer '0.dense': all weights are 0, at which netx ends"):
        read_netx(path)


def test_inhibitory_weights_down_to_a_power_of_two_are_lost(lava, tmp_path):
    """netx shifts -64 up to -256; Lava clips it to -255 and cuts it to no bits at all."""
    path, found, expected = raw(lava, tmp_path, [[-64, -64]], np.tile([1, 0], (12, 1)), bias=[100])
    assert not expected.all() and found[1:].sum() > expected[:-1].sum()
    with pytest.raises(DoesNotFitError, match=r"would change 2 weights without a word, the first from -64 to 0"):
        read_netx(path)


def test_odd_weights_of_more_than_7_bits_run_but_no_chip_holds_them(lava, tmp_path):
    path, found, expected = raw(lava, tmp_path, [[201, -5], [3, -3]], ONES)
    np.testing.assert_array_equal(found[1:], expected)
    with pytest.raises(DoesNotFitError, match=r"4 weights are odd \(the first is 201\) among -5 to 201"):
        read_netx(path)


def test_kernels_are_not_checked(lava, tmp_path):
    path = write(tmp_path / "conv.net", [layer("input", [1, 1, 2]), conv([[[[1000]]]], [1, 1, 2])])
    assert probe(lava, tmp_path, path, ONES, 4)[1:].all()
    with pytest.raises(DoesNotFitError, match=r"layer '1.conv': weights are 1000 to 1000, Loihi holds -255 to 255"):
        read_netx(path)


def test_a_layer_of_an_unknown_kind_is_ignored(lava, tmp_path):
    layers = [dense([[90, 0], [0, 90]]), layer("skip", [2]), dense([[90, 0], [0, 90]])]
    path = write(tmp_path / "skip.net", layers)
    assert probe(lava, tmp_path, path, ONES, 4)[2:].all()
    with pytest.raises(ConversionError, match=r"layer '1.skip' is of another kind than input, dense, conv and flatten"):
        read_netx(path)


def test_groups_in_an_array_end_netx(lava, tmp_path):
    path = write(tmp_path / "g.net", [layer("input", [1, 1, 2]), conv([[[[90]]]], [1, 1, 2], groups=np.array([1]))])
    assert "IndexError" in probe(lava, tmp_path, path, ONES, 4)
    with pytest.raises(ConversionError, match=r"layer '1.conv' has its groups in an array, at which netx fails"):
        read_netx(path)


def test_delays_of_a_convolution_are_ignored(lava, tmp_path):
    path = write(tmp_path / "d.net", [layer("input", [1, 1, 2]), conv([[[[90]]]], [1, 1, 2], delay=np.array([3]))])
    assert probe(lava, tmp_path, path, ONES, 4)[1:].all()
    with pytest.raises(ConversionError, match=r"layer '1.conv' delays its inputs by up to 3 steps"):
        read_netx(path)


def test_fractions_are_cut(lava, tmp_path):
    path = write(tmp_path / "f.net", [dense([[60.9, 0], [61.1, 0]])])
    found = probe(lava, tmp_path, path, ONES[:1], 2)
    assert found[1].tolist() == [0, 1]
    with pytest.raises(ConversionError, match=r"layer '0.dense' holds 60.9 in 'weight'"):
        read_netx(path)


def test_a_refractory_period_is_ignored(lava, tmp_path):
    path = write(tmp_path / "r.net", [dense([[90, 0]], {**CUBA, "refDelay": 3})])
    assert probe(lava, tmp_path, path, ONES, 6)[1:].all()
    with pytest.raises(
        ConversionError, match=r"has refDelay 3, a refractory period, which netx ignores without a word"
    ):
        read_netx(path)


@pytest.mark.parametrize("seed", [3, 4])
def test_the_reset_offset_that_is_named_keeps_samples_apart(lava, tmp_path, seed):
    """An exported file as a user runs it: plain lava-dl, a source and a sink; with netx's default, samples mix."""
    net, inputs = conv_chain(seed)
    last = replace(net.populations[-2], role="readout")  # the last that fires
    net = network([*net.populations[:-2], last], net.projections[:-1])
    write_netx(tmp_path / "n.net", net)
    n, t, depth = inputs.n_samples, inputs.n_steps, net.depth[last.name]
    rows = inputs.spikes.reshape(n * t, -1)
    core = run_core(net, inputs, record="spikes").trace.spikes[last.name].reshape(n * t, -1)
    found = {}
    for offset in (0, 1):
        how = {"reset_interval": t, "reset_offset": offset}
        out = probe(lava, tmp_path, tmp_path / "n.net", rows, n * t + depth, **how)
        found[offset] = out[depth:].reshape(n * t, -1)
    assert reset_offset(net) == 1
    np.testing.assert_array_equal(found[1], core)
    assert (found[0] != core).any()
