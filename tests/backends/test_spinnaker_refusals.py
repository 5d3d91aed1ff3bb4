"""What SpiNNaker cannot do is refused before anything is written; no toolchain is needed to say so."""

from dataclasses import replace

import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.registry import backend_names, get_backend, get_runner_and_mapper
from neuroport.backends.spinnaker.backend import Brian2Backend, NestBackend
from neuroport.backends.spinnaker.export import write_export
from neuroport.backends.spinnaker.hardware import SpinnakerBoard, find_settings
from neuroport.backends.spinnaker.virtual import SpinnakerVirtual
from neuroport.chip.inputs import IntInputs
from neuroport.errors import DataError, DoesNotFitError, ToolchainMissingError, UsageError
from tests.backends import lava_networks as loihi
from tests.backends.spinnaker_networks import LEAKY, TARGET, network
from tests.chip import networks as chip


def refused(folder, net, inputs):
    with pytest.raises(DoesNotFitError) as caught:
        write_export(folder / "pynn", net, inputs)
    assert not (folder / "pynn").exists()
    assert caught.value.exit_code == 3
    return str(caught.value)


def of_loihi(**neuron):
    rng = np.random.default_rng(0)
    populations = [loihi.source((4,)), loihi.population(rng, "out", (3,), role="readout", **neuron)]
    head = loihi.IntHead("out", "count")
    net = loihi.network(populations, [loihi.IntProjection("input", "out", loihi.dense(rng, 4, 3))], [head])
    return net, loihi.spikes(rng, 1, 4, (4,))


def test_a_soft_reset(tmp_path):
    message = refused(tmp_path, *of_loihi(reset="subtract"))
    assert "layer 'out' resets by 'subtract', sPyNNaker's neurons only to zero; deploy with --target" in message


def test_a_clamp(tmp_path):
    assert "layer 'out' waits until step 3 (clamp)" in refused(tmp_path, *of_loihi(clamp_until=3))


def test_a_current_that_stays(tmp_path):
    assert "layer 'out' keeps a part of its current (decay 9)" in refused(tmp_path, *of_loihi(current_decay=9))


def test_the_arithmetic_of_another_chip(tmp_path):
    message = refused(tmp_path, *of_loihi())
    assert "target 'loihi-sim' computes differently from sPyNNaker's neurons (if-trunc-delta, if-curr-delta)" in message


def test_a_gate(tmp_path):
    populations = [chip.source((1, 2, 2)), chip.gate("out", (1, 1, 1), role="readout")]
    net = chip.network_of(chip.target("cpu").arithmetic, populations, [chip.windows((1, 2, 2), (1, 1, 1))])
    assert "layer 'out' is a max-pool gate" in refused(tmp_path, net, chip.spikes_of(np.zeros((2, 1, 2, 2))))


def test_a_start_that_would_leak_away(tmp_path):
    assert "layer 'conv' starts at 64 and leaks before its first input" in refused(tmp_path, *network(LEAKY, v_init=64))


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (-5000, "layer 'conv' starts at -5000, below 0 where its potentials end before its first input arrives"),
        (200 << 8, "layer 'conv' starts at 51200, at or above its threshold, and fires before its first input"),
    ],
)
def test_a_start_that_would_not_last_until_the_first_input(tmp_path, v, message):
    """All layers run from the first step on, the deeper ones without input; the core's wait."""
    assert message in refused(tmp_path, *network(v_init=v))


def test_an_input_current_that_does_not_fit_beside_the_weights(tmp_path):
    net, _ = network(driven=True)
    too_much = IntInputs(1, 4, None, {"image": np.full((1, 1, 8, 8), 65536, np.int32)})
    message = refused(tmp_path, net, too_much)
    assert "layer 'image': an input current of 65536 beside weights of up to 0, spinnaker1 adds up 65535" in message


def test_inputs_of_another_network(tmp_path):
    net, _ = network()
    with pytest.raises(DataError, match="encode the inputs for this network"):
        write_export(tmp_path / "pynn", net, IntInputs(1, 4, np.zeros((1, 4, 9), np.uint8), {}))


@pytest.mark.parametrize("backend", [NestBackend, Brian2Backend, SpinnakerVirtual, SpinnakerBoard])
def test_every_backend_refuses_before_it_starts(tmp_path, backend):
    net, inputs = of_loihi(reset="subtract")
    with pytest.raises(DoesNotFitError, match="resets by 'subtract'"):
        backend().check(Job(loihi.TARGET, net, inputs, tmp_path))


@pytest.mark.parametrize("backend", [NestBackend, SpinnakerVirtual])
def test_a_target_without_its_toolchain(backend):
    with pytest.raises(ToolchainMissingError, match="names no toolchain with PyNN; use --target spinnaker1"):
        backend().prepare(replace_toolchain(TARGET), lambda _: None)


def replace_toolchain(target):
    return target.model_copy(update={"toolchain": None})


def test_a_mapper_runs_nothing():
    assert "spinnaker-virtual" in backend_names()
    with pytest.raises(UsageError, match="'spinnaker-virtual' maps networks and runs none; use it in"):
        get_backend("spinnaker-virtual")
    assert [type(b).__name__ for b in get_runner_and_mapper("spinnaker-nest", TARGET)] == [
        "NestBackend",
        "SpinnakerVirtual",
    ]
    runner, mapper = get_runner_and_mapper("spinnaker-virtual", TARGET)
    assert (runner, type(mapper)) == (None, SpinnakerVirtual)
    assert get_runner_and_mapper("cpu", TARGET)[1] is None


class TestBoard:
    @pytest.fixture(autouse=True)
    def places(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "home").mkdir()
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        self.home, self.here = tmp_path / "home" / ".spynnaker.cfg", tmp_path / "here" / "spynnaker.cfg"

    def refusal(self):
        with pytest.raises(ToolchainMissingError) as caught:
            SpinnakerBoard().prepare(TARGET, lambda _: None)
        assert caught.value.exit_code == 4
        assert "--backend spinnaker-nest" in str(caught.value)
        return str(caught.value)

    def test_no_settings(self):
        message = self.refusal()
        assert "needs sPyNNaker's settings, found neither" in message and str(self.home) in message

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("[Machine]\nversion = 5\nmachine_name = None\n", "names no machine (machine_name, spalloc_server"),
            ("[Mode]\nmode = Debug\n", "names no machine"),
            ("[Machine]\nmachine_name = spin5\nvirtual_board = True\n", "asks for a virtual board"),
            ("machine_name = spin5\n", "cannot be read"),
        ],
    )
    def test_settings_without_a_machine(self, text, expected):
        self.home.write_text(text)
        assert expected in self.refusal()

    @pytest.mark.parametrize("key", ["machine_name", "spalloc_server", "remote_spinnaker_url"])
    def test_settings_with_a_machine(self, key, tmp_path):
        self.home.write_text("[Machine]\nmachine_name = None\n")
        self.here.write_text(f"[Machine]\n{key} = 192.0.2.1\nversion = 5\n")
        assert find_settings() == self.here
        home = SpinnakerBoard().variables(tmp_path)["HOME"]
        assert home == str(tmp_path / "home")
        assert self.home.read_text() == self.here.read_text()  # the worker's home, which is the user's in this test


def test_a_sum_that_the_ring_buffer_cannot_hold():
    """Refused as the integer network is made: no export comes to see it."""
    net, _ = network()
    conv = replace(net.projections[0].synapse, mantissa=np.full((3, 1, 3, 3), 8000, np.int32))
    with pytest.raises(DoesNotFitError, match=r"layer 'conv': one step can add weights up to 720.*holds 65535"):
        replace(net, projections=(replace(net.projections[0], synapse=conv), *net.projections[1:]))


def test_a_threshold_out_of_range():
    net, _ = network()
    dense = replace(net.by_name["dense"], threshold_mantissa=1 << 23)
    populations = tuple(dense if p.name == "dense" else p for p in net.populations)
    with pytest.raises(DoesNotFitError, match="layer 'dense': threshold mantissa 8388608, spinnaker1 allows 1 to 8323"):
        replace(net, populations=populations)
