"""Event data: spikes as they stand, address events binned by step, and every file that says too little."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from neuroport import data, events
from neuroport.arrays import paths_of
from neuroport.data import load_npz
from neuroport.data_sources import load_dataset
from neuroport.errors import DataError

RNG = np.random.default_rng(3)
SPIKES = (RNG.random((10, 6, 2, 3, 4)) < 0.3).astype(np.uint8)
LABELS = np.arange(10) % 3


def save(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "events.npz", **arrays)
    return tmp_path / "events.npz"


def addresses(n: int, suffix: str = "", time: str = "t") -> dict[str, Any]:
    """n recordings of 5 events each: recording i has events at times 0, 10, ... from 1000 i on, the last two equal."""
    t = np.concatenate([1000 * i + np.array([0, 10, 20, 30, 30]) for i in range(n)])
    x = np.tile([0, 1, 2, 3, 3], n)
    y = np.tile([0, 1, 2, 0, 0], n)
    p = np.tile([0, 1, 0, 1, 1], n)
    return {
        f"{time}{suffix}": t.astype(np.uint32),
        f"x{suffix}": x.astype(np.uint8),
        f"y{suffix}": y.astype(np.uint8),
        f"p{suffix}": p.astype(np.uint8),
        f"offsets{suffix}": np.arange(n + 1) * 5,
        f"labels{suffix}": np.arange(n) % 2,
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float32])
def test_stored_spikes_go_straight_in(tmp_path: Path, dtype: Any) -> None:
    arrays = {"spikes_train": SPIKES[:4], "y_train": LABELS[:4], "spikes_test": SPIKES[4:], "y_test": LABELS[4:]}
    arrays["spikes_train"] = arrays["spikes_train"].astype(dtype)
    dataset = load_npz(save(tmp_path, **arrays))
    assert dataset.has_events and dataset.n_steps == 6
    np.testing.assert_array_equal(dataset.spikes("train", np.array([2, 0]), (2, 3, 4), 6), SPIKES[[2, 0]])
    np.testing.assert_array_equal(dataset.test.labels, LABELS[4:])


def test_one_array_is_split_by_the_seed(tmp_path: Path) -> None:
    path = save(tmp_path, spikes=SPIKES, labels=LABELS)
    dataset = load_npz(path, seed=1)
    assert (len(dataset.train), len(dataset.test)) == (2, 8)
    first = dataset.spikes("train", np.arange(2), (2, 3, 4), 6)
    rest = dataset.spikes("test", np.arange(8), (2, 3, 4), 6)
    both = {s.tobytes(): int(y) for s, y in zip(SPIKES, LABELS, strict=True)}
    assert {s.tobytes() for s in (*first, *rest)} == set(both)
    assert [both[s.tobytes()] for s in rest] == dataset.test.labels.tolist()


@pytest.mark.parametrize("time", ["t", "t_us"])
def test_address_events_are_binned_from_the_first_event_on(tmp_path: Path, time: str) -> None:
    """The longest recording lasts 31 units: with 31 steps each event has the step of its own time."""
    dataset = load_npz(save(tmp_path, **addresses(2, "_train", time), **addresses(3, "_test", time)))
    assert dataset.n_steps is None
    spikes = dataset.spikes("test", np.array([1]), (2, 3, 4), 31)
    assert np.argwhere(spikes[0]).tolist() == [[0, 0, 0, 0], [10, 1, 1, 1], [20, 0, 2, 2], [30, 1, 0, 3]]
    coarse = dataset.spikes("test", np.array([1]), (2, 3, 4), 3)
    assert np.argwhere(coarse[0])[:, 0].tolist() == [0, 0, 1, 2], "31 units in 3 steps: 0-10, 11-20, 21-30"
    wide = dataset.spikes("test", np.array([1]), (2, 5, 6), 31)
    assert wide.shape == (1, 31, 2, 5, 6) and wide[:, :, :, :3, :4].sum() == wide.sum() == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": None}, "event arrays are missing: p not found among labels, offsets, t, x, y"),
        ({"labels": None}, "labels are missing: labels is not in the file"),
        ({"offsets": np.array([0, 5, 11])}, "must rise from 0 to 10, the number of events"),
        ({"offsets": np.array([0, 7, 5, 10])}, "must rise from 0 to 10"),
        ({"x": np.zeros(3, np.uint8)}, r"have \[10, 3, 10, 10\] events; one each"),
        ({"x": np.zeros(10)}, "must be lists of whole numbers"),
        ({"p": np.full(10, 2)}, "polarities 0 or 1"),
        ({"y": np.full(10, -1)}, "addresses must be 0 to 4095"),
        ({"t": None}, "event arrays are missing: t not found"),
    ],
)
def test_event_files_that_say_too_little(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {k: v for k, v in {**addresses(2), **change}.items() if v is not None}
    with pytest.raises(DataError, match=message):
        load_npz(save(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("spikes", "message"),
    [
        (SPIKES * 3, "must hold 0 and 1"),
        (SPIKES * 0.5, "holds fractions"),
        (SPIKES[:, 0, 0, 0, 0], r"read as \[N, T, C, H, W\]"),
        (np.full((4, 2, 3), np.nan), "must hold 0 and 1"),
        (np.full((4, 2, 3), 0.5j), "must hold 0 and 1"),
        (SPIKES[:, :0], "T at least 1"),
    ],
)
def test_arrays_that_are_no_spikes(tmp_path: Path, spikes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_npz(save(tmp_path, spikes=spikes, y=np.zeros(len(spikes), int)))


def test_what_does_not_go_with_events(tmp_path: Path) -> None:
    path = save(tmp_path, spikes=SPIKES, y=LABELS)
    with pytest.raises(DataError, match="spikes, which have no scale"):
        load_npz(path, scale=2.0)
    dataset = load_npz(path)
    with pytest.raises(DataError, match="have 6 steps, the run has 7; use --steps 6"):
        dataset.spikes("test", np.arange(2), (2, 3, 4), 7)
    with pytest.raises(DataError, match=r"events have shape \[2, 3, 4\], the model reads \[1, 3, 4\]"):
        dataset.spikes("test", np.arange(2), (1, 3, 4), 6)


def test_channels_last_is_brought_first_and_other_shapes_are_refused(tmp_path: Path) -> None:
    last = np.moveaxis(SPIKES, 2, -1)
    dataset = load_npz(save(tmp_path, spikes_train=last, y_train=LABELS, spikes_test=last, y_test=LABELS))
    np.testing.assert_array_equal(dataset.spikes("test", np.arange(10), (2, 3, 4), 6), SPIKES)
    flat = dataset.spikes("test", np.arange(10), (24,), 6)
    np.testing.assert_array_equal(flat, last.reshape(10, 6, 24))
    for shape in ((4, 3, 2), (2, 4, 3), (1, 2, 12)):
        with pytest.raises(DataError, match="the model reads"):
            dataset.spikes("test", np.arange(2), shape, 6)
    grey = load_npz(save(tmp_path, spikes=SPIKES[:, :, 0], y=LABELS))
    assert grey.spikes("test", np.arange(2), (1, 3, 4), 6).shape == (2, 6, 1, 3, 4)
    small = load_npz(save(tmp_path, **addresses(2)))
    with pytest.raises(DataError, match=r"events have shape \[2, 3, 4\], the model reads \[2, 4, 3\]"):
        small.spikes("test", np.arange(1), (2, 4, 3), 8)


def filed(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, **arrays: Any) -> Path:
    """The arrays in a file that they stay in."""
    if kind == "npz":
        monkeypatch.setattr(data, "_MAPPED_FROM", 0)
        return save(tmp_path, **arrays)
    path = tmp_path / "events.h5"
    with h5py.File(path, "w") as f:
        for name, array in arrays.items():
            f[name] = array
    return path


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize("parts", [True, False])
def test_spikes_of_a_large_file_stay_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, parts: bool
) -> None:
    arrays = {"spikes": SPIKES, "y": LABELS}
    if parts:
        arrays = {f"{name}_{part}": a for part in ("train", "test") for name, a in arrays.items()}
    expected = load_npz(save(tmp_path, **arrays))
    found = load_dataset(filed(tmp_path, kind, monkeypatch, **arrays))
    source: Any = found.test.events if parts else found.test.events.source
    assert paths_of(source.spikes)
    assert found.n_steps == 6
    every = np.arange(len(expected.test))[::-1]
    for chosen in (every, every[:3]):
        want = expected.spikes("test", chosen, (2, 3, 4), 6)
        np.testing.assert_array_equal(found.spikes("test", chosen, (2, 3, 4), 6), want)
    np.testing.assert_array_equal(found.test.labels, expected.test.labels)


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize("block", [1, 7, 12, 1000])
def test_address_events_of_a_large_file_stay_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, block: int
) -> None:
    """Whatever is looked at together; recordings without events lie at both ends and between."""
    monkeypatch.setattr(events, "_BLOCK", block)
    sizes = [0, 0, 1, 9, 0, 4, 30, 2, 0]
    n = sum(sizes)
    rng = np.random.default_rng(4)
    arrays = {
        "t": rng.integers(50, 5000, n),
        "x": rng.integers(0, 6, n).astype(np.uint16),
        "y": rng.integers(0, 5, n).astype(np.uint16),
        "p": rng.integers(0, 2, n) == 1,
        "offsets": np.concatenate([[0], np.cumsum(sizes)]),
        "labels": np.arange(9) % 3,
    }
    arrays["p"] = arrays["p"].astype(np.uint8)
    found = load_dataset(filed(tmp_path, kind, monkeypatch, **arrays))
    source: Any = found.test.events.source
    assert all(paths_of(a) for a in (source.t, source.x, source.y, source.p))
    ends = list(pairwise(arrays["offsets"]))
    assert source.duration == max(np.ptp(arrays["t"][a:b]) + 1 for a, b in ends if b > a)
    assert source.shape == tuple(int(arrays[name].max()) + 1 for name in ("p", "y", "x"))
    longest = source.take(np.array([6, 0]), int(source.duration), ())
    a, b = ends[6]
    steps = arrays["t"][a:b] - arrays["t"][a:b].min()
    wanted = {(int(s), *(int(arrays[name][a + k]) for name in ("p", "y", "x"))) for k, s in enumerate(steps)}
    assert {tuple(int(n) for n in row) for row in np.argwhere(longest[0])} == wanted
    assert not longest[1].any()


def test_a_file_whose_spikes_are_none_is_told_when_they_are_read(tmp_path: Path) -> None:
    bad = SPIKES.copy()
    bad[7, 0, 0, 0, 0] = 3
    path = tmp_path / "events.h5"
    with h5py.File(path, "w") as f:
        f["spikes_train"], f["y_train"], f["spikes_test"], f["y_test"] = SPIKES, LABELS, bad, LABELS
    dataset = load_dataset(path)
    dataset.spikes("test", np.arange(7), (2, 3, 4), 6)
    with pytest.raises(DataError, match=r"events\.h5': spikes_test must hold 0 and 1"):
        dataset.spikes("test", np.array([7]), (2, 3, 4), 6)
