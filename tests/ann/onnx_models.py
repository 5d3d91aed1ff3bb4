"""Small ONNX models written by hand, and the comparison of what is read with onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from neuroport.ann.from_onnx import OnnxFramework, load_onnx
from neuroport.ann.graph import AnnGraph
from neuroport.ann.interpret import run_outputs

TOLERANCE = 1e-4  # of the largest value: float32 sums in another order


class Net:
    """A growing model with seeded random weights; operators return the names of their results."""

    def __init__(self, opset: int = 13, *, batch: str | int = "N", dtype: Any = np.float32, seed: int = 0) -> None:
        self.opset, self.batch, self.dtype = opset, batch, np.dtype(dtype)
        self.rng = np.random.default_rng(seed)
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def input(self, *shape: int | str, name: str = "x", kind: int | None = None) -> str:
        element = kind or helper.np_dtype_to_tensor_dtype(self.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, element, [self.batch, *shape]))
        return name

    def const(self, value: Any, name: str = "", dtype: Any = None) -> str:
        name = name or f"c{len(self.weights)}"
        array = np.asarray(value)
        if dtype is not None or array.dtype.kind == "f":
            array = array.astype(dtype or self.dtype)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def rand(self, *shape: int, name: str = "", low: float = -1.0, high: float = 1.0) -> str:
        return self.const(self.rng.uniform(low, high, shape), name)

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, n: int = 1, name: str = "", domain: str = "", **attributes: Any) -> Any:
        outputs = [f"v{len(self.nodes)}_{i}" for i in range(n)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0] if n == 1 else outputs

    def build(self, *outputs: str) -> onnx.ModelProto:
        is_old = self.opset < 9  # IR version 3 lists the weights among the inputs
        listed = [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in self.weights] if is_old else []
        element = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            self.nodes,
            "net",
            [*self.inputs, *listed],
            [helper.make_tensor_value_info(name, element, None) for name in outputs],
            self.weights,
        )
        ir_version = 3 if is_old else 8 if self.opset < 19 else 10
        domains = {node.domain: 1 for node in self.nodes} | {"": self.opset}
        opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        model = onnx.shape_inference.infer_shapes(model)
        for output in model.graph.output:
            output.type.tensor_type.shape.SetInParent()  # the checker asks for one, also where none is known
        return model


def load(model: onnx.ModelProto, folder: Path) -> tuple[AnnGraph, OnnxFramework]:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return load_onnx(path)


def assert_equal(model: onnx.ModelProto, folder: Path, *, n: int = 5, scale: float = 1.0) -> AnnGraph:
    """What is read answers like onnxruntime, for every output."""
    graph, framework = load(model, folder)
    images = (np.random.default_rng(1).normal(size=(n, *graph.input_shape)) * scale).astype(np.float32)
    expected = framework.run(images)
    found = run_outputs(graph, torch.from_numpy(images))
    assert len(expected) == len(found) == len(model.graph.output)
    for want, have in zip(expected, found, strict=True):
        assert tuple(have.shape) == want.shape
        assert np.isfinite(want).all()
        assert np.ptp(want) > 0  # a constant would compare equal too easily
        assert np.abs(have.numpy() - want).max() <= TOLERANCE * np.abs(want).max()
    return graph


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
