"""What the tests of the PyTorch front end share: tiny modules, and the comparison with torch's own answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.ann.graph import AnnGraph
from neuroport.ann.interpret import run_outputs

# Sums of some hundred products of numbers near 1: float32 errs by less than 1e-5 of the largest value, float64 by
# less than 1e-12 of it.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


class Net(nn.Module):
    """A module from a function of itself and the inputs, with the given children."""

    def __init__(self, function: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic off its default, so that ignoring one of them shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        if tensor.is_floating_point():
            spread = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            positive = name.endswith("running_var")
            tensor.data = (0.2 + 3 * spread if positive else 1.6 * spread - 0.7).to(tensor.dtype)
    return module.eval()


def samples(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def read(module: nn.Module, *shape: int) -> AnnGraph:
    """The graph of a module in inference mode, exported with a free batch axis. shape: with the batch."""
    return graph_from_exported(export_module(module, torch.rand(shape)))


def kinds(graph: AnnGraph) -> list[type]:
    return [type(node.op) for node in graph]


def assert_same(graph: AnnGraph, module: nn.Module, *inputs: torch.Tensor) -> None:
    """Every output of the graph is the module's; the answers depend on the sample."""
    with torch.no_grad():
        answer = module(*(x.clone() for x in inputs))
    expected = [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]
    found = run_outputs(graph, torch.cat([x.flatten(1) for x in inputs], 1))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (theirs - theirs[:1]).abs().max() > 1e-3, "the network answers every sample alike: nothing is tested"
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= TOLERANCE[inputs[0].dtype] * max(1.0, float(theirs.abs().max()))
