"""Data sets in other forms than `.npz`, none of which is ever in memory as a whole: HDF5, folders of images, functions.

HDF5: the arrays of a `.npz` under the same names, of images or of events. Folders: one for each class, their names in
order the class numbers, as torchvision's ImageFolder takes them; below train/ and test/ (or val/) where there are
parts. Functions: called with 'train' and 'test', they return batches (images, labels), which are written to a temporary
file as they come.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from neuroport.arrays import Hdf5Rows, MappedRows, Rows
from neuroport.data import Dataset, dataset_of, is_read, load_npz, long_arrays
from neuroport.errors import DataError

_HDF5 = (".h5", ".hdf5")
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_RESIZED = 256 / 224  # torchvision's evaluation transform: the shorter side, before the centre is cut out
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "HSV", "LAB")
_PARTS = {"train": ("train",), "test": ("test", "val")}


def load_dataset(
    data: Path,
    *,
    scale: float | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    seed: int = 0,
    image_size: int | None = None,
) -> Dataset:
    """The data set of a `.npz` or HDF5 file, of a folder of images, or of `package.module:callable`.

    scale, mean, std, seed: see load_npz. image_size: images of a folder are made that wide and high, the shorter side
    resized to 256/224 of it and the centre cut out; None leaves them as they are.

    Raises:
        DataError: unreadable, parts missing, labels that are no class numbers.
    """
    is_callable = ":" in str(data) and not data.exists()
    if image_size is not None and (is_callable or not data.is_dir() or image_size < 1):
        raise DataError(
            f"--image-size {image_size} is for a folder of images, at least 1; '{data}' has sizes of its own"
        )
    held: object = None
    arrays: Mapping[str, Rows]
    if is_callable:
        held = folder = tempfile.TemporaryDirectory(prefix="neuroport-data-")
        arrays = _from_callable(str(data), Path(folder.name))
    elif data.is_dir():
        arrays = _from_folder(data, image_size)
    elif data.suffix in _HDF5:
        arrays = _from_hdf5(data)
    else:
        return load_npz(data, scale=scale, mean=mean, std=std, seed=seed)
    return dataset_of(arrays, data, scale=scale, mean=mean, std=std, seed=seed, held=held)


def _from_hdf5(path: Path) -> dict[str, Rows]:
    if not path.is_file():
        raise DataError(f"data file '{path}' does not exist")
    try:
        with h5py.File(path, "r") as f:
            found = {name: d for name, d in f.items() if isinstance(d, h5py.Dataset) and is_read(name)}
            long = long_arrays(found)
            return {
                name: Hdf5Rows(path.resolve(), name, d.shape, d.dtype)
                if name in long and d.shape
                else np.asarray(d[()])  # text is no array by itself
                for name, d in found.items()
            }
    except (OSError, RuntimeError) as error:
        raise DataError(f"data file '{path}' cannot be read as HDF5: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, eq=False)
class ImageRows:
    """Image files as rows of an array, read when they are asked for. names: of the files, within the folder."""

    folder: Path
    names: Rows
    mode: str
    side: tuple[int, int]
    is_resized: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W], or [N, H, W, 3] of colour images."""
        return (len(self.names), *self.side, *([3] if self.mode == "RGB" else []))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Bytes."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """The images of some rows.

        Raises:
            DataError: a file is damaged, or of another size.
        """
        names = self.names[index].tolist()
        empty = np.zeros((0, *self.shape[1:]), np.uint8)
        return np.stack([self._image(name) for name in names]) if names else empty

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder: who sees it sees the images."""
        return (self.folder,)

    def _image(self, name: str) -> NDArray[np.uint8]:
        image = _opened(self.folder / name)
        if image.mode not in _EIGHT_BITS:  # convert() would cut their numbers off at 255
            raise DataError(
                f"'{self.folder / name}' has more than 8 bits per channel (Pillow's mode {image.mode}); convert the "
                f"images to 8 bits, or give their numbers as .npz or HDF5"
            )
        image = image.convert(self.mode)
        height, width = self.side
        if self.is_resized:
            factor = height * _RESIZED / min(image.size)
            wide, high = (max(height, round(n * factor)) for n in image.size)
            left, top = (wide - width) // 2, (high - height) // 2
            image = image.resize((wide, high), _pillow().Resampling.BILINEAR)
            image = image.crop((left, top, left + width, top + height))
        if image.size != (width, height):
            raise DataError(
                f"'{self.folder / name}' is {image.size[0]} x {image.size[1]} pixels, the first image "
                f"{width} x {height}; give --image-size"
            )
        return np.asarray(image)


def _from_folder(folder: Path, image_size: int | None) -> dict[str, Rows]:
    parts = {part: next((folder / n for n in names if (folder / n).is_dir()), None) for part, names in _PARTS.items()}
    if parts["train"] is None and parts["test"] is None:
        images, labels = _images(folder, _classes(folder), image_size)
        return {"x": images, "y": labels}
    arrays: dict[str, Rows] = {}
    classes: list[str] | None = None
    for part, place in parts.items():
        if place is None:
            raise DataError(
                f"folder '{folder}' has no {part} part; give {' or '.join(_PARTS[part])}/CLASS/*.png beside it"
            )
        classes = classes or _classes(place)
        if _classes(place) != classes:
            raise DataError(
                f"folder '{place}' has other classes than the training part; each part needs the same folders"
            )
        arrays[f"x_{part}"], arrays[f"y_{part}"] = _images(place, classes, image_size)
    return arrays


def _classes(folder: Path) -> list[str]:
    found = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if not found:
        raise DataError(f"folder '{folder}' has no class folders; images are read from {folder.name}/CLASS/*.png")
    return found


def _images(folder: Path, classes: list[str], image_size: int | None) -> tuple[ImageRows, NDArray[np.int64]]:
    found = [
        (str(path.relative_to(folder)), k)
        for k, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise DataError(f"folder '{folder}' has no images; {', '.join(_SUFFIXES)} are read")
    first = _opened(folder / found[0][0])
    mode = "L" if first.mode in ("1", "L") else "RGB"
    side = (first.size[1], first.size[0]) if image_size is None else (image_size, image_size)
    rows = ImageRows(folder.resolve(), np.array([name for name, _ in found]), mode, side, image_size is not None)
    return rows, np.array([k for _, k in found])


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise DataError(f"a folder of images needs Pillow ({error}); install neuroport[images]") from error


def _opened(path: Path) -> Any:
    try:
        image = _pillow().open(path)
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"image '{path}' cannot be read: {error}; replace it or take it away") from error
    return image


def _from_callable(name: str, folder: Path) -> dict[str, Rows]:
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function: Callable[[str], Any] = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"--data {name}: {error}; give package.module:callable, importable from here") from error
    arrays: dict[str, Rows] = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"], arrays[f"y_{part}"] = _spooled(_batches(function, part, name), folder, part, name)
    return arrays


def _batches(function: Callable[[str], Any], part: str, name: str) -> Iterator[Any]:
    """What a user's function returns, one by one; what it raises is the user's to see, with the line it came from."""
    try:
        yield from function(part)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"--data {name}: called with '{part}' it failed with {type(error).__name__}: {error} ({last.filename}, "
            f"line {last.lineno}); it must take 'train' and 'test' and return an iterable of (images, labels)"
        ) from error


def _spooled(batches: Any, folder: Path, part: str, name: str) -> tuple[MappedRows, NDArray[np.generic]]:
    """Batches, one after another, in a file."""
    path = folder / f"x_{part}.bin"
    labels: list[NDArray[np.generic]] = []
    shape: tuple[int, ...] = ()
    dtype = np.dtype(np.uint8)
    with path.open("wb") as f:
        for k, batch in enumerate(batches):
            try:
                x, y = (np.asarray(a) for a in batch)
            except (TypeError, ValueError) as error:
                raise DataError(f"--data {name}: batch {k} of '{part}' is no pair (images, labels): {error}") from error
            if k == 0:
                shape, dtype = x.shape[1:], x.dtype
            if x.ndim < 1 or x.shape[1:] != shape or x.dtype != dtype or y.shape[:1] != x.shape[:1]:
                raise DataError(
                    f"--data {name}: batch {k} of '{part}' has images {x.dtype} {list(x.shape)} and labels "
                    f"{list(y.shape)}, the first {dtype} [N, {', '.join(map(str, shape))}]; all must be alike"
                )
            f.write(np.ascontiguousarray(x).tobytes())
            labels.append(y)
    if not labels:
        raise DataError(f"--data {name}: '{part}' has no batch; yield (images, labels) for 'train' and for 'test'")
    y = np.concatenate(labels)
    return MappedRows(path.resolve(), (len(y), *shape), dtype, 0), y
