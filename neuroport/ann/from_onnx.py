"""The ONNX front end: reads a `.onnx` file without leaving its folder, and judges it with onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroport.ann.graph import AnnGraph
from neuroport.ann.onnx_model.session import open_session
from neuroport.ann.onnx_model.text import plain, reason
from neuroport.errors import InvalidNetworkError, ModelFileError, UnsupportedOperatorError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_BATCH = 256
_DTYPES = {1: np.float32, 10: np.float16, 11: np.float64}  # by the numbers of onnx.TensorProto.DataType
_OLDEST = 7  # broadcasting as in numpy begins here


@dataclass(frozen=True)
class OnnxInput:
    """One input of the network: its name, the shape of one sample, its dtype, and its batch, None where free."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    batch: int | None

    @property
    def size(self) -> int:
        """Numbers per sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class OnnxFramework:
    """The model as onnxruntime computes it, the judge of what was read. model: the file with its weights inside."""

    name: str
    model: bytes
    inputs: tuple[OnnxInput, ...]
    outputs: tuple[str, ...]
    fixed_batch: int | None

    def run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Every output, [N, ...] in the graph's order, for images [N, *input_shape], whatever batch the file fixed.

        Several inputs: a sample joins all of them in C order.

        Raises:
            ModelFileError: onnxruntime does not run the model.
        """
        rows = images.reshape(len(images), math.prod(images.shape[1:]))
        size = self.fixed_batch or _BATCH
        chunks = [self._run_chunk(rows[start : start + size]) for start in range(0, max(len(rows), 1), size)]
        return [np.concatenate(output) for output in zip(*chunks, strict=True)]

    @property
    def precision(self) -> float:
        """Relative step of the numbers the framework computes in: 1.2e-7 for float32."""
        return max(float(np.finfo(given.dtype).eps) for given in self.inputs)

    def _run_chunk(self, rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        n = len(rows)
        missing = (self.fixed_batch or max(n, 1)) - n
        padded = np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)]) if missing else rows
        feeds, begin = {}, 0
        for given in self.inputs:
            part = padded[:, begin : begin + given.size].reshape(len(padded), *given.shape)
            feeds[given.name] = np.ascontiguousarray(part, given.dtype)
            begin += given.size
        session = self._session
        try:
            found = session.run(list(self.outputs), feeds)
        except Exception as error:
            raise self._failed(error) from error
        return [np.asarray(output, np.float32)[:n] for output in found]

    @cached_property
    def _session(self) -> Any:
        try:
            return open_session(self.model)
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> ModelFileError:
        return ModelFileError(
            f"onnxruntime does not run '{self.name}', so nothing can be compared with it: {reason(error)}; check the "
            f"file with onnx.checker, or update onnxruntime"
        )


def load_onnx(path: Path) -> tuple[AnnGraph, OnnxFramework]:
    """The ANN graph of a `.onnx` file, and the same model in onnxruntime.

    Raises:
        UsageError: onnx or onnxruntime is not installed.
        ModelFileError: missing, damaged, not ONNX, or with weights outside its own folder.
        ConversionError: the network uses what neuroport does not convert.
    """
    onnx = _import("onnx")
    _import("onnxruntime")
    from neuroport.ann.onnx_model.reader import OnnxSource, read_graph

    model = _read_model(path)
    opset = _opset(path, model)
    whole = model.SerializeToString()
    if model.functions:
        model = _import("onnx.inliner").inline_local_functions(model)
    try:
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    except Exception as error:
        raise _damaged(path, error) from error
    inputs = _inputs(path.name, model, set(constants))
    fixed = _common_batch(path.name, inputs)
    source = OnnxSource(path.name, model.graph, opset, tuple((i.name, i.shape) for i in inputs), constants)
    graph = read_graph(source, fixed)
    outputs = tuple(value.name for value in model.graph.output)
    return graph, OnnxFramework(path.name, whole, inputs, outputs, fixed)


def _import(name: str) -> Any:
    """A package of the onnx extra, which only reading a `.onnx` file needs."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"reading .onnx files needs the package '{name.partition('.')[0]}', which cannot be imported; "
            f'install it with pip install "neuroport[onnx]"'
        ) from error


def _read_model(path: Path) -> ModelProto:
    """The model with all its weights inside, checked."""
    onnx = _import("onnx")
    if not path.is_file():
        raise ModelFileError(f"model file '{path}' does not exist, or is not a file; give a .onnx file")
    try:
        model: ModelProto = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:
        raise _damaged(path, error) from error
    if not model.HasField("graph") or not model.opset_import:
        raise ModelFileError(f"'{path}' is not an ONNX model, or was cut short: it holds no graph; export it again")
    for tensor in _external_tensors(model):
        _read_external(path, tensor)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise _damaged(path, error) from error
    return model


def _damaged(path: Path, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"'{path}' is not a valid ONNX model, or is damaged: {reason(error)}; export it again, or update onnx"
    )


def _external_tensors(message: Any) -> Iterator[Any]:
    """Every tensor of the model, wherever it hides, whose numbers are kept in another file."""
    if message.DESCRIPTOR.full_name == "onnx.TensorProto":
        if message.data_location == message.EXTERNAL:
            yield message
        return
    for kind, value in message.ListFields():
        if kind.message_type is not None:
            for part in value if hasattr(value, "__len__") else (value,):
                yield from _external_tensors(part)


def _read_external(path: Path, tensor: Any) -> None:
    """Put a tensor's numbers inside; its file must lie in the model's own folder, also behind links."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not location or PurePosixPath(location).is_absolute() or "\\" in location or not file.is_relative_to(folder):
        raise ModelFileError(
            f"tensor '{plain(tensor.name)}' of '{path}' keeps its numbers in '{plain(location)}'; only files in the "
            f"model's own folder are read; move the file next to the model, or save the model as one file"
        )
    if not file.is_file():
        raise ModelFileError(
            f"'{path}' keeps numbers in the file '{plain(location)}', which is not next to it; copy both files"
        )
    try:
        _import("onnx.external_data_helper").load_external_data_for_tensor(tensor, str(folder))
    except Exception as error:
        raise _damaged(path, error) from error


def _opset(path: Path, model: ModelProto) -> int:
    newest = _import("onnx.defs").onnx_opset_version()
    opset = max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset > newest:
        raise ModelFileError(f"'{path}' uses operator set {opset}; this onnx knows up to {newest}; update onnx")
    if opset < _OLDEST:
        raise UnsupportedOperatorError(
            f"'{path}' uses operator set {opset or 'none'} of ONNX; {_OLDEST} to {newest} are read; convert the file "
            f"with onnx.version_converter, or export it again"
        )
    if model.graph.sparse_initializer:
        raise UnsupportedOperatorError(f"'{path}' holds sparse weights; only dense ones are read; export it with those")
    return opset


def _inputs(file: str, model: ModelProto, weights: set[str]) -> tuple[OnnxInput, ...]:
    """The inputs that are no weights: files of IR versions below 4 list those among the inputs."""
    found = tuple(_input(file, value) for value in model.graph.input if value.name not in weights)
    if not found:
        raise InvalidNetworkError(f"'{file}' has no input, so there is nothing to classify; export it with one")
    return found


def _input(file: str, value: ValueInfoProto) -> OnnxInput:
    name, kind = plain(value.name), value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise InvalidNetworkError(f"input '{name}' of '{file}' is no tensor of known shape; export it with a shape")
    if kind.elem_type not in _DTYPES:
        raise InvalidNetworkError(
            f"input '{name}' of '{file}' holds {_type_name(kind.elem_type)}; float16, float and double are read; "
            f"export the network with a floating-point input"
        )
    dims = [int(d.dim_value) for d in kind.shape.dim]
    if len(dims) < 2:
        raise InvalidNetworkError(
            f"input '{name}' of '{file}' has shape {dims}; the first axis must be the batch and another must follow"
        )
    for axis, (size, dim) in enumerate(zip(dims, kind.shape.dim, strict=True)):
        if axis and size < 1:
            label = plain(dim.dim_param) or "unnamed"
            fixed = ",".join(str(n) if n > 0 else "SIZE" for n in (dims[0] or 1, *dims[1:]))
            raise InvalidNetworkError(
                f"axis {axis} ('{label}') of input '{name}' of '{file}' has no fixed size; only the batch "
                f"axis may be free; export the network for one size, or fix it with python -m "
                f"onnxruntime.tools.make_dynamic_shape_fixed --input_name {name} --input_shape {fixed}"
            )
    return OnnxInput(value.name, tuple(dims[1:]), np.dtype(_DTYPES[kind.elem_type]), dims[0] if dims[0] > 0 else None)


def _type_name(element: int) -> str:
    kinds = _import("onnx").TensorProto.DataType
    return kinds.Name(element).lower() if element in kinds.values() else f"numbers of type {element}"


def _common_batch(file: str, inputs: tuple[OnnxInput, ...]) -> int | None:
    """The batch size that the file fixes, None where every input leaves it free."""
    sizes = {i.batch for i in inputs if i.batch is not None}
    if len(sizes) > 1:
        raise InvalidNetworkError(
            f"the inputs of '{file}' have batches of {sorted(sizes)}; all must have the same first axis; is one "
            f"of them no input of the network but a state?"
        )
    return next(iter(sizes), None)
