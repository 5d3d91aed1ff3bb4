"""Data sets in other forms than `.npz`: the same samples, whatever they lie in, and what is refused."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from neuroport import data as module
from neuroport.arrays import ChosenRows, MappedRows, map_npy, paths_of, write_rows
from neuroport.data import load_npz
from neuroport.data_sources import load_dataset
from neuroport.engine.samples import DataSamples
from neuroport.errors import DataError

SHAPE = (3, 6, 5)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (7, 6, 5, 3), np.uint8),
        "y_train": rng.integers(0, 2, 7),
        "x_test": rng.integers(0, 256, (9, 6, 5, 3), np.uint8),
        "y_test": np.array([0, 0, 0, 1, 1, 1, 1, 0, 1]),
    }


def samples_of(dataset, n=None) -> DataSamples:
    return DataSamples(dataset, dataset.choose("test", n, 3), SHAPE, [SHAPE], 1)


def assert_same(dataset, arrays, tmp_path) -> None:
    """The whole test part, in shards, from here and from files that only a path is sent of."""
    samples = samples_of(dataset)
    (tmp_path / "stored").mkdir(exist_ok=True)
    sent = pickle.dumps(samples.stored(tmp_path / "stored"))
    assert len(sent) < 2500
    for store in (samples, pickle.loads(sent)):  # noqa: S301 - our own, as Dask sends it
        parts = [store.shown(store.raw(slice(k, k + 4))) for k in (0, 4, 8)]
        images, labels = np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts])
        expected = arrays["x_test"][samples.index].astype(np.float32) * np.float32(1 / 255)
        assert np.array_equal(images, expected.transpose(0, 3, 1, 2))
        assert np.array_equal(labels, arrays["y_test"][samples.index])
    assert np.array_equal(dataset.train.images[0][np.arange(7)], arrays["x_train"])


def test_an_npz_is_mapped_where_it_is_not_compressed(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAPPED_FROM", 1)
    for save, is_mapped in ((np.savez, True), (np.savez_compressed, False)):
        save(tmp_path / "d.npz", **arrays)
        dataset = load_npz(tmp_path / "d.npz")
        assert isinstance(dataset.test.images[0], MappedRows) is is_mapped
        assert_same(dataset, arrays, tmp_path)


def test_arrays_of_one_part_stay_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAPPED_FROM", 1)
    x = np.asfortranarray(np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8))
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20) % 2)
    mapped = load_npz(tmp_path / "d.npz")
    monkeypatch.setattr(module, "_MAPPED_FROM", 1 << 30)
    read = load_npz(tmp_path / "d.npz")
    assert isinstance(mapped.test.images[0], ChosenRows)
    assert len(mapped.test) == len(read.test) == 16
    (tmp_path / "stored").mkdir()
    for store in (samples_of(mapped), samples_of(mapped).stored(tmp_path / "stored")):
        found, expected = (s.shown(s.raw(slice(0, 16))) for s in (store, samples_of(read)))
        assert np.array_equal(found.images, expected.images)
        assert np.array_equal(found.labels, expected.labels)


def test_hdf5(arrays, tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as f:
        for name, array in arrays.items():
            f[name] = array
        f.create_group("other")
    dataset = load_dataset(tmp_path / "d.h5")
    assert paths_of(dataset.test.images[0]) == (tmp_path / "d.h5",)
    assert_same(dataset, arrays, tmp_path)


def test_hdf5_that_is_damaged_inside(arrays, tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as f:
        for name, array in arrays.items():
            f.create_dataset(name, data=array, chunks=array.shape, fletcher32=True)
        place = f["x_test"].id.get_chunk_info(0).byte_offset
    with (tmp_path / "d.h5").open("r+b") as f:
        f.seek(place)
        f.write(b"damaged")
    with pytest.raises(DataError, match=r"'x_test' of '.*d.h5' cannot be read: .*; copy the file again"):
        load_dataset(tmp_path / "d.h5").test.images[0][np.arange(2)]


def write_images(folder: Path, arrays, part: str, name: str) -> None:
    """As class folders; arrays are put into the order that the files have."""
    order = np.argsort(arrays[f"y_{part}"], kind="stable")
    for key in "xy":
        arrays[f"{key}_{part}"] = arrays[f"{key}_{part}"][order]
    for k, (x, y) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
        (folder / name / f"class{y}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(folder / name / f"class{y}" / f"{k:03}.png")


def test_a_folder_of_images(arrays, tmp_path):
    folder = tmp_path / "images"
    write_images(folder, arrays, "train", "train")
    write_images(folder, arrays, "test", "val")
    assert_same(load_dataset(folder), arrays, tmp_path)
    one_part = load_dataset(folder / "val")
    assert len(one_part.train) + len(one_part.test) == 9
    (tmp_path / "one").mkdir()
    samples = samples_of(one_part)
    stored = samples.stored(tmp_path / "one")
    assert np.array_equal(stored.raw(slice(2, 5)).images[0], samples.raw(slice(2, 5)).images[0])
    Image.new("RGB", (9, 9)).save(folder / "val" / "class1" / "zzz.png")
    with pytest.raises(DataError, match="is 9 x 9 pixels, the first image 5 x 6; give --image-size"):
        load_dataset(folder).test.images[0][np.arange(10)]
    resized = load_dataset(folder, image_size=8)
    assert resized.test.images[0][np.arange(10)].shape == (10, 8, 8, 3)


def test_grey_images_have_no_colours(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (4, 4), 7).save(tmp_path / part / "a" / "0.png")
    assert load_dataset(tmp_path).test.images[0][np.arange(1)].tolist() == np.full((1, 4, 4), 7).tolist()


def test_images_of_16_bits_are_not_cut_off_at_255(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / part / "a" / "0.png")
    with pytest.raises(DataError, match=r"0.png' has more than 8 bits per channel \(Pillow's mode I;16\)"):
        load_dataset(tmp_path).test.images[0][np.arange(1)]


@pytest.fixture
def functions(arrays, tmp_path, monkeypatch):
    """A module of a user's, whose functions return batches."""
    np.savez(tmp_path / "kept.npz", **arrays)
    (tmp_path / "my_batches.py").write_text(
        "import numpy as np\n"
        f"kept = dict(np.load({str(tmp_path / 'kept.npz')!r}))\n"
        "def batches(part):\n"
        "    x, y = kept[f'x_{part}'], kept[f'y_{part}']\n"
        "    for k in range(0, len(x), 4):\n"
        "        yield x[k : k + 4], y[k : k + 4]\n"
        "def uneven(part):\n"
        "    yield kept['x_test'][:2], kept['y_test'][:2]\n"
        "    yield kept['x_test'][:2, :3], kept['y_test'][:2]\n"
        "def empty(part):\n"
        "    return []\n"
        "def lone(part):\n"
        "    return [5]\n"
        "def down(part):\n"
        "    yield kept['x_test'][:2], kept['y_test'][:2]\n"
        "    raise RuntimeError('no such row')\n"
        "def without():\n"
        "    return []\n"
        "def none(part):\n"
        "    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("my_batches", None)


@pytest.mark.usefixtures("functions")
def test_a_function(arrays, tmp_path):
    dataset = load_dataset(Path("my_batches:batches"))
    (kept,) = paths_of(dataset.test.images[0])
    assert_same(dataset, arrays, tmp_path)
    del dataset
    assert not kept.exists()


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("uneven", r"batch 1 of 'train' has images uint8 \[2, 3, 5, 3\] and labels \[2\]"),
        ("empty", "'train' has no batch"),
        ("lone", "batch 0 of 'train' is no pair"),
        ("down", r"called with 'train' it failed with RuntimeError: no such row \(.*my_batches.py, line 16\)"),
        ("without", "failed with TypeError: .* must take 'train' and 'test' and return an iterable"),
        ("none", "failed with TypeError: 'NoneType' object is not iterable"),
        ("nothing", "give package.module:callable, importable from here"),
    ],
)
def test_functions_that_do_not_fit(name, message):
    with pytest.raises(DataError, match=message):
        load_dataset(Path(f"my_batches:{name}"))


def test_what_is_refused(tmp_path):
    for name, content in (
        ("bad.h5", b"no"),
        ("empty/readme.txt", b""),
        ("none/a/readme.txt", b""),
        ("bad/a/0.png", b"no"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "half" / "train" / "a").mkdir(parents=True)
    for part, kind in (("train", "a"), ("test", "b")):
        (tmp_path / "other" / part / kind).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "other" / part / kind / "0.png")
    Image.new("L", (4, 4)).save(tmp_path / "half" / "train" / "a" / "0.png")
    for name, message in (
        ("missing.h5", "does not exist"),
        ("bad.h5", "cannot be read as HDF5"),
        ("empty", "has no class folders"),
        ("none", "has no images"),
        ("bad", "cannot be read"),
        ("half", "has no test part"),
        ("other", "has other classes than the training part"),
    ):
        with pytest.raises(DataError, match=message):
            load_dataset(tmp_path / name)
    with pytest.raises(DataError, match="--image-size 8 is for a folder of images"):
        load_dataset(tmp_path / "bad.h5", image_size=8)


@pytest.mark.parametrize("value", ["text", h5py.Empty("f4")])
@pytest.mark.parametrize("name", ["offsets", "t", "spikes", "labels", "x", "y"])
def test_hdf5_with_text_or_nothing_where_an_array_belongs(tmp_path, name, value):
    arrays = {
        "offsets": {key: np.zeros(5, int) for key in ("t", "x", "y", "p", "labels")} | {"offsets": np.arange(6)},
        "spikes": {"spikes": np.zeros((4, 2, 3), np.uint8), "y": np.arange(4)},
        "x": {"x": np.zeros((4, 3), np.float32), "y": np.arange(4)},
    }
    kind = {"t": "offsets", "labels": "offsets", "y": "x"}.get(name, name)
    with h5py.File(tmp_path / "d.h5", "w") as f:
        for key, array in (arrays[kind] | {name: value}).items():
            f[key] = array
    with pytest.raises(DataError, match=name):
        load_dataset(tmp_path / "d.h5")


def test_rows_of_a_file(tmp_path):
    array = np.arange(60).reshape(20, 3)
    rows = write_rows(tmp_path / "a.npy", array, np.array([4, 4, 19]))
    assert rows[slice(None)].tolist() == array[[4, 4, 19]].tolist()
    with pytest.raises(DataError, match="no row of"):
        write_rows(tmp_path / "b.npy", array, np.zeros(0, np.int64))
    np.save(tmp_path / "c.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects"):
        map_npy(tmp_path / "c.npy")
    cut = (tmp_path / "a.npy").read_bytes()[:-8]
    (tmp_path / "d.npy").write_bytes(cut)
    with pytest.raises(DataError, match="ends before its arrays do"):
        map_npy(tmp_path / "d.npy")[slice(None)]
