"""Integer networks as files of NIR: the same numbers back, the same spikes in a reader of its own, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from hypothesis import assume, given

import neuroport as nrp
from neuroport.backends.nir.file import fields_of, same_fields
from neuroport.chip.core import run_core
from neuroport.chip.files import write_network
from neuroport.chip.network import IntHead, IntNetwork
from neuroport.chip.oracle import run_oracle
from neuroport.chip.synapses import IntConv2d, IntSparse
from neuroport.errors import DoesNotFitError, ModelFileError, UsageError
from neuroport.snn.operators import conv_geometry
from tests.backends.nir_interpreter import described, run
from tests.chip.networks import (
    TARGETS,
    cases,
    dense,
    gate,
    network_of,
    networks,
    population,
    source,
    sparse,
    spikes_of,
    target,
    variant,
    windows,
)

A = target("loihi-sim").arithmetic
NAMES = [name for name in TARGETS if target(name).arithmetic.membrane_floor is None]
WIDE = [variant(name, membrane={"bits": 40, "overflow": "saturate"}) for name in NAMES]


def expressible(network: IntNetwork) -> IntNetwork:
    """The network without what NIR has no node for: no clamps; outputs read by their potential never fire."""
    a = network.arithmetic
    never = min(a.threshold.mantissa_max, (a.membrane.limit - 1) >> a.threshold.shift)
    assume(not any(p.gate for p in network.populations))
    silent = {head.population for head in network.heads if head.read == "membrane"}
    assume(not any(j.pre in silent for j in network.projections))
    changed = [
        replace(p, clamp_until=0, threshold_mantissa=never if p.name in silent else p.threshold_mantissa)
        for p in network.populations
    ]
    return replace(network, populations=tuple(changed))


def content(network: IntNetwork, folder: Path) -> bytes:
    """All of a network, dtypes of its arrays included."""
    write_network(folder / "n.h5", network)
    return (folder / "n.h5").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nir")


@cases(60)
@given(case=networks([target(name).arithmetic for name in NAMES]))
def test_a_network_comes_back_bit_for_bit(folder: Path, case: Any) -> None:
    network = expressible(case[0])
    nrp.export_nir(network, folder / "a.nir")
    back = nrp.read_nir(folder / "a.nir")
    assert isinstance(back, IntNetwork)
    assert content(back, folder) == content(network, folder)
    nrp.export_nir(back, folder / "b.nir")
    one, other = nir.read(folder / "a.nir"), nir.read(folder / "b.nir")  # nir's own check of types passes
    assert one.nodes.keys() == other.nodes.keys()
    assert one.edges == other.edges
    assert not any(same_fields(one.nodes[name], other.nodes[name]) for name in one.nodes)


@cases(60)
@given(case=networks(WIDE))
def test_a_reader_of_its_own_gives_the_spikes_of_the_core(folder: Path, case: Any) -> None:
    """Every spike and potential of every population at every step, as the numbers of the file alone give them."""
    network, inputs = expressible(case[0]), case[1]
    core = run_core(network, inputs, record="all")
    assume(not any(core.overflows.values()) and not any(core.floored.values()))
    silent = [head.population for head in network.heads if head.read == "membrane"]
    assume(not any(core.totals[name].any() for name in silent))  # a potential that left its range
    nrp.export_nir(network, folder / "run.nir")
    graph = nir.read(folder / "run.nir")
    rows = {row["name"]: row for row in described(graph)["populations"]}
    for s in range(inputs.n_samples):
        given: dict[str, Any] = {}
        for p in network.populations:
            row = rows[p.name]
            shape = graph.nodes[row["node"]].input_type["input"]
            if p.role == "input":
                assert inputs.spikes is not None
                given[row["node"]] = inputs.spikes[s].reshape(-1, *shape).astype(np.int64)
            elif p.driven:
                current = inputs.currents[p.name][s].reshape(shape).astype(np.int64)
                given[f"{row['node']}_input"] = current << (p.bias_exponent - row["exponent"])
        spikes, potentials = run(graph, given, inputs.n_steps)
        for name, row in rows.items():
            if row["role"] != "input":
                wanted = core.trace.spikes[name][s].reshape(inputs.n_steps, -1)
                assert np.array_equal(spikes[row["node"]].reshape(inputs.n_steps, -1), wanted)
                v = core.trace.potentials[name][s].reshape(inputs.n_steps, -1)
                assert np.array_equal(potentials[row["node"]].reshape(inputs.n_steps, -1), v)


def test_the_leak_of_spinnakers_neuron(tmp_path: Path) -> None:
    """Its potential moves towards the input, so r is 1; the reader of the tests rounds as the chip does."""
    a = target("spinnaker1").with_neuron("if-curr-delta").arithmetic
    rng = np.random.default_rng(0)
    assert a.fixed_decay is not None
    out = population("out", (4,), threshold_mantissa=3000, decay=a.fixed_decay)
    network = network_of(a, [source((6,)), out], [dense(rng.integers(-2000, 9000, (4, 6)))])
    raster = (rng.random((60, 6)) < 0.5).astype(np.uint8)
    wanted = run_oracle(network, spikes_of(raster))
    nrp.export_nir(network, tmp_path / "n.nir")
    graph = nir.read(tmp_path / "n.nir")
    assert (graph.nodes["out"].r == 1).all()
    spikes, potentials = run(graph, {"input": raster.astype(np.int64)}, 60)
    assert np.array_equal(spikes["out"], wanted.spikes["out"][0])
    assert np.array_equal(potentials["out"], wanted.potentials["out"][0])
    assert 0 < spikes["out"].mean() < 1


def thresholds(reset: str, compare: str) -> Any:
    a = variant("cpu", threshold=target("cpu").arithmetic.threshold.model_dump() | {"compare": compare})
    out = population("out", threshold_mantissa=7, reset=reset)
    return network_of(a, [source((2,)), out], [dense([[3, -2]])])


@pytest.mark.parametrize(
    ("reset", "compare", "expected"),
    [("zero", ">=", 6.5), ("zero", ">", 7.5), ("subtract", ">=", 7), ("subtract", ">", 7)],
)
def test_what_the_threshold_is(tmp_path: Path, reset: str, compare: str, expected: float) -> None:
    nrp.export_nir(thresholds(reset, compare), tmp_path / "n.nir")
    graph = nir.read(tmp_path / "n.nir")
    node = graph.nodes["out"]
    assert isinstance(node, nir.IF)
    assert node.v_threshold.tolist() == [expected]
    assert node.v_threshold.dtype == (np.float64 if reset == "zero" else np.int32)
    assert graph.nodes["out_weights"].weight.dtype == np.int32
    assert graph.nodes["out_weights"].weight.tolist() == [[3, -2]]
    assert described(graph)["threshold_rule"] == compare


def test_mantissas_stay_mantissas_where_all_share_a_shift(tmp_path: Path) -> None:
    """Loihi's weights and thresholds are both shifted by 6, which the file says once."""
    network = network_of(A, [source((2,)), population("out", threshold_mantissa=90)], [dense([[30, -250]])])
    nrp.export_nir(network, tmp_path / "n.nir")
    graph = nir.read(tmp_path / "n.nir")
    assert graph.nodes["out_weights"].weight.tolist() == [[30, -250]]
    assert graph.nodes["out"].v_threshold.tolist() == [90.5]
    assert described(graph)["populations"][1]["exponent"] == 6


def test_a_leak_is_one_of_eulers_method(tmp_path: Path) -> None:
    network = network_of(A, [source((1,)), population("out", decay=1024)], [dense([[30]])])
    nrp.export_nir(network, tmp_path / "n.nir")
    node = nir.read(tmp_path / "n.nir").nodes["out"]
    assert 1 - 1e-4 / node.tau == pytest.approx(1 - 1024 / 4096)
    assert node.r * 1e-4 / node.tau == pytest.approx(1)


def test_kernels_that_nir_holds_are_kernels(tmp_path: Path) -> None:
    """In groups too, written in full; along one axis as Conv1d; an oblong one is a matrix, which nir can read again."""

    def kernel(shape: tuple[int, ...], weight: tuple[int, ...], groups: int = 1) -> tuple[str, tuple[int, ...]]:
        padding = (weight[2] // 2, weight[3] // 2)
        g = conv_geometry(shape, weight, (1, 1), padding, (1, 1), groups)
        conv = IntConv2d(np.full(weight, 2, np.int32), g)
        out = population("out", g.out_shape)
        j = replace(dense([[1]]), synapse=conv)
        nrp.export_nir(network_of(A, [source(shape), out], [j]), tmp_path / "n.nir")
        node = nir.read(tmp_path / "n.nir").nodes["out_weights"]
        return type(node).__name__, node.weight.shape

    assert kernel((4, 5, 5), (6, 2, 3, 3), groups=2) == ("Conv2d", (6, 4, 3, 3))
    assert kernel((2, 1, 7), (3, 2, 1, 3)) == ("Conv1d", (3, 2, 3))
    assert kernel((2, 4, 4), (3, 2, 1, 3)) == ("Affine", (48, 32))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (
            lambda: network_of(
                variant("cpu", gated_max_pool=True),
                [source((1, 2, 2)), gate("g", (1, 1, 1)), population("out")],
                [windows((1, 2, 2), (1, 1, 1), post="g"), dense([[1]], "g")],
            ),
            "layer 'g' is a max-pool gate, NIR has no such node; use a recipe with `max_pool: expand`",
        ),
        (
            lambda: network_of(A, [source(), population(clamp_until=4)], [dense([[2]])]),
            "layer 'out' waits for 4 steps, NIR has no clamp; use a recipe with `clamp: 0`",
        ),
        (
            lambda: network_of(A, [source(), population(current_decay=9)], [dense([[2]])]),
            r"layer 'out' keeps its currents \(current_decay 9\); NIR's CubaLIF",
        ),
        (
            lambda: network_of(variant("cpu", membrane_floor=0), [source(), population()], [dense([[2]])]),
            "layer 'out' holds its potential at 0 or above, NIR's potentials have no floor; deploy to",
        ),
        (
            lambda: network_of(A, [source(), population("lone"), population()], [dense([[2]])]),
            "layer 'lone' reads nothing but its bias, NIR's biases belong to weights; give it an input",
        ),
        (
            lambda: network_of(A, [source(), population()], [dense([[2]])], readout="membrane"),
            "layer 'out' is read by its potential and fires at 1, NIR's integrators never fire; read its spikes",
        ),
        (
            lambda: network_of(
                A,
                [source(), population("a", threshold_mantissa=131071), population()],
                [dense([[2]], post="a"), dense([[2]], "a")],
                heads=[IntHead("a", "membrane")],
            ),
            "layer 'a' is read by its potential and sends spikes, NIR's integrators never fire",
        ),
        (
            lambda: network_of(
                A, [source((5000,)), population("out", (5000,))], [sparse([{k: 2} for k in range(5000)])]
            ),
            "layer 'out': NIR has dense layers .* as a matrix the synapses from 'input' take 5,000 x 5,000 weights, "
            "neuroport writes at most 16,777,216",
        ),
    ],
)
def test_what_nir_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, build: Callable[[], IntNetwork], match: str
) -> None:
    with pytest.raises(DoesNotFitError, match=match):
        nrp.export_nir(build(), tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    network = network_of(A, [source(), population()], [dense([[2]])])
    with pytest.raises(UsageError, match=r"cannot write '.*n\.nir': No such file or directory; choose another place"):
        nrp.export_nir(network, tmp_path / "none" / "n.nir")


def written(tmp_path: Path) -> Path:
    network = network_of(A, [source((2,)), population("out", threshold_mantissa=90)], [dense([[30, -250]])])
    nrp.export_nir(network, tmp_path / "n.nir")
    return tmp_path / "n.nir"


def replaced(path: Path, name: str, value: Any) -> None:
    with h5py.File(path, "r+") as f:
        del f[name]
        f[name] = value


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: replaced(f, "node/nodes/out/v_threshold", np.array([91.5])), "node 'out' has another v_threshold"),
        (
            lambda f: replaced(f, "node/nodes/out/v_threshold", np.array([90.5], np.float32)),
            "node 'out' has another v_threshold",
        ),
        (lambda f: replaced(f, "node/edges", [["input", "out_weights"]]), "it has other nodes or edges"),
        (
            lambda f: replaced(f, "node/metadata/neuroport", '{"version": 1, "kind": "integer"}'),
            r"its description is damaged \(KeyError: 'arithmetic'\)",
        ),
    ],
)
def test_a_file_that_was_changed_is_not_taken_for_ours(
    tmp_path: Path, change: Callable[[Path], None], match: str
) -> None:
    path = written(tmp_path)
    change(path)
    with pytest.raises(ModelFileError, match=f"'n.nir' was changed after neuroport wrote it: {match}; write it again"):
        nrp.read_nir(path)


def test_other_weights_are_another_network(tmp_path: Path) -> None:
    path = written(tmp_path)
    replaced(path, "node/nodes/out_weights/weight", np.array([[30, 250]], np.int32))
    back = nrp.read_nir(path)
    assert isinstance(back, IntNetwork)
    assert run_oracle(back, spikes_of([[1, 1]])).spikes["out"].item() == 1


def test_kernels_of_a_file_that_was_changed_do_not_stand_for_others(tmp_path: Path) -> None:
    """Of what became a matrix the synapses themselves are kept; they have to be the matrix."""
    network = network_of(A, [source((2,)), population()], [sparse([{1: 8}])])
    nrp.export_nir(network, tmp_path / "n.nir")
    back = nrp.read_nir(tmp_path / "n.nir")
    assert isinstance(back, IntNetwork)
    assert isinstance(back.projections[0].synapse, IntSparse)
    replaced(tmp_path / "n.nir", "node/nodes/out_weights/weight", np.array([[6, 8]], np.int32))
    with pytest.raises(ModelFileError, match="node 'out_weights' has another weight"):
        nrp.read_nir(tmp_path / "n.nir")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"version": 2}', "has metadata of neuroport in version 2, this one reads version 1"),
        ('{"version": 1, "kind": "spikes"}', "are of a kind 'spikes', integer and float are; write it again"),
        ("{", "its metadata under 'neuroport' are damaged"),
        ("[]", "its metadata under 'neuroport' are damaged"),
    ],
)
def test_metadata_of_another_kind(tmp_path: Path, text: str, match: str) -> None:
    path = written(tmp_path)
    replaced(path, "node/metadata/neuroport", text)
    with pytest.raises(ModelFileError, match=match):
        nrp.read_nir(path)


def test_without_our_metadata_it_is_a_float_network(tmp_path: Path) -> None:
    path = written(tmp_path)
    with h5py.File(path, "r+") as f:
        del f["node/metadata"]
    back = nrp.read_nir(path)
    assert not isinstance(back, IntNetwork)
    assert np.allclose(back.projections[0].operator.weight, np.array([[30, -250]]) / 90.5)  # type: ignore[union-attr]
    assert fields_of(nir.read(path).nodes["out"])["type"] == "IF"
