"""ONNX files that are missing, damaged, or reach outside their folder, and machines without the packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from neuroport.ann.from_onnx import load_onnx
from neuroport.errors import ModelFileError, UnsupportedOperatorError, UsageError
from tests.ann.onnx_models import Net


@pytest.fixture
def network() -> onnx.ModelProto:
    net = Net(13)
    x = net.op("Relu", net.op("Gemm", net.input(8), net.rand(8, 16, name="fc.weight")))
    return net.build(net.op("Gemm", x, net.rand(16, 4)))


def _external(model: onnx.ModelProto, location: str, *, length: int | None = None) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    onnx.external_data_helper.set_external_data(tensor, location, 0, length or len(data))
    tensor.ClearField("raw_data")
    return model


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelFileError, match=r"does not exist, or is not a file; give a \.onnx file"):
            load_onnx(path)


@pytest.mark.parametrize("content", [b"", b"hello, I am a text\n" * 20, b"PK\x03\x04" + bytes(200), bytes(range(256))])
def test_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"net.onnx' is not a"):
        load_onnx(path)


def test_file_cut_anywhere_is_refused(network: onnx.ModelProto, tmp_path: Path) -> None:
    whole = network.SerializeToString()
    path = tmp_path / "net.onnx"
    for length in range(0, len(whole), 23):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            load_onnx(path)


def test_weight_of_another_size_than_it_says_is_refused(network: onnx.ModelProto, tmp_path: Path) -> None:
    network.graph.initializer[0].raw_data = bytes(12)
    path = tmp_path / "net.onnx"
    path.write_bytes(network.SerializeToString())
    with pytest.raises(ModelFileError, match="is damaged"):
        load_onnx(path)


def test_operator_that_does_not_exist_is_refused(network: onnx.ModelProto, tmp_path: Path) -> None:
    network.graph.node[0].op_type = "Gem"
    path = tmp_path / "net.onnx"
    path.write_bytes(network.SerializeToString())
    with pytest.raises(ModelFileError, match=r"not a valid ONNX model.*Gem"):
        load_onnx(path)


def test_newer_operator_set_asks_for_a_newer_onnx(network: onnx.ModelProto, tmp_path: Path) -> None:
    network.opset_import[0].version = 999
    path = tmp_path / "net.onnx"
    path.write_bytes(network.SerializeToString())
    with pytest.raises(ModelFileError, match="update onnx"):
        load_onnx(path)


def test_sparse_weights_are_refused(network: onnx.ModelProto, tmp_path: Path) -> None:
    values = onnx.helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [1], [1.0])
    indices = onnx.helper.make_tensor("indices", onnx.TensorProto.INT64, [1], [3])
    network.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [8]))
    path = tmp_path / "net.onnx"
    path.write_bytes(network.SerializeToString())
    with pytest.raises(UnsupportedOperatorError, match="sparse weights"):
        load_onnx(path)


def test_weights_in_a_file_beside_the_model_are_read(network: onnx.ModelProto, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    (tmp_path / "one.onnx").write_bytes(network.SerializeToString())
    (tmp_path / "net.data").write_bytes(network.graph.initializer[0].raw_data)
    (tmp_path / "two.onnx").write_bytes(_external(network, "net.data").SerializeToString())
    (_, one), (_, two) = load_onnx(tmp_path / "one.onnx"), load_onnx(tmp_path / "two.onnx")
    np.testing.assert_array_equal(one.run(x)[0], two.run(x)[0])


@pytest.mark.parametrize("kind", ["parent", "absolute", "link", "none"])
def test_weights_outside_the_folder_are_refused(network: onnx.ModelProto, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    secret = tmp_path / "secret.data"
    secret.write_bytes(network.graph.initializer[0].raw_data)
    (folder / "link.data").symlink_to(secret)
    location = {"parent": "../secret.data", "absolute": str(secret), "link": "link.data", "none": ""}[kind]
    path = folder / "net.onnx"
    path.write_bytes(_external(network, location).SerializeToString())
    with pytest.raises(ModelFileError, match=r"tensor 'fc.weight' of .* only files in the model's own folder are read"):
        load_onnx(path)


def test_weights_outside_the_folder_are_refused_wherever_they_hide(tmp_path: Path) -> None:
    net = Net(13)
    value = onnx.numpy_helper.from_array(np.ones((8, 2), np.float32), "hidden")
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.data").write_bytes(value.raw_data)
    x = net.input(8)
    model = net.build(net.op("MatMul", x, net.op("Constant", value=value)))
    tensor = model.graph.node[0].attribute[0].t
    onnx.external_data_helper.set_external_data(tensor, "../secret.data", 0, 64)
    tensor.ClearField("raw_data")
    path = tmp_path / "inner" / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="tensor 'hidden' of"):
        load_onnx(path)


def test_missing_or_short_weight_file_is_refused(network: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(_external(network, "net.data").SerializeToString())
    with pytest.raises(ModelFileError, match=r"keeps numbers in the file 'net\.data', which is not next to it"):
        load_onnx(path)
    (tmp_path / "net.data").write_bytes(bytes(7))
    with pytest.raises(ModelFileError, match="is damaged"):
        load_onnx(path)


def test_front_end_is_imported_without_the_packages() -> None:
    code = "import sys, neuroport.ann.from_onnx; sys.exit('onnx' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package_is_named_with_the_extra(
    package: str, network: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(network.SerializeToString())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"'{package}'.*pip install \"neuroport\[onnx\]\""):
        load_onnx(path)


def test_model_that_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    net = Net(13)
    x = net.op("MaxPool", net.input(1, 8, 8), kernel_shape=[2, 2], pads=[2, 2, 2, 2])
    path = tmp_path / "net.onnx"
    path.write_bytes(net.build(net.op("Relu", net.op("Flatten", x))).SerializeToString())
    with pytest.raises((ModelFileError, UnsupportedOperatorError), match="pad"):
        load_onnx(path)[1].run(np.zeros((1, 1, 8, 8), np.float32))
