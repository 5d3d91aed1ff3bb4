"""In-place operators: what torch answers depends on whose memory it is, so whoever reads the older is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.ann.interpret import run_graph, run_outputs
from neuroport.errors import ConversionError, UnsupportedOperatorError
from tests.ann.torch_nets import Net, read

Function = Callable[[Any, torch.Tensor], torch.Tensor]

SHARED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "view": lambda y: y.view(-1, 3),
    "slice": lambda y: y[:, :2],
    "select": lambda y: y[:, 1:2],
    "chunk": lambda y: y.chunk(3, 1)[0],
    "split": lambda y: y.split([1, 2], 1)[1],
    "unbind": lambda y: y.unbind(1)[2].unsqueeze(1),
    "transpose": lambda y: y.unsqueeze(2).transpose(1, 2)[:, 0],
    "expand": lambda y: y[:, None].expand(-1, 2, -1).flatten(1),
    "detach": lambda y: y.detach(),
    "contiguous": lambda y: y.contiguous(),
    "cast": lambda y: y.float(),
    "type_as": lambda y: y.type_as(torch.ones(1)),
    "dropout": lambda y: F.dropout(y, 0.5, False),
    "alpha_dropout": lambda y: F.alpha_dropout(y, 0.5, False),
    "no_grad": lambda y: ungraded(y),
}

SAME_TENSOR = ("contiguous", "cast", "type_as", "alpha_dropout")


def ungraded(y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return y.view(-1, 3)


@pytest.mark.parametrize("kind", SHARED)
def test_memory_that_an_in_place_operator_has_overwritten_is_not_read(kind: str) -> None:
    """What torch answers depends on whose memory it is; whoever reads an older name of it is refused."""

    def read_later(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.fc(x)
        view = SHARED[kind](y)
        y.relu_()
        return view * 2

    def returned(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.fc(x)
        view = SHARED[kind](y)
        y.relu_()
        return view, y.sum(1)

    def base(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.fc(x)
        SHARED[kind](y).mul_(2)
        return s.last(y)

    x, fc = torch.randn(5, 6), nn.Linear(6, 3).requires_grad_(False)
    refused = 0
    for function, message in ((read_later, "reads"), (returned, "returns"), (base, "reads")):
        module = Net(function, fc=fc, last=nn.Linear(3, 2))
        try:
            graph = graph_from_exported(export_module(module, x))
        except UnsupportedOperatorError as error:
            assert f"{message} memory that an in-place operator has overwritten" in str(error)
            refused += 1
        else:  # torch found that it is one tensor, or that it is none of the base's
            answer = module(x)
            expected = answer if isinstance(answer, tuple) else (answer,)
            for ours, theirs in zip(run_outputs(graph, x), expected, strict=True):
                assert torch.allclose(ours, theirs, atol=1e-6)
    assert refused == (0 if kind in SAME_TENSOR else 3)


@pytest.mark.parametrize(
    "copy", [lambda y: y.clone(), lambda y: torch.cat([y, y], 1), lambda y: F.pad(y, (0, 1)), lambda y: y + 0]
)
def test_copies_are_read_after_an_in_place_operator(copy: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.fc(x)
        kept = copy(y)
        y.relu_()
        return kept[:, :3] - y

    module, x = Net(forward, fc=nn.Linear(6, 3)), torch.randn(4, 6)
    assert torch.allclose(run_graph(graph_from_exported(export_module(module, x)), x), module(x), atol=1e-6)


def test_a_tensor_filled_piece_by_piece_is_refused() -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y[:, :2] = x[:, 2:4]
        return y

    with pytest.raises(UnsupportedOperatorError, match=r"aten\.copy_\.default.*is not converted"):
        read(Net(forward), 3, 6)


@pytest.mark.parametrize(
    "change",
    [
        lambda s, x: s.fc.weight.view(-1).mul_(0.5),
        lambda s, x: s.fc.weight.t().contiguous().t()[:2].mul_(0.5),
        lambda s, x: s.fc.bias.add_(x.mean((0, 1))),
    ],
)
def test_weights_that_are_changed_are_refused(change: Function) -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        change(s, x)
        return s.fc(x)

    module = Net(forward, fc=nn.Linear(6, 3).requires_grad_(False))
    program = torch.export.export(module, (torch.rand(3, 6),), strict=False)
    before = program.state_dict["fc.weight"].clone()
    with pytest.raises(ConversionError, match=r"changes the network's own state|moves or merges"):
        graph_from_exported(program)
    assert torch.equal(program.state_dict["fc.weight"], before)


def test_a_copy_of_a_weight_may_be_changed() -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        weight = s.fc.weight.clone()
        weight[:2].mul_(0.5)
        return F.linear(x, weight) + s.fc.bias.clone().add_(1)

    module, x = Net(forward, fc=nn.Linear(6, 3)), torch.randn(4, 6)
    assert torch.allclose(run_graph(graph_from_exported(export_module(module, x)), x), module(x), atol=1e-6)


def test_a_network_that_changes_its_own_state_is_refused_and_left_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)
            self.register_buffer("offset", torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.offset.add_(1.0)
            return F.linear(x, self.fc.weight, self.offset)

    program = export_module(Counting(), torch.rand(3, 4))
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.add_\.Tensor.*changes the network's own state"):
        graph_from_exported(program)
    assert torch.equal(program.state_dict["offset"], torch.zeros(2))
