"""`neuroport diff`: what changed between two bundles, the worst first; 0 equal, 1 different, 2 wrong use."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from neuroport.bundle import staged_bundle
from neuroport.chip.core import run_core
from neuroport.chip.files import write_inputs, write_network, write_trace
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntProjection
from neuroport.chip.synapses import IntConv2d
from neuroport.cli import app
from neuroport.errors import BundleError
from neuroport.snn.operators import conv_geometry
from neuroport.verbs.bundle_diff import KINDS, diff_bundles
from tests.chip.networks import dense, network_of, population, source, sparse, target

RNG = np.random.default_rng(0)
KERNELS = 2 * RNG.integers(-30, 50, (3, 2, 3, 3)).astype(np.int32)
ROWS = [{0: 4, 5: -8}, {2: 6}, {1: 10, 7: -2, 9: 4}]
RASTER = (RNG.random((2, 12, 2, 4, 4)) < 0.3).astype(np.uint8)


def network(kernels=KERNELS, rows=ROWS, exponent=0, **out):
    """A convolution, a dense and a sparse layer into a readout; the parts that tests change are given."""
    geometry = conv_geometry((2, 4, 4), (3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    made = np.random.default_rng(1)
    return network_of(
        target("loihi-sim").arithmetic,
        [
            source((2, 4, 4)),
            population("a", (3, 4, 4), role="hidden", threshold_mantissa=60),
            population("out", (3,), **({"threshold_mantissa": 90} | out)),
        ],
        [
            IntProjection("input", "a", IntConv2d(kernels, geometry)),
            dense(2 * made.integers(-20, 40, (3, 48)), "a", "out", exponent),
            sparse(rows, "input", "out"),
        ],
    )


def rungs(ann, core, n=100):
    """Rungs of a report, measured on n samples."""
    return [{"name": name, "samples": n, "accuracy": a} for name, a in (("ann", ann), ("integer_core", core))]


def bundle(place, net, raster=RASTER, report=None, recipe=None):
    """A bundle as `deploy` makes it, of a network that ran on the core."""
    inputs = IntInputs(len(raster), raster.shape[1], raster, {})
    trace = run_core(net, inputs, record="spikes").trace
    content = {"model": "m", "target": "loihi-sim", "recipe": "robust", "steps": 12, "versions": {"numpy": "1"}}
    content["rungs"] = rungs(0.9, 0.88)
    with staged_bundle(place) as stage:
        write_network(stage / "network.h5", net)
        write_inputs(stage / "inputs.h5", inputs)
        write_trace(stage / "core.h5", trace.spikes, trace.potentials)
        (stage / "report.json").write_text(json.dumps(content | (report or {})))
        (stage / "recipe.yaml").write_text(json.dumps(recipe or {"name": "robust", "percentile": 99.9}))
    return place


def found(tmp_path, other, kinds=KINDS, **changes):
    """(kind, where, what, a, b) of the changes from the plain bundle to another network, of these kinds."""
    a, b = bundle(tmp_path / "a", network()), bundle(tmp_path / "b", other, **changes)
    diff = diff_bundles(a, b)
    ranks = [KINDS.index(c.kind) for c in diff.changes]
    assert ranks == sorted(ranks)
    for kind in KINDS:
        sizes = [c.size for c in diff.changes if c.kind == kind]
        assert sizes == sorted(sizes, reverse=True), kind
    json.dumps(diff.as_json(), allow_nan=False)
    return [(c.kind, c.where, c.what, c.a, c.b) for c in diff.changes if c.kind in kinds]


def test_what_rounding_explains_and_what_the_mapper_takes(tmp_path):
    machine = {"cores_used": 11, "chips_used": 1}
    before = {"bounded": {"outside": 0}, "mapping": {"differences": 0, "machine": machine}}
    after = {"bounded": {"outside": 2}, "mapping": {"differences": 3, "machine": machine | {"cores_used": 12}}}
    a = bundle(tmp_path / "a", network(), report={"backend": before})
    b = bundle(tmp_path / "b", network(), report={"backend": after})
    assert [(c.kind, c.where, c.what, c.a, c.b) for c in diff_bundles(a, b).changes] == [
        ("accuracy", "backend", "neuron-steps that rounding does not explain", 0, 2),
        ("accuracy", "mapper", "differences from the export", 0, 3),
        ("cores", "cores_used", "of the mapper", 11, 12),
    ]


def test_equal(tmp_path):
    assert found(tmp_path, network()) == []


def test_one_weight_of_each_kind_of_synapse(tmp_path):
    kernels = KERNELS.copy()
    kernels[2, 1, 0, 2] += 8
    rows = [{0: 4, 5: -8}, {2: 6, 3: 12}, {1: 10, 7: -2, 9: 4}]  # one more
    changes = found(tmp_path, network(kernels, rows), ["network", "weights", "neurons"])
    old = int(KERNELS[2, 1, 0, 2])
    assert changes == [  # of the sparse weights, the larger part
        ("weights", "input -> out", "weight [1, 3]", 0, 12),
        ("weights", "input -> a", "weight [2, 1, 0, 2]", old, old + 8),
    ]


def test_an_exponent_changes_all_weights_behind_it(tmp_path):
    changes = found(tmp_path, network(exponent=1), ["weights"])
    assert changes[0] == ("weights", "a -> out", "exponent", 0, 1)
    assert changes[1][:2] == ("weights", "a -> out")
    assert changes[1][4] == 2 * changes[1][3]


def test_thresholds_biases_and_resets(tmp_path):
    bias = np.array([0, 0, 7], np.int32)
    other = network(threshold_mantissa=91, reset="subtract", bias_mantissa=bias, bias_exponent=2)
    assert found(tmp_path, other, ["neurons"]) == [
        ("neurons", "out", "bias [2]", 0, 28),
        ("neurons", "out", "reset", "zero", "subtract"),
        ("neurons", "out", "bias exponent", 0, 2),
        ("neurons", "out", "threshold", 90, 91),
    ]


def test_spikes_of_the_same_inputs_one_by_one(tmp_path):
    a, b = bundle(tmp_path / "a", network()), bundle(tmp_path / "b", network(threshold_mantissa=300))
    (change,) = [c for c in diff_bundles(a, b).changes if c.kind == "spikes"]
    assert (change.where, change.what) == ("out", "spikes (core)")
    runs = [run_core(network(threshold_mantissa=m), IntInputs(2, 12, RASTER, {}), record="spikes") for m in (90, 300)]
    x, y = (run.trace.spikes["out"] for run in runs)
    sample, step, neuron = np.argwhere(x != y)[0].tolist()
    assert (change.a, change.b) == (int(x.sum()), int(y.sum()))
    expected = f"{(x != y).sum():,} differ; first: sample {sample}, step {step}, neuron {[neuron]}"
    assert change.note == expected


def test_spikes_of_other_inputs_by_rates(tmp_path):
    changes = found(tmp_path, network(), raster=1 - RASTER[:1])
    assert ("settings", "inputs", "samples", 2, 1) in changes
    assert {c[2] for c in changes if c[0] == "spikes"} == {"spikes per step (core)"}
    assert not [c for c in changes if c[0] in ("weights", "neurons", "network")]


def test_populations_added_and_removed(tmp_path):
    renamed = [replace(p, name="b") if p.name == "a" else p for p in network().populations]
    joined = [
        replace(j, pre="b" if j.pre == "a" else j.pre, post="b" if j.post == "a" else j.post)
        for j in network().projections
    ]
    other = network_of(network().arithmetic, renamed, joined)
    diff = diff_bundles(bundle(tmp_path / "a", network()), bundle(tmp_path / "b", other))
    named = [(c.where, c.what, c.a, c.b, c.note) for c in diff.changes if c.kind == "network"]
    assert named == [("a", "population", "3x4x4", None, "removed"), ("b", "population", None, "3x4x4", "added")]


def test_a_projection_of_another_kind(tmp_path):
    parts = list(network().projections)
    parts[2] = dense(np.full((3, 32), 2), "input", "out")
    other = network_of(network().arithmetic, network().populations, parts)
    changes = found(tmp_path, other, ["network", "weights"])
    assert changes == [("network", "input -> out", "synapses", "sparse of 3 rows", "dense [3, 32]")]


def test_accuracy_settings_versions_and_cores(tmp_path):
    climbed = [*rungs(0.9, 0.8), {"name": "x", "samples": 100, "accuracy": 1.0}]
    report = {"rungs": climbed, "versions": {"numpy": "2"}, "mapping": {"cores": 3, "chips": 1}, "seed": 1}
    recipe = {"name": "robust", "percentile": 99.0}
    changes = found(tmp_path, network(), report=report, recipe=recipe)
    assert changes == [
        ("accuracy", "x", "accuracy", None, 1.0),
        ("accuracy", "integer_core", "accuracy", 0.88, 0.8),
        ("settings", "seed", "", None, 1),
        ("settings", "percentile", "recipe.yaml", 99.9, 99.0),
        ("settings", "numpy", "version", "1", "2"),
        ("cores", "cores", "number", None, 3),
        ("cores", "chips", "number", None, 1),
    ]


def test_accuracies_of_other_samples_say_so(tmp_path):
    a, b = (
        bundle(tmp_path / str(n), network(), report={"rungs": rungs(0.9, core, n)})
        for n, core in ((100, 0.88), (500, 0.9))
    )
    (change,) = (c for c in diff_bundles(a, b).changes if c.kind == "accuracy")
    assert change.note == "+2.00 points, of 100 and 500 samples"


def test_the_command(tmp_path):
    a, b = bundle(tmp_path / "a", network()), bundle(tmp_path / "b", network(threshold_mantissa=300))
    same = CliRunner().invoke(app, ["diff", str(a), str(a)])
    assert same.exit_code == 0 and "are equal" in same.output
    other = CliRunner().invoke(app, ["diff", str(a), str(b)])
    assert other.exit_code == 1, other.output
    assert re.search(r"out +│ threshold +│ +90 │ +300", other.output) and "spikes (core)" in other.output
    plain = CliRunner().invoke(app, ["diff", str(a), str(b), "--json"])
    assert plain.exit_code == 1
    content = json.loads(plain.stdout)
    assert content["equal"] is False
    assert {c["kind"] for c in content["changes"]} == {"neurons", "spikes"}
    assert CliRunner().invoke(app, ["diff", str(a), str(b), "--quiet"]).output == ""


def test_many_changes_are_cut_short_but_not_what_is_missing(tmp_path):
    versions = {f"package{n}": "1" for n in range(25)}
    a = bundle(tmp_path / "a", network())
    b = bundle(tmp_path / "b", network(), report={"versions": versions})
    result = CliRunner().invoke(app, ["diff", str(a), str(b)])
    assert "and 6 more; --json has all of them" in result.output
    assert "26 differences" in result.output


def test_deployments(tmp_path):
    """Two real ones of the embedded network: the same twice, then another recipe."""
    for name, recipe in (("a", "robust"), ("b", "robust"), ("c", "max-norm")):
        options = ["--target", "cpu", "--samples", "1", "--eval", "5", "--steps", "8", "--recipe", recipe, "--quiet"]
        assert CliRunner().invoke(app, ["deploy", *options, "--out", str(tmp_path / name)]).exit_code == 0
    assert diff_bundles(tmp_path / "a", tmp_path / "b").is_equal
    changes = diff_bundles(tmp_path / "a", tmp_path / "c").changes
    assert {"settings", "weights", "neurons", "spikes"} <= {c.kind for c in changes}
    assert ("recipe", "robust", "max-norm") in [(c.where, c.a, c.b) for c in changes]


@pytest.mark.parametrize("state", ["no bundle", "edited", "no network"])
def test_what_is_no_bundle(tmp_path, state):
    a, b = bundle(tmp_path / "a", network()), bundle(tmp_path / "b", network())
    if state == "no bundle":
        shutil.rmtree(b)
    elif state == "edited":
        (b / "report.json").write_text("{}")
    else:
        with staged_bundle(b) as stage:
            (stage / "report.json").write_text("{}")
    message = {
        "no bundle": "is not a bundle of neuroport",
        "edited": "file 'report.json' was changed since it was written",
        "no network": "holds no network.h5, so it cannot be compared; deploy again",
    }[state]
    for order in ((a, b), (b, a)):
        with pytest.raises(BundleError, match=message):
            diff_bundles(*order)
        result = CliRunner().invoke(app, ["diff", *map(str, order)])
        assert result.exit_code == 2 and message in result.output
