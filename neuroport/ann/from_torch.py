"""The PyTorch front end: an exported program becomes an ANN graph, or is refused by operator, module and line.

`torch.export` (the only tracer used) resolves modules, functional style and in-place operators to ATen operators, so
what is converted is what runs. Whatever computes from constants alone is evaluated once; every other operator stands
in the table of `torch_program.ops` or is refused.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import torch

from neuroport.ann.graph import AnnGraph, Origin
from neuroport.ann.torch_program.reader import ProgramReader
from neuroport.errors import ConversionError

Example = torch.Tensor | tuple[torch.Tensor, ...]


def graph_from_exported(program: torch.export.ExportedProgram) -> AnnGraph:
    """The ANN graph of an exported program; every input and every output has one row per sample.

    Raises:
        UnsupportedOperatorError: an operator outside the table, with its module path and source line.
        InvalidNetworkError: NaN weights, an output that is no answer, a batch axis that does not stay first.
    """
    return ProgramReader(program).read()


def export_module(module: torch.nn.Module, example: Example) -> torch.export.ExportedProgram:
    """The module in inference mode, exported with a free batch axis.

    Args:
        module: left as it is, and in the mode it was in.
        example: [N, ...] with N >= 2, or one such tensor for each input of forward().

    Raises:
        ConversionError: torch.export cannot trace the module (data-dependent control flow, for instance).
    """
    inputs = tuple(x.clone() for x in (example if isinstance(example, tuple) else (example,)))
    was_training = stop_training(module)
    try:
        batch = torch.export.Dim("batch", min=1)
        free: tuple[Any, ...] = tuple({0: batch} for _ in inputs)
        names = list(inspect.signature(module.forward).parameters.values())
        if names and names[0].kind is inspect.Parameter.VAR_POSITIONAL:
            free = (free,)
        with silence():
            return torch.export.export(module, inputs, dynamic_shapes=free, strict=False)
    except Exception as error:
        place = _place_of(error, module)
        raise ConversionError(
            f"torch.export cannot trace {type(module).__name__}{f' in {place}' if place else ''}: {_reason(error)}; "
            f"networks with control flow that depends on the data, or with a fixed batch size, cannot be converted; "
            f"rewrite forward() without it"
        ) from error
    finally:
        for m in was_training:
            m.training = True


def stop_training(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Switch to inference mode; the modules that were in training mode come back."""
    was_training = [m for m in module.modules() if m.training]
    try:
        module.eval()
    except NotImplementedError:  # of an exported program inside it, which knows no modes
        for m in was_training:
            m.training = False
    return was_training


def _reason(error: Exception) -> str:
    """What torch says in a page, in one line."""
    text = str(error)
    if "data-dependent" in text:
        return "forward() takes a decision, a number or a size from the data (if, while, int(), range(), .item())"
    fixed = re.search(r"specialized it to be a constant \((\d+)\)", text)
    if fixed:
        return f"forward() works only for a batch of {fixed.group(1)} (a view or an index with a fixed batch size)"
    if "Constraints violated" in text:
        return "forward() works only for some batch sizes (an index or a size that depends on the batch size)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _place_of(error: BaseException, module: torch.nn.Module) -> Origin | None:
    """The module and the line of the user's code that torch.export stopped at."""
    libraries = (Path(torch.__file__).parent, Path(__file__).parent)
    paths = {id(m): path for path, m in module.named_modules()}
    found, path = None, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith("<") or any(PurePath(file).is_relative_to(library) for library in libraries):
            continue
        caller = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))  # self of forward()
        path = paths.get(id(caller), path)
        found = Origin(path, f"{PurePath(file).name}:{line}")
    return found


@contextmanager
def silence() -> Iterator[None]:
    """Keep torch's own logs, graphs and warnings off the terminal: what matters comes as one error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)
