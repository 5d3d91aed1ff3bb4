"""Data sets of users: read where no doubt is left, refused with a reason everywhere else."""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroport.data import candidate_shapes, fit_shape, load_npz
from neuroport.errors import DataError

RNG = np.random.default_rng(0)


def save(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def four(x_train: Any, x_test: Any, n_classes: int = 3) -> dict[str, Any]:
    return {
        "x_train": x_train,
        "y_train": np.arange(len(x_train)) % n_classes,
        "x_test": x_test,
        "y_test": np.arange(len(x_test)) % n_classes,
    }


def images(*shape: int, dtype: Any = np.uint8) -> Any:
    values = RNG.integers(0, 256, shape)
    return values.astype(dtype) if np.issubdtype(dtype, np.integer) else (values / 255).astype(dtype)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ((5, 6), (1, 5, 6)),
        ((1, 5, 6), (1, 5, 6)),
        ((5, 6, 1), (1, 5, 6)),
        ((30,), (1, 5, 6)),
        ((3, 5, 6), (3, 5, 6)),
        ((5, 6, 3), (3, 5, 6)),
        ((5, 6), (5, 6)),
        ((5, 6), (30,)),
        ((1, 5, 6), (30,)),
        ((5, 6, 1), (30,)),
        ((30,), (30,)),
    ],
)
def test_shapes_that_leave_no_doubt(tmp_path: Path, stored: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Pixel (c, h, w) of the model is the pixel the file means."""
    x = images(7, *stored)
    dataset = load_npz(save(tmp_path, **four(x, x)))
    found = dataset.images("test", np.arange(7), wanted)
    last_is_channel = len(stored) == 3 and stored[-1] in (1, 3)
    expected = (x.transpose(0, 3, 1, 2) if last_is_channel else x).reshape(7, *wanted)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected / 255, rtol=2**-22)  # two roundings to float32


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ((5, 6), (1, 6, 5)),
        ((5, 6, 3), (90,)),  # channels first or last: the order of the pixels is in doubt
        ((3, 5, 6), (90,)),
        ((90,), (3, 5, 6)),
        ((6, 3, 5), (3, 5, 6)),
        ((5, 6), (3, 5, 6)),
        ((5, 6, 3), (1, 5, 6)),
        ((31,), (30,)),
        ((), (1,)),
        ((2, 2, 5, 6), (2, 5, 6)),
    ],
)
def test_shapes_in_doubt_are_refused(tmp_path: Path, stored: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    x = images(4, *stored)
    dataset = load_npz(save(tmp_path, **four(x, x)))
    with pytest.raises(DataError) as caught:
        dataset.images("train", np.arange(4), wanted)
    message = f"'data.npz': images have shape {list(stored)}, the model reads {list(wanted)}; give them as [N, "
    assert str(caught.value).startswith(message)


def test_the_arrangements_a_model_may_read() -> None:
    def shapes(*shape: int) -> list[tuple[int, ...]]:
        return [c.shape[1:] for c in candidate_shapes(np.zeros((2, *shape), np.float32))]

    assert shapes(5, 6) == [(1, 5, 6), (5, 6), (30,)]
    assert shapes(1, 5, 6) == [(1, 5, 6), (6, 1, 5), (30,)]
    assert shapes(5, 6, 3) == [(5, 6, 3), (3, 5, 6)]
    assert shapes(30) == [(30,)]
    x = images(3, 5, 6, dtype=np.float32)
    for arranged in candidate_shapes(x):
        np.testing.assert_array_equal(fit_shape(x, arranged.shape[1:], "x"), arranged)


def test_bytes_are_scaled_by_255_and_floats_not_unless_told(tmp_path: Path) -> None:
    x = np.array([[0, 51, 255]], np.uint8)
    path = save(tmp_path, **four(x, x))
    every = np.arange(1)
    np.testing.assert_allclose(load_npz(path).images("train", every, (3,)), [[0, 0.2, 1]], rtol=2**-22)
    np.testing.assert_array_equal(load_npz(path, scale=1.0).images("test", every, (3,)), [[0, 51, 255]])
    np.testing.assert_array_equal(load_npz(path, scale=1 / 256).images("test", every, (3,)), x / np.float32(256))
    for dtype in (np.float16, np.float32, np.float64):
        path = save(tmp_path, **four(x.astype(dtype), x.astype(dtype)))
        np.testing.assert_array_equal(load_npz(path).images("train", every, (3,)), [[0, 51, 255]])
        np.testing.assert_array_equal(load_npz(path, scale=0.5).images("train", every, (3,)), [[0, 25.5, 127.5]])


def test_one_scale_for_training_and_test_images_of_two_kinds_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, **four(images(4, 3), images(4, 3, dtype=np.float32)))
    with pytest.raises(DataError, match="training images are uint8, test images float32, so one scale cannot fit both"):
        load_npz(path)


def test_x_and_y_are_split_by_the_seed_into_a_fifth_and_the_rest(tmp_path: Path) -> None:
    x = np.arange(50, dtype=np.float32).reshape(50, 1)
    path = save(tmp_path, x=x, y=np.arange(50) % 10)
    one, same, other = load_npz(path, seed=3), load_npz(path, seed=3), load_npz(path, seed=4)
    assert (len(one.train.images[0]), len(one.test.images[0])) == (10, 40)
    np.testing.assert_array_equal(np.sort(np.concatenate([one.train.images[0], one.test.images[0]]), axis=0), x)
    np.testing.assert_array_equal(one.train.labels, one.train.images[0][:, 0].astype(int) % 10)
    np.testing.assert_array_equal(one.test.labels, one.test.images[0][:, 0].astype(int) % 10)
    np.testing.assert_array_equal(one.train.images[0], same.train.images[0])
    np.testing.assert_array_equal(one.test.labels, same.test.labels)
    assert not np.array_equal(one.train.images[0], other.train.images[0])
    assert not np.array_equal(one.train.images[0], x[:10]), "files may be sorted by class"


def test_samples_are_chosen_by_the_seed_without_repeating(tmp_path: Path) -> None:
    dataset = load_npz(save(tmp_path, **four(images(20, 3), images(30, 3))))
    every = dataset.choose("test", None, 0)
    assert sorted(every) == list(range(30))
    assert list(every) != list(range(30))
    np.testing.assert_array_equal(dataset.choose("test", 7, 0), every[:7])
    assert len(dataset.choose("test", 999, 0)) == 30
    assert sorted(dataset.choose("train", None, 0)) == list(range(20))
    assert not np.array_equal(dataset.choose("test", None, 1), every)


def test_labels_come_as_a_row_or_a_column_of_any_integer_type(tmp_path: Path) -> None:
    x = images(4, 3)
    for dtype in (np.uint8, np.int32, np.int64):
        for y in (np.array([2, 0, 1, 2], dtype), np.array([[2], [0], [1], [2]], dtype)):
            dataset = load_npz(save(tmp_path, x_train=x, y_train=y, x_test=x, y_test=y))
            assert dataset.train.labels.dtype == np.int64
            assert dataset.test.labels.tolist() == [2, 0, 1, 2]


X, Y = images(4, 3), np.arange(4)
GOOD = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "labels are missing: y not found among x; give x_train"),
        ({"x_train": X, "x_test": X}, "labels are missing: y_train, y_test not found among x_test, x_train"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "labels are missing: y_test not found"),
        ({"x_train": X, "y_train": Y}, "arrays are missing: x_test, y_test not found"),
        ({"y_train": Y, "y_test": Y}, "arrays are missing: x, y not found among y_test, y_train"),
        ({"images": X, "classes": Y}, "arrays are missing: x, y not found among no arrays"),
        ({**GOOD, "y_test": Y[:3]}, r"y_test has shape \[3\]; one class number for each of 4 images"),
        ({**GOOD, "y_train": np.eye(4, dtype=int)}, r"y_train has shape \[4, 4\]; one class number"),
        ({"x": X, "y": np.arange(5)}, r"y has shape \[5\]; one class number for each of 4"),
        ({**GOOD, "y_test": Y.astype(float)}, "y_test holds float64 values; class numbers 0, 1, 2"),
        ({**GOOD, "y_test": Y > 1}, "y_test holds bool values"),
        ({**GOOD, "y_test": np.array(list("abcd"))}, "y_test holds <U1 values"),
        ({**GOOD, "y_test": Y - 1}, "y_test holds int64 values; class numbers 0, 1, 2"),
        ({**GOOD, "x_train": X.astype(np.int64)}, "images are int64; uint8 .0 to 255. or float is read"),
        ({**GOOD, "x_test": X > 3}, "images are bool; uint8"),
        ({**GOOD, "x_test": X.astype(complex)}, "images are complex128; uint8"),
        ({**GOOD, "x_train": X[:0], "y_train": Y[:0]}, "0 training and 4 test samples; both parts are needed"),
        ({**GOOD, "x_test": X[:0], "y_test": Y[:0]}, "4 training and 0 test samples; both parts are needed"),
        ({"x": X[:1], "y": Y[:1]}, "1 training and 0 test samples; both parts are needed"),
        ({"x": X[:0], "y": Y[:0]}, "0 training and 0 test samples; both parts are needed"),
        ({"x": np.float32(3), "y": Y}, "x is a single number; an array with one entry per image"),
        ({"x": X, "y": np.int64(3)}, "y is a single number"),
        ({**GOOD, "x_train": np.array([None, 1], object)}, "cannot be read as .npz: Object arrays cannot be loaded"),
    ],
)
def test_files_without_what_is_needed(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_npz(save(tmp_path, **arrays))
    assert "data.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_a_pickle_in_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "the-payload-ran"
    objects = np.empty(4, object)
    objects[:] = [Payload(marker)] * 4
    path = save(tmp_path, **{**GOOD, "x_test": objects})
    with pytest.raises(DataError, match=r"cannot be read as .npz: Object arrays cannot be loaded"):
        load_npz(path)
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(DataError, match=r"is not a .npz archive"):
        load_npz(path)
    assert not marker.exists()
    np.load(save(tmp_path, x=objects), allow_pickle=True)["x"]
    assert marker.exists(), "the payload of this test does nothing"


def test_files_that_are_no_archive_or_a_damaged_one(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, **{**GOOD, "x_train": images(4, 500)})
    content = whole.getvalue()
    start = content.index(b"x_train.npy") + 60
    single = io.BytesIO()
    np.save(single, X)
    path = tmp_path / "data.npz"
    for damaged, message in (
        (b"", "is not a .npz archive; write it with numpy.savez"),
        (b"text\n", "is not a .npz archive"),
        (single.getvalue(), "is not a .npz archive"),
        (content[: len(content) // 2], "is not a .npz archive"),
        (content[:start] + bytes(300) + content[start + 300 :], "cannot be read as .npz: "),
        (content[:start] + b"\xff" * 300 + content[start + 300 :], "cannot be read as .npz: "),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=message) as caught:
            load_npz(path)
        assert "\n" not in str(caught.value)
    for absent in (tmp_path / "absent.npz", tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            load_npz(absent)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused_where_they_are_used(tmp_path: Path, value: float) -> None:
    bad = images(4, 3, dtype=np.float32)
    bad[2, 1] = value
    good = images(4, 3, dtype=np.float32)
    dataset = load_npz(save(tmp_path, **four(good, bad)))
    dataset.images("train", np.arange(4), (3,))
    dataset.images("test", np.array([0, 1, 3]), (3,))
    with pytest.raises(DataError, match="images of the test part hold NaN or infinite values; clean them first"):
        dataset.images("test", np.arange(4), (3,))


@pytest.mark.parametrize("scale", [math.nan, math.inf, 0.0, -1.0])
def test_a_scale_that_is_no_positive_number_is_refused(tmp_path: Path, scale: float) -> None:
    good = images(4, 3, dtype=np.float32)
    with pytest.raises(DataError, match="--scale must be a number above 0"):
        load_npz(save(tmp_path, **four(good, good)), scale=scale)


def test_mean_and_std_follow_the_scale(tmp_path: Path) -> None:
    x = images(4, 5, 6, 3)
    dataset = load_npz(save(tmp_path, **four(x, x)), mean=(0.5, 0.4, 0.3), std=(0.2,))
    found = dataset.images("test", np.arange(4), (3, 5, 6))
    scaled = x.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(1 / 255)
    expected = (scaled - np.array([0.5, 0.4, 0.3], np.float32).reshape(3, 1, 1)) / np.float32(0.2)
    np.testing.assert_array_equal(found, expected)
    assert found.min() < 0
    with pytest.raises(DataError, match=r"hold 2 numbers, the model's input .* has 3 channels"):
        load_npz(save(tmp_path, **four(x, x)), mean=(0.5, 0.4)).images("test", np.arange(4), (3, 5, 6))
    with pytest.raises(DataError, match="--std above 0"):
        load_npz(save(tmp_path, **four(x, x)), std=(0.0,))


def test_several_inputs_are_joined_in_order(tmp_path: Path) -> None:
    a, b, y = images(6, 2, 3, dtype=np.float32), images(6, 4, dtype=np.float32), np.arange(6) % 2
    path = save(tmp_path, x_train_0=a, x_train_1=b, y_train=y, x_test_0=a, x_test_1=b, y_test=y)
    found = load_npz(path).images("test", np.array([3, 1]), (10,), inputs=[(1, 2, 3), (4,)])
    np.testing.assert_array_equal(found, np.concatenate([a[[3, 1]].reshape(2, -1), b[[3, 1]]], 1))
    split = load_npz(save(tmp_path, x_0=a, x_1=b, y=y))
    assert [len(x) for x in split.train.images] == [1, 1] and len(split.test) == 5
    with pytest.raises(DataError, match="has 2 arrays of images, the model has 1 inputs"):
        load_npz(path).images("test", np.arange(2), (2, 3))
    with pytest.raises(DataError, match=r"hold \[6, 5\] samples; one each"):
        load_npz(save(tmp_path, x_train_0=a, x_train_1=b[:5], y_train=y, x_test_0=a, x_test_1=b, y_test=y))
