"""The exported PyNN script gives the core's spikes in NEST and Brian2, and sPyNNaker would load what was exported."""

import json
import subprocess
from dataclasses import replace

import h5py
import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.spinnaker.backend import Brian2Backend, NestBackend, run_script
from neuroport.backends.spinnaker.export import EXPORT, exported_in, write_export
from neuroport.backends.spinnaker.virtual import SpinnakerVirtual, virtual_home
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntProjection
from neuroport.chip.oracle import run_oracle
from neuroport.chip.synapses import IntDense
from neuroport.chip.trace import Trace
from neuroport.errors import DoesNotFitError, WorkerError
from neuroport.interpreters import child_environment
from neuroport.validation.divergence import compare
from tests.backends.spinnaker_networks import LEAKY, N_SAMPLES, TARGET, network, population

pytestmark = pytest.mark.spinnaker


def run(backend, target, net, inputs, folder, **job):
    return backend().run(Job(target, net, inputs, folder, **job))


@pytest.mark.parametrize("backend", [NestBackend, Brian2Backend])
@pytest.mark.parametrize("kind", [{"v_init": 5000}, {"driven": True, "v_init": 5000}], ids=["spikes", "currents"])
def test_every_spike_and_potential_equal(spinnaker, tmp_path, backend, kind):
    """A start between two whole weights: thresholds that were lowered by half of one would fire too early."""
    net, inputs = network(**kind)
    done = []
    found = run(backend, TARGET, net, inputs, tmp_path, on_progress=done.append)
    expected = run_oracle(net, inputs)
    compared = compare(net, inputs, expected, found)
    assert compared.mismatches == 0, compared.first_mismatch
    assert all(expected.spikes[p.name].any() for p in net.populations if p.name != "scores")
    assert expected.potentials["scores"].min() < 0  # the readout has no floor
    assert done[-1] == N_SAMPLES


def test_the_leak_is_exact_in_brian2(spinnaker, tmp_path):
    net, inputs = network(LEAKY)
    compared = compare(net, inputs, run_oracle(net, inputs), run(Brian2Backend, LEAKY, net, inputs, tmp_path))
    assert compared.mismatches == 0, compared.first_mismatch
    assert compared.compared_spikes > 1000


def test_the_leak_is_within_its_bound_in_nest(spinnaker, tmp_path):
    net, inputs = network(LEAKY)
    job = Job(LEAKY, net, inputs, tmp_path)
    trace = NestBackend().run(job)
    compared = compare(net, inputs, run_oracle(net, inputs), trace)
    assert compared.mismatches > 0  # potentials at least: NEST does not round
    found = NestBackend().bounded(job, trace)
    assert found.outside == 0, found.first_outside
    assert found.bound <= inputs.n_steps * (1 + 2**-19)
    wrong = {name: raster.copy() for name, raster in trace.spikes.items()}
    wrong["dense"][1, 4, 3] ^= 1
    found = NestBackend().bounded(job, Trace(wrong, trace.potentials))
    assert found.first_outside.startswith("population 'dense'")
    shifted = {name: v + 32 * (name == "scores") for name, v in trace.potentials.items()}
    assert NestBackend().bounded(job, Trace(trace.spikes, shifted)).outside > 0


def test_the_mapper_would_load_what_was_exported(spinnaker, tmp_path):
    net, inputs = network(n_dense=300)
    mapped = SpinnakerVirtual().map(Job(TARGET, net, inputs, tmp_path))
    rows = {row["name"]: row for row in mapped.report["populations"]}
    assert mapped.differences == 0, mapped.first_difference
    assert mapped.connections > 60_000
    assert [core["neurons"] for core in rows["dense"]["cores"]] == [[0, 255], [256, 299]]
    assert rows["dense"]["ring_buffer_shifts"] == [TARGET.arithmetic.synaptic_shift] * 2
    assert mapped.report["machine"]["cores_used"] == sum(len(row["cores"]) for row in rows.values())
    assert mapped.report["sdram_bytes"] > 4 * mapped.connections
    assert f"{mapped.connections:,} weights and delays read back, 0 differ" in mapped.summary
    json.dumps(mapped.as_json())


def test_weights_that_would_be_rounded_are_found(spinnaker, tmp_path):
    """With a ring buffer one bit coarser sPyNNaker rounds odd weights, without a word."""
    net, inputs = network()
    write_export(tmp_path / EXPORT, net, inputs)
    with h5py.File(tmp_path / EXPORT / "network.h5", "r+") as f:
        f["populations/0"].attrs["max_expected_summed_weight"] *= 2
    mapped = SpinnakerVirtual().map(Job(TARGET, net, inputs, tmp_path))
    weights = net.projections[0].synapse.mantissa, net.by_name["conv"].bias_mantissa
    assert mapped.differences > 0 and any((w % 2).any() for w in weights)
    assert mapped.first_difference.startswith("excitatory connections from 'image' to 'conv': ")


def test_the_script_with_spynnaker_as_far_as_it_goes_without_a_board(spinnaker, tmp_path):
    """It builds, runs and asks for its data; that none came back is said, and is no trace without spikes."""
    net, inputs = network()
    job = Job(TARGET, net, inputs.sample(0), tmp_path)
    exported_in(tmp_path, job.network, job.inputs)
    home = virtual_home(tmp_path, 5)
    with pytest.raises(WorkerError, match="0 potentials of 'scores' came back; a virtual board runs nothing"):
        run_script(spinnaker.python, job, ["spiNNaker"], {"HOME": str(home)})


class SmallBoard(SpinnakerVirtual):
    """A SpiNN-3: four chips."""

    board_version = 3


def test_no_room_on_the_machine(spinnaker, tmp_path):
    wide = population(TARGET, "wide", (20_000,), 9, role="readout")
    source = network()[0].populations[0]
    synapse = IntDense(np.ones((20_000, 64), np.int32))
    net = IntNetwork(
        "spinnaker1",
        TARGET.arithmetic,
        (source, wide),
        (IntProjection("image", "wide", synapse),),
        (IntHead("wide", "count"),),
    )
    inputs = IntInputs(1, 2, np.zeros((1, 2, 1, 8, 8), np.uint8), {})
    with pytest.raises(DoesNotFitError, match=r"does not fit on SpiNNaker.*a smaller network, or a larger machine"):
        SmallBoard().map(Job(TARGET, net, inputs, tmp_path))


def test_the_export_runs_and_verifies_without_neuroport(spinnaker, tmp_path):
    net, inputs = network()
    folder = tmp_path / "export"
    write_export(folder, net, inputs, run_oracle(net, inputs))

    def script(*args):
        command = [spinnaker.python, folder / "run.py", "nest", "--out", tmp_path / "r.h5", *args]
        environment = child_environment({"HOME": str(tmp_path), "TMPDIR": str(tmp_path)})
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    without = [spinnaker.python, "-c", "import neuroport"]
    assert "No module named 'neuroport'" in subprocess.run(without, cwd=tmp_path, capture_output=True, text=True).stderr
    done = script("--verify")
    assert (done.returncode, "all equal" in done.stdout) == (0, True), done.stderr
    with h5py.File(folder / "expected.h5", "r+") as f:
        dataset = next(d for d in f["spikes"].values() if d.attrs["name"] == "dense")
        bits = dataset[()]
        bits[1, 7, 0] ^= 0x80
        dataset[...] = bits
    done = script("--verify")
    assert done.returncode == 1
    assert "nest differs from the core: sample 1, step 7, neuron 0 of population 'dense'" in done.stdout
    assert script().returncode == 0  # nobody asked for a comparison
    with h5py.File(folder / "network.h5", "r+") as f:
        edited = next(c for c in f["projections"].values() if c.attrs["pre"] == "image")
        edited["weight"][...] *= 2
    done = script("--verify")
    assert done.returncode == 1
    assert "of population 'conv': " in done.stdout  # what inherits the difference in the same step is not blamed
    done = script("--verify", "--out", tmp_path / "missing" / "r.h5")
    assert (done.returncode, "there is no directory" in done.stderr) == (2, True)
    (folder / "expected.h5").unlink()
    done = script("--verify")
    assert (done.returncode, "is not there; leave --verify out, or take it from the export" in done.stderr) == (2, True)


def test_workers_share_the_samples(spinnaker, tmp_path):
    net, inputs = network(driven=True)
    many = replace(inputs, n_samples=8, currents={"image": np.resize(inputs.currents["image"], (8, 1, 8, 8))})
    found = run(NestBackend, TARGET, net, many, tmp_path, n_workers=2)
    assert compare(net, many, run_oracle(net, many), found).mismatches == 0
    assert (tmp_path / "part1" / EXPORT / "run.py").is_file()


def test_a_neuron_of_an_edited_export_that_fires_by_itself(spinnaker, tmp_path):
    """Such spikes belong to no step of a sample; they are not counted in another one's."""
    net, inputs = network()
    write_export(tmp_path / EXPORT, net, inputs)
    with h5py.File(tmp_path / EXPORT / "network.h5", "r+") as f:
        f["populations/1"].attrs["v_init"] = 1e4
    with pytest.raises(WorkerError, match="neuron 0 of 'dense' fired when nothing arrives; see its v_init"):
        NestBackend().run(Job(TARGET, net, inputs, tmp_path, n_workers=1))
