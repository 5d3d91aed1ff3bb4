"""Finds the trained network a user names: a `.pt2` file, `package.module:callable`, or a module in memory."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.archive import check_archive
from neuroport.ann.from_torch import export_module, graph_from_exported, silence
from neuroport.ann.graph import AnnGraph
from neuroport.errors import ModelFileError, NeuroportError, UsageError

_BATCH = 256


@dataclass(frozen=True, eq=False)
class LoadedAnn:
    """A trained network: its graph as we read it, and the program of the framework it came from as the judge."""

    name: str
    graph: AnnGraph
    program: torch.export.ExportedProgram

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, [C, H, W] or [N]."""
        return self.graph.input.shape

    def run_framework(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [N, n_out] as the framework itself computes them for images [N, ...], whatever batch it fixed."""
        module = self.program.module()
        fixed = self._fixed_batch()
        size = fixed or _BATCH
        out = []
        with torch.no_grad():
            for start in range(0, len(images), size):
                chunk = images[start : start + size]
                n = len(chunk)
                if fixed and n < fixed:
                    chunk = np.concatenate([chunk, np.zeros((fixed - n, *chunk.shape[1:]), chunk.dtype)])
                x = torch.from_numpy(np.ascontiguousarray(chunk)).to(self._input_value().dtype)
                out.append(module(x)[:n].float().numpy())
        return np.concatenate(out).reshape(len(images), -1)

    @property
    def precision(self) -> float:
        """Relative step of the numbers the framework computes in: 1.2e-7 for float32."""
        return float(torch.finfo(self._input_value().dtype).eps)

    def _fixed_batch(self) -> int | None:
        batch: object = self._input_value().shape[0]  # a torch.SymInt where the batch is free
        return batch if isinstance(batch, int) else None

    def _input_value(self) -> torch.Tensor:
        """Shape and dtype of the input as torch.export wrote them."""
        name = next(iter(self.program.graph_signature.user_inputs))
        value: torch.Tensor = next(n for n in self.program.graph.nodes if n.name == name).meta["val"]
        return value


def load_ann(
    model: str | Path | torch.nn.Module,
    *,
    examples: Sequence[torch.Tensor] = (),
    weights: Path | None = None,
) -> LoadedAnn:
    """The trained network behind a name.

    Args:
        model: a `.pt2` file written by torch.export.save, `package.module:callable` returning an nn.Module, or one.
        examples: [N, ...] inputs to trace a module with; the first that it takes is used. Not needed for `.pt2`.
        weights: state dict for the module, read with weights_only=True.

    Raises:
        ModelFileError: missing, damaged, or a pickle. UsageError: the callable is not there or fails.
        ConversionError: the network uses what neuroport does not convert.
    """
    if isinstance(model, torch.nn.Module):
        name, module = type(model).__name__, model
    elif names_callable(model):
        name, module = str(model).rsplit(":", 1)[1], _build_module(str(model))
    else:
        if weights is not None:
            raise UsageError(f"--weights goes with package.module:callable; '{model}' holds its own weights")
        program = read_exported(Path(model))
        return LoadedAnn(Path(model).stem, graph_from_exported(program), program)
    if weights is not None:
        _load_weights(module, weights)
    program = export_module(module, _accepted(name, module, examples))
    return LoadedAnn(name, graph_from_exported(program), program)


def names_callable(model: str | Path) -> bool:
    """Whether a MODEL is `package.module:callable` and not a file."""
    return ":" in str(model) and not Path(model).exists()


def _accepted(name: str, module: torch.nn.Module, examples: Sequence[torch.Tensor]) -> torch.Tensor:
    """The first example that the module runs on and answers with one row per sample."""
    problem = "no example was given"
    was_training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        for example in (given.to(dtype) for given in examples):
            batch = example if len(example) > 1 else torch.cat([example, example])
            try:
                with torch.no_grad():
                    answer = module(batch)
            except Exception as error:  # noqa: BLE001 - the user's own code; the reason is reported below
                problem = _reason(error)
                continue
            if isinstance(answer, torch.Tensor) and answer.ndim > 1 and len(answer) == len(batch):
                return batch
            problem = "its output is not one row of scores per sample"
    finally:
        for m in was_training:
            m.training = True
    shapes = ", ".join(str(list(e.shape[1:])) for e in examples)
    raise UsageError(f"'{name}' takes no input of shape {shapes or 'any'} (--data): {problem}")


def read_exported(path: Path) -> torch.export.ExportedProgram:
    """The program in a `.pt2` file; no pickled code of the file is ever run.

    torch.export.load falls back to full unpickling where a tensor archive does not pass the safe reader
    (torch/_export/serde/serialize.py, deserialize_torch_artifact; seen with torch 2.13), so the safe reader is forced.

    Raises:
        ModelFileError: missing, not an archive of torch.export, damaged, or with pickled objects inside.
    """
    if not path.is_file():
        raise ModelFileError(f"model file '{path}' does not exist; give a .pt2 file or package.module:callable")
    if path.suffix != ".pt2":
        raise ModelFileError(
            f"model file '{path}' is not a .pt2 file; a {path.suffix or 'file without suffix'} may be a pickle that "
            f"runs code when it is read; write the model with torch.export.save, or name its code as "
            f"package.module:callable with --weights"
        )
    if not zipfile.is_zipfile(path):
        raise ModelFileError(f"'{path}' is not an archive of torch.export (not a zip file); was it cut short?")
    try:
        with _safe_loading():
            check_archive(path)
            program = torch.export.load(path)
            program._guards_code = []  # Python of the file, which module() would run; our inputs need no guard
            return program
    except Exception as error:
        raise ModelFileError(
            f"'{path}' is not an archive of torch.export, is damaged, or holds pickled objects, which are never run; "
            f"write it again with torch.export.save (this is torch {torch.__version__})"
        ) from error


@contextmanager
def _safe_loading() -> Iterator[None]:
    """Force weights_only=True for every torch.load inside, and keep torch's own tracebacks off the terminal."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        with silence():
            yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _build_module(path: str) -> torch.nn.Module:
    module_name, _, attribute = path.rpartition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"cannot import '{module_name}' of '{path}': {_reason(error)}") from error
    factory = getattr(found, attribute, None)
    if not callable(factory):
        raise UsageError(f"module '{module_name}' has no callable '{attribute}'")
    try:
        built = factory()
    except NeuroportError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"'{path}()' failed: {type(error).__name__}: {_reason(error)}") from error
    if not isinstance(built, torch.nn.Module):
        raise UsageError(f"'{path}()' returned {type(built).__name__}; it must return a torch.nn.Module")
    return built


def _load_weights(module: torch.nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ModelFileError(f"weights file '{path}' does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelFileError(
            f"weights file '{path}' is damaged, or holds pickled objects, which are never run; "
            f"save model.state_dict() with torch.save"
        ) from error
    try:
        module.load_state_dict(state.get("state_dict", state))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelFileError(f"cannot load '{path}' into {type(module).__name__}: {' '.join(lines)[:400]}") from error


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
