"""Data sets of users: a `.npz` with images and labels, brought to the shape the model reads where no doubt is left."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroport.errors import DataError

Part = Literal["train", "test"]
_TRAIN_FRACTION = 0.2
_MAX_CLASS = 1_000_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of both parts, as they stand in the file; `images` scales and shapes what is asked for.

    The training part calibrates, the test part is what accuracy is measured on.
    """

    name: str
    x_train: NDArray[np.generic]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.int64]
    scale: float

    def choose(self, part: Part, n: int | None, seed: int) -> NDArray[np.int64]:
        """Indices of n samples of a part, all if None: a seeded choice in random order, as files may be sorted."""
        total = len(self.x_train if part == "train" else self.x_test)
        order = np.random.default_rng(seed).permutation(total)
        return order[: total if n is None else min(n, total)]

    def images(self, part: Part, index: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Samples [n, *shape] float32, scaled.

        Raises:
            DataError: the file's shape does not fit, or a value is NaN or infinite.
        """
        raw = (self.x_train if part == "train" else self.x_test)[index]
        scaled = raw.astype(np.float32) * np.float32(self.scale)
        if not np.isfinite(scaled).all():
            raise DataError(f"'{self.name}': images of the {part} part hold NaN or infinite values; clean them first")
        return fit_shape(scaled, shape, self.name)


def load_npz(path: Path, *, scale: float | None = None, seed: int = 0) -> Dataset:
    """The data set in a `.npz` file with x_train, y_train, x_test, y_test, or with x, y.

    uint8 images are multiplied by 1/255 unless `scale` says otherwise, float ones by `scale` if given. x, y are split
    by the seed: a fifth calibrates, the rest is the test part. Nothing pickled is read.

    Raises:
        DataError: unreadable, arrays missing, lengths that differ, labels that are no class numbers.
    """
    if scale is not None and not 0 < scale < math.inf:
        raise DataError(f"--scale must be a number above 0, got {scale}")
    if not path.is_file():
        raise DataError(f"data file '{path}' does not exist")
    if not zipfile.is_zipfile(path):
        raise DataError(f"data file '{path}' is not a .npz archive; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"data file '{path}' holds one array; a .npz with x_train, y_train, ... is read")
            arrays = {name: archive[name] for name in archive.files if name.split("_")[0] in ("x", "y")}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"data file '{path}' cannot be read as .npz: {reason}") from error
    x_train, y_train, x_test, y_test = _parts(arrays, path, seed)
    for x in (x_train, x_test):
        if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
            raise DataError(f"'{path}': images are {x.dtype}; uint8 (0 to 255) or float is read; convert them first")
    if (x_train.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise DataError(
            f"'{path}': training images are {x_train.dtype}, test images {x_test.dtype}, so one scale cannot fit both; "
            f"store both as uint8 or both as float"
        )
    default = 1 / 255 if x_test.dtype == np.uint8 else 1.0
    return Dataset(path.name, x_train, y_train, x_test, y_test, default if scale is None else scale)


def _parts(
    arrays: dict[str, NDArray[np.generic]], path: Path, seed: int
) -> tuple[NDArray[np.generic], NDArray[np.int64], NDArray[np.generic], NDArray[np.int64]]:
    has_parts = "x_train" in arrays or "x_test" in arrays
    wanted = ["x_train", "y_train", "x_test", "y_test"] if has_parts else ["x", "y"]
    missing = [name for name in wanted if name not in arrays]
    if missing:
        what = "labels are missing" if all(name.startswith("y") for name in missing) else "arrays are missing"
        raise DataError(
            f"'{path}': {what}: {', '.join(missing)} not found among {', '.join(sorted(arrays)) or 'no arrays'}; "
            f"give x_train, y_train, x_test, y_test or x, y"
        )
    scalars = [name for name in wanted if not arrays[name].ndim]
    if scalars:
        raise DataError(f"'{path}': {', '.join(scalars)} is a single number; an array with one entry per image is read")
    if not has_parts:
        x, y = arrays["x"], _labels(arrays["y"], "y", len(arrays["x"]), path)
        order = np.random.default_rng(seed).permutation(len(x))
        n = max(1, round(_TRAIN_FRACTION * len(x)))
        parts = (x[order[:n]], y[order[:n]], x[order[n:]], y[order[n:]])
    else:
        x_train, x_test = arrays["x_train"], arrays["x_test"]
        y_train = _labels(arrays["y_train"], "y_train", len(x_train), path)
        parts = (x_train, y_train, x_test, _labels(arrays["y_test"], "y_test", len(x_test), path))
    if not len(parts[0]) or not len(parts[2]):
        raise DataError(f"'{path}': {len(parts[0])} training and {len(parts[2])} test samples; both parts are needed")
    return parts


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
