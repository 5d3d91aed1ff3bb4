"""Networks in which something else reads, or nothing reads, what a pass would change."""

import pytest
import torch
from torch import nn

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.ann.interpret import run_graph
from neuroport.ann.simplify import simplify
from neuroport.errors import UnsupportedOperatorError
from neuroport.snn.build import BuildOptions, build_network
from neuroport.snn.rates import forward_rates


class DeadBatchNorm(nn.Module):
    """A batch norm whose result is thrown away, behind the output layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)
        self.norm.running_var.fill_(9.0)

    def forward(self, x):
        y = self.layer(x)
        self.norm(y)
        return y


class Memory(nn.Module):
    """A buffer that changes at every call."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.register_buffer("gain", torch.ones(4, 1))

    def forward(self, x):
        self.gain.mul_(0.5)
        return nn.functional.linear(x, self.layer.weight * self.gain)


class PoolViewConv(nn.Module):
    """A pool whose result the next convolution reads under another shape."""

    def __init__(self, channels, height, width):
        super().__init__()
        self.shape = (channels, height, width)
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(channels, 3, 2, stride=2)

    def forward(self, x):
        y = nn.functional.avg_pool2d(torch.relu(self.first(x)), 2)
        return self.second(y.view(-1, *self.shape)).flatten(1)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_dead_batch_norm_changes_nothing(decomposed):
    torch.manual_seed(0)
    module, x = DeadBatchNorm().eval(), torch.randn(5, 6)
    program = export_module(module, x)
    graph = graph_from_exported(program.run_decompositions() if decomposed else program)
    assert torch.allclose(run_graph(simplify(graph), x), module(x), rtol=1e-5, atol=1e-6)
    assert len(graph.nodes) == 2  # the batch norm is not there at all


def test_memory_is_refused_in_either_form():
    program = export_module(Memory().eval(), torch.randn(5, 6))
    for form in (program, program.run_decompositions()):
        with pytest.raises(UnsupportedOperatorError):
            graph_from_exported(form)


@pytest.mark.parametrize("shape", [(4, 2, 8), (16, 2, 2), (1, 8, 8), (4, 4, 4)])
def test_a_view_between_pool_and_convolution(shape):
    torch.manual_seed(1)
    module, x = PoolViewConv(*shape).eval(), torch.rand(4, 1, 8, 8)
    graph = graph_from_exported(export_module(module, x))
    network = build_network(simplify(graph), BuildOptions())
    *_, (_, found) = forward_rates(network, x, clip=False)
    assert torch.allclose(found.flatten(1), module(x), rtol=1e-5, atol=1e-6)
