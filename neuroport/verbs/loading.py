"""What the verbs of the command line start from: a trained network and a user's data set that fit each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.load import LoadedAnn, load_ann, names_callable
from neuroport.data import Dataset, Part, candidate_shapes
from neuroport.data_sources import load_dataset
from neuroport.datasheets import data_dir
from neuroport.errors import DataError, UsageError
from neuroport.validation.outputs import TestSet

CALIBRATION_SAMPLES = 1000  # where a recipe says nothing else
_MIN_CLASSES = 2
_EXAMPLES = 3  # samples a module is traced with


@dataclass(frozen=True)
class Source:
    """Where a trained network and its data come from.

    model: `.pt2` or `.onnx` file, `package.module:callable`, an nn.Module, or None for the embedded digits example.
    data: a .npz or HDF5 file, a folder of images, or package.module:callable (load_dataset); image_size: of a folder's.
    scale, mean, std: what the network sees is (scale * image - mean) / std, mean and std per channel. seed: chooses
    calibration and test samples.
    """

    model: str | Path | torch.nn.Module | None = None
    weights: Path | None = None
    data: Path | None = None
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    seed: int = 0
    image_size: int | None = None

    def __post_init__(self) -> None:
        """Paths may be given as text."""
        for name in ("weights", "data", "out", "shared"):
            if isinstance(value := getattr(self, name, None), str):
                object.__setattr__(self, name, Path(value))


def load_source(source: Source, n_steps: int) -> tuple[LoadedAnn, Dataset]:
    """The network and the data set of a source.

    n_steps: that address events are binned to where a module is traced with them.

    Raises:
        UsageError: wrong options or files. ConversionError: the network uses what neuroport does not convert.
    """
    if source.model is None:
        if source.weights is not None:
            raise UsageError("--weights needs a MODEL to load them into")
        folder = data_dir("digits")
        ann = load_ann(folder / "digits.pt2")
        return ann, _read(source, source.data or folder / "digits.npz")
    if not isinstance(source.model, torch.nn.Module) and not names_callable(source.model):
        ann = load_ann(source.model, weights=source.weights)
        return ann, _read(source, _needed(source.data))
    dataset = _read(source, _needed(source.data))
    return load_ann(source.model, examples=_examples(dataset, n_steps), weights=source.weights), dataset


class Loaded(Protocol):
    """A network that was read, trained or spiking, as the data have to fit it."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample, several inputs joined."""

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Of every input."""

    @property
    def outputs(self) -> list[tuple[str, tuple[int, ...]]]:
        """Name and shape of every output."""


def take_samples(
    ann: Loaded,
    dataset: Dataset,
    part: Part,
    n: int | None,
    *,
    seed: int,
    n_steps: int,
    first: Sequence[int] = (),
) -> TestSet:
    """n samples of a part, all if None: a seeded choice, in the shape the network reads; n_steps of event data.

    first: numbers of those that come before.
    """
    index = dataset.choose(part, n, seed, first)
    labels = dataset.part(part).labels[index]
    if not dataset.has_events:
        images = dataset.images(part, index, ann.input_shape, inputs=ann.input_shapes)
        return TestSet(images, labels, numbers=index)
    spikes = dataset.spikes(part, index, ann.input_shape, n_steps)
    return TestSet(spikes.mean(1, dtype=np.float32), labels, spikes, index)


def check_labels(labels: NDArray[np.int64], ann: Loaded) -> None:
    """Refuse labels that the network has no class for.

    Raises:
        DataError: one output only, or a class number beyond the last.
    """
    n_classes = math.prod(ann.outputs[0][1])
    if n_classes < _MIN_CLASSES:
        raise DataError(f"the model has {n_classes} output; accuracy is measured on class scores of 2 or more")
    if int(labels.max()) >= n_classes:
        raise DataError(
            f"labels go up to {int(labels.max())}, the model has {n_classes} outputs (classes 0 to {n_classes - 1}); "
            f"is this the data set it was trained on?"
        )


def load_data(source: Source) -> Dataset:
    """The data set of a source whose network was read already.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    return _read(source, _needed(source.data))


def _read(source: Source, path: Path) -> Dataset:
    return load_dataset(
        path,
        scale=source.scale,
        mean=source.mean,
        std=source.std,
        seed=source.seed,
        image_size=source.image_size,
    )


def _needed(data: Path | None) -> Path:
    if data is None:
        raise UsageError("--data is needed with a MODEL: calibration and accuracy need images and labels (.npz, ...)")
    return data


def _examples(dataset: Dataset, n_steps: int) -> list[torch.Tensor | tuple[torch.Tensor, ...]]:
    """Inputs to trace a module with, the likeliest shape first."""
    index = np.arange(min(_EXAMPLES, len(dataset.train)))
    if dataset.train.events is not None:
        spikes = dataset.train.events.take(index, dataset.n_steps or n_steps, ())
        return [torch.from_numpy(spikes.mean(1, dtype=np.float32))]
    factor = np.float32(dataset.scaling.factor)
    raw = [x[index].astype(np.float32) * factor for x in dataset.train.images]
    if len(raw) > 1:
        return [tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in raw)]
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in candidate_shapes(raw[0])]
