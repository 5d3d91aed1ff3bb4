"""Finds the trained network a user names: a `.pt2` or `.onnx` file, `package.module:callable`, or a module."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray

from neuroport.ann.archive import check_archive
from neuroport.ann.frameworks import Framework, TorchFramework
from neuroport.ann.from_torch import Example, export_module, graph_from_exported, silence, stop_training
from neuroport.ann.graph import AnnGraph
from neuroport.errors import ModelFileError, NeuroportError, UsageError


@dataclass(frozen=True, eq=False)
class LoadedAnn:
    """A trained network: its graph as we read it, and the framework it came from as the judge."""

    name: str
    graph: AnnGraph
    framework: Framework

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, [C, H, W] or [N]; [N] where several inputs are joined."""
        return self.graph.input_shape

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Shape of one sample of every input."""
        return [node.shape for node in self.graph.inputs]

    @property
    def outputs(self) -> list[tuple[str, tuple[int, ...]]]:
        """Name and shape of every output."""
        return [(name, self.graph.by_name[name].shape) for name in self.graph.outputs]

    @property
    def precision(self) -> float:
        """Relative step of the numbers the framework computes in: 1.2e-7 for float32."""
        return self.framework.precision

    def run_framework(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [N, n_out] as the framework itself computes them for images [N, ...]: its first output, flattened."""
        return self.run_outputs(images)[0].reshape(len(images), -1)

    def run_outputs(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Every output, each [N, ...], as the framework itself computes it for images [N, ...]."""
        return self.framework.run(images)


def load_ann(
    model: str | Path | torch.nn.Module,
    *,
    examples: Sequence[Example] = (),
    weights: Path | None = None,
) -> LoadedAnn:
    """The trained network behind a name.

    Args:
        model: a `.pt2` file written by torch.export.save, an `.onnx` file, `package.module:callable` returning an
            nn.Module, or one.
        examples: [N, ...] inputs to trace a module with, tuples of them for several inputs; the first that it takes is
            used. Not needed for files.
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
        return _read_file(Path(model))
    if weights is not None:
        _load_weights(module, weights)
    program = export_module(module, _accepted(name, module, examples))
    return LoadedAnn(name, graph_from_exported(program), TorchFramework(program))


def _read_file(path: Path) -> LoadedAnn:
    if path.suffix == ".onnx":
        from neuroport.ann.from_onnx import load_onnx  # only who reads ONNX needs its packages

        graph, framework = load_onnx(path)
        return LoadedAnn(path.stem, graph, framework)
    if path.suffix == ".nir":
        raise ModelFileError(
            f"'{path}' is a spiking network, no trained ANN; `neuroport deploy` takes it, neuroport.read_nir reads it"
        )
    program = read_exported(path)
    return LoadedAnn(path.stem, graph_from_exported(program), TorchFramework(program))


def names_callable(model: str | Path) -> bool:
    """Whether a MODEL is `package.module:callable` and not a file."""
    return ":" in str(model) and not Path(model).exists()


def _accepted(name: str, module: torch.nn.Module, examples: Sequence[Example]) -> Example:
    """The first example that the module runs on and answers with one row per sample."""
    problem = "no example was given"
    was_training = stop_training(module)
    try:
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        for example in examples:
            given = [x.to(dtype) for x in (example if isinstance(example, tuple) else (example,))]
            batch = tuple(x.clone() if len(x) > 1 else torch.cat([x, x]) for x in given)
            try:
                with torch.no_grad():
                    answer = module(*(x.clone() for x in batch))
            except Exception as error:  # noqa: BLE001 - the user's own code; the reason is reported below
                problem = _reason(error)
                continue
            if _has_rows(answer, len(batch[0])):
                return batch
            problem = "its output is not one row of scores per sample"
    finally:
        for m in was_training:
            m.training = True
    tuples = [example if isinstance(example, tuple) else (example,) for example in examples]
    shapes = ", ".join(" and ".join(str(list(x.shape[1:])) for x in example) for example in tuples)
    raise UsageError(f"'{name}' takes no input of shape {shapes or 'any'} (--data): {problem}")


def _has_rows(answer: Any, n: int) -> bool:
    """Whether every tensor of an answer has one row per sample, the first with several numbers in it."""
    tensors = [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]
    return bool(tensors) and tensors[0].ndim > 1 and all(t.ndim > 0 and len(t) == n for t in tensors)


def read_exported(path: Path) -> torch.export.ExportedProgram:
    """The program in a `.pt2` file; no pickled code of the file is ever run.

    torch.export.load falls back to full unpickling where a tensor archive does not pass the safe reader
    (torch/_export/serde/serialize.py, deserialize_torch_artifact; seen with torch 2.13), so the safe reader is forced.

    Raises:
        ModelFileError: missing, not an archive of torch.export, damaged, or with pickled objects inside.
    """
    if not path.is_file():
        raise ModelFileError(
            f"model file '{path}' does not exist; give a .pt2 or .onnx file or package.module:callable"
        )
    if path.suffix != ".pt2":
        raise ModelFileError(
            f"model file '{path}' is not a .pt2 or .onnx file; a {path.suffix or 'file without suffix'} may be a "
            f"pickle that runs code when it is read; write the model with torch.export.save or torch.onnx.export, or "
            f"name its code as package.module:callable with --weights"
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
