"""Data sets of users: images and labels, brought to the shape the model reads where no doubt is left."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroport.arrays import ChosenRows, Rows, map_npz, paths_of
from neuroport.errors import DataError
from neuroport.events import EventSource, StoredSpikes, has_events, read_events, unified

Shape = tuple[int, ...]
Part = Literal["train", "test"]
_TRAIN_FRACTION = 0.2
_MAX_CLASS = 1_000_000
_MAPPED_FROM = 1 << 28  # bytes of a file; of smaller ones, which are read, the archive's checksums are compared
_MIN_IMAGE_AXES = 4  # samples, steps, and two that are no channels
_NAMES = ("x", "y", "t", "p", "spikes", "offsets", "labels")  # of arrays, before the first underscore


@dataclass(frozen=True, eq=False)
class Samples:
    """One part of a data set as it stands in the file: images of each input of the network, or events; and labels.

    Images may stay in their file until they are asked for.
    """

    images: tuple[Rows, ...]
    labels: NDArray[np.int64]
    events: EventSource | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Scaling:
    """What is done to images before the network sees them: (factor * x - mean) / std, mean and std per channel."""

    factor: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def has_moments(self) -> bool:
        """Whether a mean or a standard deviation was given."""
        return set(self.mean) != {0.0} or set(self.std) != {1.0}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of both parts; `images` and `spikes` scale and shape what is asked for.

    The training part calibrates, the test part is what accuracy is measured on. n_steps: steps of recorded spikes,
    None where there are none or any number can be had. held: what must live as long as the samples do.
    """

    name: str
    train: Samples
    test: Samples
    scaling: Scaling
    n_steps: int | None = None
    held: object = None

    @property
    def has_events(self) -> bool:
        """Whether the samples are spikes over time."""
        return self.test.events is not None

    def part(self, part: Part) -> Samples:
        """The samples of one part."""
        return self.train if part == "train" else self.test

    def choose(self, part: Part, n: int | None, seed: int, first: Sequence[int] = ()) -> NDArray[np.int64]:
        """Indices of n samples of a part, all if None: a seeded choice in random order, as files may be sorted.

        first: indices that come before, in this order; at least these are chosen.

        Raises:
            DataError: the part has no sample of such a number.
        """
        total = len(self.part(part))
        if bad := [k for k in first if not 0 <= k < total]:
            raise DataError(
                f"'{self.name}' has no sample {bad[0]}: its {part} part holds {total:,}, numbers 0 to {total - 1}; "
                f"choose among these"
            )
        order = np.random.default_rng(seed).permutation(total)
        order = np.concatenate([np.array(first, order.dtype), order[~np.isin(order, first)]])
        return order[: total if n is None else min(max(n, len(first)), total)]

    def images(
        self, part: Part, index: NDArray[np.int64], shape: Shape, *, inputs: Sequence[Shape] = ()
    ) -> NDArray[np.float32]:
        """Samples [n, *shape] float32, scaled; of a network with several `inputs` joined in C order.

        Raises:
            DataError: the file's shape does not fit, or a value is NaN or infinite.
        """
        arrays = self.part(part).images
        wanted = list(inputs) if len(inputs) > 1 else [shape]
        if len(arrays) != len(wanted):
            raise DataError(
                f"'{self.name}' has {len(arrays)} arrays of images, the model has {len(wanted)} inputs; give one "
                f"array for each: x_train_0, x_train_1, ... and x_test_0, x_test_1, ... in the model's order"
            )
        made = [self._scaled(x[index], s, part) for x, s in zip(arrays, wanted, strict=True)]
        if len(made) == 1:
            return made[0]
        return np.concatenate([x.reshape(len(x), -1) for x in made], 1)

    def _scaled(self, raw: NDArray[np.generic], shape: Shape, part: Part) -> NDArray[np.float32]:
        scaled = raw.astype(np.float32) * np.float32(self.scaling.factor)
        if not np.isfinite(scaled).all():
            raise DataError(f"'{self.name}': images of the {part} part hold NaN or infinite values; clean them first")
        x = fit_shape(scaled, shape, self.name)
        if not self.scaling.has_moments:
            return x
        mean, std = (_per_channel(values, shape) for values in (self.scaling.mean, self.scaling.std))
        return (x - mean) / std

    def spikes(self, part: Part, index: NDArray[np.int64], shape: Shape, n_steps: int) -> NDArray[np.uint8]:
        """Event data [n, T, *shape] of the chosen samples.

        Raises:
            DataError: recordings of another length or shape.
        """
        events = self.part(part).events
        if events is None:
            raise DataError(f"'{self.name}' holds images, not events")
        spikes = events.take(index, n_steps, shape)
        channels_first = np.moveaxis(spikes, -1, 2) if spikes.ndim == len(shape) + 2 > _MIN_IMAGE_AXES else spikes
        for arranged in (spikes, channels_first, spikes[:, :, None]):
            if arranged.shape[2:] == shape:
                return np.ascontiguousarray(arranged)
        if len(shape) == 1 and spikes[0, 0].size == shape[0]:
            return spikes.reshape(len(spikes), n_steps, *shape)
        raise DataError(
            f"'{self.name}': events have shape {list(spikes.shape[2:])}, the model reads {list(shape)}; "
            f"give spikes as [N, T, {', '.join(map(str, shape))}]"
        )


def _per_channel(values: tuple[float, ...], shape: Shape) -> NDArray[np.float32]:
    if len(values) not in (1, shape[0]):
        raise DataError(
            f"--mean and --std hold {len(values)} numbers, the model's input {list(shape)} has {shape[0]} channels; "
            f"give one number, or one for each channel"
        )
    return np.array(values, np.float32).reshape(-1, *[1] * (len(shape) - 1))


def load_npz(
    path: Path,
    *,
    scale: float | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seed: int = 0,
) -> Dataset:
    """The data set in a `.npz` file.

    Images: x_train, y_train, x_test, y_test, or x, y; for a network with several inputs x_train_0, x_train_1, ...
    Event data: spikes [N, T, ...] with y, or t, x, y, p, offsets and labels, each as it is or with _train and _test.
    uint8 images are multiplied by 1/255 unless `scale` says otherwise, float ones by `scale` if given; then `mean` is
    subtracted and the result divided by `std`. One array is split by the seed: a fifth calibrates, the rest is the
    test part. Nothing pickled is read; images that are stored uncompressed stay in the file until they are asked for.

    Raises:
        DataError: unreadable, arrays missing, lengths that differ, labels that are no class numbers.
    """
    return dataset_of(_read_arrays(path), path, scale=scale, mean=mean, std=std, seed=seed)


def is_read(name: str) -> bool:
    """Whether an array of this name means something in a data set."""
    return name.split("_")[0] in _NAMES


def long_arrays(names: Iterable[str]) -> set[str]:
    """Those of a file's arrays that hold what is shown, and not labels or offsets."""
    stems = {name: name.removesuffix("_train").removesuffix("_test") for name in names}
    has_addresses = has_events(stems) and "offsets" in stems.values()
    long = {"t", "t_us", "x", "y", "p", "spikes"} if has_addresses else {"spikes"}
    return {name for name, stem in stems.items() if stem in long or (name.startswith("x") and not has_addresses)}


def dataset_of(
    arrays: Mapping[str, Rows],
    path: Path,
    *,
    scale: float | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seed: int = 0,
    held: object = None,
) -> Dataset:
    """The data set of arrays named as in a `.npz` file; see load_npz. path: for messages; held: see Dataset.

    Arrays of images and of events may lie in files; labels and offsets are in memory.

    Raises:
        DataError: arrays missing, lengths that differ, labels that are no class numbers.
    """
    _check_scaling(scale, mean, std)
    if has_events(arrays):
        return _event_set(arrays, path, seed, has_scaling=scale is not None or bool(mean or std), held=held)
    train, test = _parts(arrays, path, seed)
    for x in (*train.images, *test.images):
        if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
            raise DataError(f"'{path}': images are {x.dtype}; uint8 (0 to 255) or float is read; convert them first")
    kinds = {x.dtype == np.uint8 for x in (*train.images, *test.images)}
    if len(kinds) > 1:
        raise DataError(
            f"'{path}': training images are {train.images[0].dtype}, test images {test.images[0].dtype}, so one scale "
            f"cannot fit both; store both as uint8 or both as float"
        )
    default = 1 / 255 if kinds == {True} else 1.0
    factor = default if scale is None else scale
    scaling = Scaling(factor, tuple(mean) or (0.0,), tuple(std) or (1.0,))
    return Dataset(path.name, train, test, scaling, held=held)


def _check_scaling(scale: float | None, mean: Sequence[float], std: Sequence[float]) -> None:
    if scale is not None and not 0 < scale < math.inf:
        raise DataError(f"--scale must be a number above 0, got {scale}")
    if not all(0 < s < math.inf for s in std) or not all(math.isfinite(m) for m in mean):
        raise DataError(f"--mean must be finite and --std above 0, got {list(mean)} and {list(std)}")


def _read_arrays(path: Path) -> dict[str, Rows]:
    if not path.is_file():
        raise DataError(f"data file '{path}' does not exist")
    if not zipfile.is_zipfile(path):
        raise DataError(f"data file '{path}' is not a .npz archive; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"data file '{path}' holds one array; a .npz with x_train, y_train, ... is read")
            wanted = [name for name in archive.files if is_read(name)]
            large = long_arrays(wanted) if path.stat().st_size >= _MAPPED_FROM else set()
            mapped = {name: map_npz(path, name) for name in large}
            return {name: archive[name] if (m := mapped.get(name)) is None else m for name in wanted}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"data file '{path}' cannot be read as .npz: {reason}") from error


def _event_set(arrays: Mapping[str, Rows], path: Path, seed: int, *, has_scaling: bool, held: object) -> Dataset:
    if has_scaling:
        raise DataError(f"'{path}' holds spikes, which have no scale; leave out --scale, --mean and --std")
    is_split = any(name.endswith("_train") for name in arrays)
    found = []
    for suffix in ("_train", "_test") if is_split else ("",):
        events = read_events(arrays, suffix, path)
        is_plain = f"spikes{suffix}" in arrays and f"labels{suffix}" not in arrays
        name = f"y{suffix}" if is_plain else f"labels{suffix}"  # y of address events is a row
        if name not in arrays:
            raise DataError(
                f"'{path}': labels are missing: {name} is not in the file; one class number for each recording is read"
            )
        found.append((events, _labels(arrays[name][...], name, len(events), path)))
    (first, y_first), (last, y_last) = found[0], found[-1]
    order = np.random.default_rng(seed).permutation(len(first))
    n = max(1, round(_TRAIN_FRACTION * len(first)))
    if is_split:
        first, last = unified(first, last)
        train, test = Samples((), y_first, first), Samples((), y_last, last)
    else:
        parts = (order[:n], order[n:])
        train, test = (Samples((), y_first[k], _Subset(first, k)) for k in parts)
    if not len(train) or not len(test):
        raise DataError(f"'{path}': {len(train)} training and {len(test)} test recordings; both parts are needed")
    n_steps = first.spikes.shape[1] if isinstance(first, StoredSpikes) else None
    return Dataset(path.name, train, test, Scaling(), n_steps, held)


@dataclass(frozen=True, eq=False)
class _Subset:
    """Some recordings of a source."""

    source: EventSource
    chosen: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, index: NDArray[np.int64], n_steps: int, shape: Shape) -> NDArray[np.uint8]:
        return self.source.take(self.chosen[index], n_steps, shape)


def _image_names(arrays: Mapping[str, Rows], part: str) -> list[str]:
    """x_train, or x_train_0, x_train_1, ... in order."""
    several = [f"{part}_{k}" for k in range(len(arrays)) if f"{part}_{k}" in arrays]
    return several if several and part not in arrays else [part]


def _parts(arrays: Mapping[str, Rows], path: Path, seed: int) -> tuple[Samples, Samples]:
    has_parts = any(name.startswith(("x_train", "x_test")) for name in arrays)
    inputs = {part: _image_names(arrays, part) for part in (("x_train", "x_test") if has_parts else ("x",))}
    wanted = [name for names in inputs.values() for name in names] + (["y_train", "y_test"] if has_parts else ["y"])
    missing = [name for name in wanted if name not in arrays]
    if missing:
        what = "labels are missing" if all(name.startswith("y") for name in missing) else "arrays are missing"
        raise DataError(
            f"'{path}': {what}: {', '.join(missing)} not found among {', '.join(sorted(arrays)) or 'no arrays'}; "
            f"give x_train, y_train, x_test, y_test or x, y"
        )
    scalars = [name for name in wanted if not arrays[name].shape]
    if scalars:
        raise DataError(f"'{path}': {', '.join(scalars)} is a single number; an array with one entry per image is read")
    made = {}
    for part, names in inputs.items():
        images = tuple(arrays[name] for name in names)
        label = part.replace("x", "y", 1)
        if len({len(x) for x in images}) > 1:
            raise DataError(f"'{path}': {', '.join(names)} hold {[len(x) for x in images]} samples; one each is needed")
        made[part] = Samples(images, _labels(np.asarray(arrays[label]), label, len(images[0]), path))
    if has_parts:
        train, test = made["x_train"], made["x_test"]
    else:
        whole = made["x"]
        order = np.random.default_rng(seed).permutation(len(whole))
        n = max(1, round(_TRAIN_FRACTION * len(whole)))
        parts = (order[:n], order[n:])
        train, test = (Samples(tuple(_rows(x, k) for x in whole.images), whole.labels[k]) for k in parts)
    if not len(train) or not len(test):
        raise DataError(f"'{path}': {len(train)} training and {len(test)} test samples; both parts are needed")
    return train, test


def _rows(x: Rows, chosen: NDArray[np.int64]) -> Rows:
    """Some rows; those of a file are left there."""
    return ChosenRows(x, chosen) if paths_of(x) else x[chosen]


def _labels(y: NDArray[np.generic], name: str, n: int, path: Path) -> NDArray[np.int64]:
    flat = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if flat.ndim != 1 or len(flat) != n:
        raise DataError(f"'{path}': {name} has shape {list(y.shape)}; one class number for each of {n} images is read")
    if not np.issubdtype(flat.dtype, np.integer) or (n and int(flat.min()) < 0):
        raise DataError(f"'{path}': {name} holds {flat.dtype} values; class numbers 0, 1, 2, ... are read")
    if n and int(flat.max()) > _MAX_CLASS:
        raise DataError(f"'{path}': {name} holds {int(flat.max())}; class numbers up to {_MAX_CLASS:,} are read")
    return flat.astype(np.int64)


def fit_shape(x: NDArray[np.float32], shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """x [N, ...] as [N, *shape]: as it is, with a channel axis added, channels brought first, or flattened.

    Raises:
        DataError: no arrangement fits without doubt.
    """
    found = candidate_shapes(x)
    for arranged in found:
        if arranged.shape[1:] == shape:
            return np.ascontiguousarray(arranged)
    if x.ndim == 2 and len(shape) == 3 and shape[0] == 1 and x.shape[1] == math.prod(shape):
        return x.reshape(len(x), *shape)
    raise DataError(
        f"'{name}': images have shape {list(x.shape[1:])}, the model reads {list(shape)}; "
        f"give them as [N, {', '.join(map(str, shape))}]"
    )


def candidate_shapes(x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The arrangements of x that a model may read, the likeliest first."""
    found = [x]
    if x.ndim == 3:
        found.insert(0, x[:, None])
    if x.ndim == 4:
        found.append(x.transpose(0, 3, 1, 2))
    if x.ndim > 2 and (x.ndim == 3 or 1 in (x.shape[1], x.shape[-1])):
        found.append(x.reshape(len(x), -1))
    return found
