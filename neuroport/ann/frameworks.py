"""The judge: the trained network as the framework it came from runs it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch.export.graph_signature import InputKind, TensorArgument

FloatImages = NDArray[np.float32]
_BATCH = 256


class Framework(Protocol):
    """A trained network that runs without us."""

    @property
    def precision(self) -> float:
        """Relative step of the numbers it computes in: 1.2e-7 for float32."""
        ...

    def run(self, images: FloatImages) -> list[FloatImages]:
        """Every output, each [N, ...], for images [N, *input_shape]; several inputs come joined, in C order."""
        ...


@dataclass(frozen=True, eq=False)
class TorchFramework:
    """A program of torch.export."""

    program: torch.export.ExportedProgram

    @property
    def precision(self) -> float:
        """Relative step of the numbers it computes in: the coarsest of its inputs'."""
        return max(float(torch.finfo(value.dtype).eps) for value in self._inputs)

    def run(self, images: FloatImages) -> list[FloatImages]:
        """Every output, each [N, ...], whatever batch size the program fixed."""
        batch: object = self._inputs[0].shape[0]  # a torch.SymInt where the batch is free
        fixed = batch if isinstance(batch, int) else None
        parts: list[list[torch.Tensor]] = []
        with torch.no_grad():
            for chunk in _chunks(images, fixed or _BATCH):
                n = len(chunk)
                if fixed and n < fixed:
                    chunk = np.concatenate([chunk, np.zeros((fixed - n, *chunk.shape[1:]), chunk.dtype)])
                parts.append([output[:n].float() for output in self._call(chunk)])
        return [torch.cat(list(outputs)).numpy() for outputs in zip(*parts, strict=True)]

    def _call(self, chunk: FloatImages) -> list[torch.Tensor]:
        """Every output for one batch."""
        flat = torch.from_numpy(np.ascontiguousarray(chunk)).reshape(len(chunk), -1)
        given: list[Any] = []
        begin = 0
        inputs = iter(self._inputs)
        for spec in self._specs:
            if not isinstance(spec, TensorArgument):
                given.append(getattr(spec, "value", None))
                continue
            value = next(inputs)
            shape = tuple(int(n) for n in value.shape[1:])
            numbers = flat[:, begin : begin + math.prod(shape)]
            given.append(numbers.reshape(len(chunk), *shape).to(value.dtype))
            begin += math.prod(shape)
        in_spec = self.program.call_spec.in_spec
        args, kwargs = pytree.tree_unflatten(given, in_spec) if in_spec is not None else (given, {})
        return [leaf for leaf in pytree.tree_leaves(self._module(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]

    @cached_property
    def _module(self) -> torch.nn.Module:
        return self.program.module()

    @cached_property
    def _specs(self) -> Sequence[Any]:
        """What each argument of the program is, in order: a tensor or a constant."""
        specs = self.program.graph_signature.input_specs
        return [spec.arg for spec in specs if spec.kind == InputKind.USER_INPUT]

    @cached_property
    def _inputs(self) -> Sequence[torch.Tensor]:
        """Shape and dtype of each input tensor as torch.export wrote them."""
        placeholders = {node.name: node for node in self.program.graph.nodes if node.op == "placeholder"}
        return [placeholders[arg.name].meta["val"] for arg in self._specs if isinstance(arg, TensorArgument)]


def _chunks(images: FloatImages, size: int) -> Iterator[FloatImages]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
