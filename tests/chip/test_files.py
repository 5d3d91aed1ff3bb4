"""HDF5 files of networks, inputs and traces: bit for bit there and back, and nothing damaged is read."""

from __future__ import annotations

from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings

from neuroport.chip.files import read_inputs, read_network, read_trace, write_inputs, write_network, write_trace
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead
from neuroport.chip.oracle import run_oracle
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense
from neuroport.errors import BundleError, InvalidNetworkError
from neuroport.snn.operators import ConvGeometry, conv_geometry
from tests.chip.networks import arithmetics, dense, network_of, networks, population, source, sparse, spikes_of, target

ARITHMETICS = arithmetics()


def assert_same_array(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def assert_same_fields(a, b, but):
    for field in fields(a):
        if field.name not in but:
            x, y = getattr(a, field.name), getattr(b, field.name)
            assert x == y, field.name
            assert type(x) is type(y), field.name


def assert_same_synapse(a, b):
    assert type(a) is type(b)
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert_same_array(x, y)
        else:
            assert x == y


@given(networks(ARITHMETICS))
@settings(max_examples=60)
def test_network_and_inputs_come_back_bit_for_bit(tmp_path_factory, case):
    network, inputs = case
    folder = tmp_path_factory.mktemp("files")
    write_network(folder / "network.h5", network)
    write_inputs(folder / "inputs.h5", inputs)
    read, again = read_network(folder / "network.h5"), read_inputs(folder / "inputs.h5")
    assert (read.target, read.arithmetic, read.heads) == (network.target, network.arithmetic, network.heads)
    for p, q in zip(network.populations, read.populations, strict=True):
        assert_same_fields(p, q, but=("bias_mantissa",))
        assert_same_array(p.bias_mantissa, q.bias_mantissa)
    for j, k in zip(network.projections, read.projections, strict=True):
        assert (j.pre, j.post, j.exponent) == (k.pre, k.post, k.exponent)
        assert_same_synapse(j.synapse, k.synapse)
    assert (again.n_samples, again.n_steps) == (inputs.n_samples, inputs.n_steps)
    assert again.currents.keys() == inputs.currents.keys()
    for name, x in inputs.currents.items():
        assert_same_array(x, again.currents[name])
    if inputs.spikes is None:
        assert again.spikes is None
    else:
        assert_same_array(inputs.spikes, again.spikes)


@given(networks(ARITHMETICS))
@settings(max_examples=30)
def test_trace_comes_back_bit_for_bit(tmp_path_factory, case):
    trace = run_oracle(*case)
    path = tmp_path_factory.mktemp("files") / "core.h5"
    write_trace(path, trace.spikes, trace.potentials)
    read = read_trace(path)
    assert list(read.spikes) == list(trace.spikes)
    assert read.potentials.keys() == trace.potentials.keys()
    for name, x in trace.spikes.items():
        assert_same_array(x, read.spikes[name])
    for name, x in trace.potentials.items():
        assert_same_array(x, read.potentials[name])


@pytest.mark.parametrize("n", [1, 7, 8, 9, 17])
def test_spikes_are_packed_to_bits_and_back_for_any_number_of_neurons(tmp_path, n):
    raster = np.random.default_rng(n).integers(0, 2, (2, 3, n)).astype(np.uint8)
    write_trace(tmp_path / "t.h5", {"a/b.c": raster}, {})
    with h5py.File(tmp_path / "t.h5") as f:
        assert f["spikes/0"].shape == (2, 3, -(-n // 8))
    read = read_trace(tmp_path / "t.h5")
    assert_same_array(raster, read.spikes["a/b.c"])
    assert read.potentials == {}


def test_more_than_ten_populations_keep_their_order(tmp_path):
    chain = [source((1,), "n0"), *(population(f"n{k}", role="hidden") for k in range(1, 13)), population()]
    links = [dense([[2]], f"n{k}", f"n{k + 1}") for k in range(12)]
    network = network_of(ARITHMETICS[0], chain, [*links, dense([[3]], pre="n12")])
    write_network(tmp_path / "n.h5", network)
    read = read_network(tmp_path / "n.h5")
    assert [p.name for p in read.populations] == [p.name for p in chain]
    assert read.depth == network.depth
    with h5py.File(tmp_path / "n.h5") as f:
        assert f["populations/13"].attrs["depth"] == 13


def test_file_of_neuroport_0_1(tmp_path):
    """One output named by an attribute, no kinds of synapses, no gates."""
    conv = IntConv2d(
        np.full((2, 1, 2, 2), 2, np.int32), conv_geometry((1, 3, 3), (2, 1, 2, 2), (1, 1), (0, 0), (1, 1), 1)
    )
    parts = [source((1, 3, 3)), population("a", (2, 2, 2), role="readout"), population("out", (4,))]
    links = [replace(dense([[2]], post="a"), synapse=conv), dense(np.full((4, 8), 2), pre="a")]
    network = network_of(ARITHMETICS[0], parts, links, readout="membrane")
    path = tmp_path / "n.h5"
    write_network(path, network)
    with h5py.File(path, "a") as f:
        f.attrs["readout"] = "membrane"
        del f["heads"]
        for group in f["populations"].values():
            del group.attrs["gate"]
        for group in f["projections"].values():
            del group.attrs["kind"]
    read = read_network(path)
    assert read.heads == (IntHead("out", "membrane"),)
    assert [type(j.synapse) for j in read.projections] == [IntConv2d, IntDense]
    assert_same_synapse(read.projections[0].synapse, conv)


READERS = {"network": read_network, "inputs": read_inputs, "trace": read_trace}


@pytest.fixture
def written(tmp_path):
    """One file of each kind."""
    rng = np.random.default_rng(0)
    network = network_of(
        target("cpu").arithmetic, [source((300,)), population(shape=(50,))], [dense(rng.integers(-9, 9, (50, 300)))]
    )
    inputs = spikes_of(rng.integers(0, 2, (40, 300)))
    trace = run_oracle(network, inputs)
    write_network(tmp_path / "network.h5", network)
    write_inputs(tmp_path / "inputs.h5", inputs)
    write_inputs(tmp_path / "currents.h5", IntInputs(1, 2, None, {"out": np.ones((1, 50), np.int32)}))
    write_trace(tmp_path / "trace.h5", trace.spikes, trace.potentials)
    return tmp_path


def assert_refused(kind, path):
    with pytest.raises(BundleError) as caught:
        READERS[kind](path)
    assert caught.value.exit_code == 2
    assert f"'{path}' is not " in str(caught.value)
    assert "or is damaged" in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file(written, kind, kept):
    path = written / f"{kind}.h5"
    READERS[kind](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert_refused(kind, path)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("other", ["network", "inputs", "currents", "trace"])
def test_file_of_another_kind(written, kind, other):
    if other == kind or (kind, other) == ("inputs", "currents"):
        READERS[kind](written / f"{other}.h5")
    else:
        assert_refused(kind, written / f"{other}.h5")


@pytest.mark.parametrize("kind", READERS)
def test_text_file_folder_and_missing_file(tmp_path, kind):
    (tmp_path / "text.h5").write_text("not hdf5\n")
    for path in (tmp_path / "text.h5", tmp_path, tmp_path / "missing.h5"):
        assert_refused(kind, path)


@pytest.mark.parametrize("name", ["populations/1", "populations/0/bias_mantissa", "projections/0/mantissa"])
def test_network_file_with_a_part_missing(written, name):
    with h5py.File(written / "network.h5", "a") as f:
        del f[name]
    if name == "populations/1":  # then the projection has nowhere to go
        with h5py.File(written / "network.h5", "a") as f:
            del f["projections"]
            f.move("populations/0", "populations/1")
    assert_refused("network", written / "network.h5")


@pytest.fixture
def thin(tmp_path):
    """A network file with a sparse and a transposed convolutional projection."""
    up = IntConvTranspose2d(np.full((1, 1, 2, 2), 2, np.int32), ConvGeometry((1, 2, 2), (1, 4, 4), (2, 2), (2, 2)))
    parts = [source((1, 2, 2)), population("a", (1, 4, 4), role="hidden"), population("out", (2,))]
    links = [replace(dense([[2]], post="a"), synapse=up), sparse([{0: 2}, {3: 2, 15: 4}], pre="a")]
    path = tmp_path / "network.h5"
    write_network(path, network_of(target("cpu").arithmetic, parts, links))
    read_network(path)
    return path


@pytest.mark.parametrize(
    "name", ["projections/1/columns", "projections/1/row_start", "heads/0", "projections/0/mantissa"]
)
def test_sparse_network_with_a_part_missing(thin, name):
    with h5py.File(thin, "a") as f:
        del f[name]
        if name == "heads/0":
            f.create_group("heads/1")
    assert_refused("network", thin)


@pytest.mark.parametrize(("key", "value"), [("kind", "fuzzy"), ("stride", "two"), ("groups", "some")])
def test_projection_of_an_unknown_kind_or_geometry(thin, key, value):
    with h5py.File(thin, "a") as f:
        f["projections/0"].attrs[key] = value
    assert_refused("network", thin)


@pytest.mark.parametrize(
    ("name", "value"),
    [("columns", [0, 3, 16]), ("columns", [0, 15, 3]), ("row_start", [0, 1, 4]), ("columns", [0.0, 3.0, 15.0])],
)
def test_indices_that_point_elsewhere_are_refused_when_read(thin, name, value):
    """The core's kernels check no bounds."""
    with h5py.File(thin, "a") as f:
        del f[f"projections/1/{name}"]
        f[f"projections/1/{name}"] = np.array(value)
    with pytest.raises(InvalidNetworkError, match=r"layer 'out': weights from 'a' .* is the file from another"):
        read_network(thin)


def test_damaged_bytes_in_the_weights(written):
    path = written / "network.h5"
    with h5py.File(path) as f:
        dataset = f["projections/0/mantissa"]
        chunk = dataset.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 64] = bytes(b ^ 0xFF for b in content[middle : middle + 64])
    path.write_bytes(content)
    assert_refused("network", path)
