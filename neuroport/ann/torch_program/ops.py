"""The table of ATen operators that are converted; what is not in it is refused by the reader."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from neuroport.ann.torch_program.arith import ARITHMETIC
from neuroport.ann.torch_program.calls import CONVERTED, Call, Value, is_in_place, packet
from neuroport.ann.torch_program.layers import LAYERS
from neuroport.ann.torch_program.views import FILLS, VIEWS

__all__ = ["CONVERTED", "FILLS", "TABLE", "is_checked_only", "is_random", "is_shape_arithmetic", "shares_memory"]

# Keyed by operator without overload; the functions read arguments by their name in the overload's schema.
TABLE: Mapping[str, Callable[[Call], Value]] = {**LAYERS, **ARITHMETIC, **VIEWS}

# Return their argument itself at times, though their schema does not say so.
_MAY_RETURN_ITS_ARGUMENT = {
    *("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout"),
    *("aten.type_as", "aten.channel_shuffle", "aten.detach_", "aten.atleast_2d"),
}
_ARITHMETIC: frozenset[Any] = frozenset(
    [
        *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.neg),
        *(operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
        *(operator.and_, operator.or_, operator.not_, math.ceil, math.floor, math.trunc),
        *(torch.sym_max, torch.sym_min, torch.sym_float, torch.sym_int, torch.sym_not, torch.sym_ite),
    ]
)
_UNINITIALIZED = {"aten.empty", "aten.empty_like", "aten.new_empty", "aten.empty_strided", "aten.empty_permuted"}


def shares_memory(node: fx.Node) -> bool:
    """Whether the result may be its first argument or a view of it."""
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    aliases = any(result.alias_info is not None for result in node.target._schema.returns)
    return aliases or packet(node) in _MAY_RETURN_ITS_ARGUMENT or is_in_place(node)


def is_random(node: fx.Node) -> bool:
    """Whether two calls may differ: random numbers, or memory as it was found."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return not is_shape_arithmetic(node) and node.target is not operator.getitem
    return torch.Tag.nondeterministic_seeded in node.target.tags or packet(node) in _UNINITIALIZED


def is_shape_arithmetic(node: fx.Node) -> bool:
    """Whether a call asks for a size or computes with sizes."""
    return packet(node) in ("aten.sym_size", "aten.sym_numel") or node.target in _ARITHMETIC


def is_checked_only(node: fx.Node) -> bool:
    """Whether a call only checks something and has no result."""
    return packet(node).startswith(("aten._assert_", "aten.sym_constrain_range"))
