"""The deployment directory: whole or not at all, never over what is not ours, and every later change is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neuroport import bundle
from neuroport.bundle import check_place, staged_bundle, verify
from neuroport.errors import BundleError


def write(place: Path, **files: str) -> None:
    with staged_bundle(place) as stage:
        for name, text in (files or {"report": "{}"}).items():
            (stage / name).write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_bundle_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "er" / "out"
    with staged_bundle(place) as stage:
        assert stage.parent == place.parent, "another file system could not be renamed from"
        (stage / "scratch" / "big.bin").write_bytes(b"x" * 1000)
        (stage / "sub").mkdir()
        (stage / "sub" / "file").write_text("content")
        assert not place.exists()
    assert set(contents(place)) == {"manifest.json", "sub/file"}
    assert listing(place.parent) == ["out"]
    assert place.stat().st_mode & 0o777 == 0o755
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["format"] == "neuroport-bundle/1"
    assert list(manifest["files"]) == ["sub/file"]
    verify(place)


def test_an_earlier_bundle_and_an_empty_directory_are_replaced(tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    write(place, old="1", both="1")
    write(place, new="2", both="2")
    assert {name: text for name, text in contents(place).items() if name != "manifest.json"} == {
        "new": b"2",
        "both": b"2",
    }
    verify(place)
    assert listing(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, BundleError])
@pytest.mark.parametrize("earlier", [True, False])
def test_what_raises_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException], earlier: bool) -> None:
    place = tmp_path / "out"
    if earlier:
        write(place, report="the first")
    before = contents(tmp_path)
    with pytest.raises(error), staged_bundle(place) as stage:
        (stage / "report").write_text("half of the sec")
        raise error("in the middle")
    assert contents(tmp_path) == before
    assert listing(tmp_path) == (["out"] if earlier else [])


def test_a_full_disk_is_a_bundle_error_and_leaves_the_earlier_bundle(tmp_path: Path) -> None:
    place = tmp_path / "out"
    write(place, report="the first")
    message = r"cannot write the bundle '.*out': No space left on device; make room there, or choose another --out"
    with pytest.raises(BundleError, match=message), staged_bundle(place) as stage:
        (stage / "report").write_text("second")
        raise OSError(28, "No space left on device")
    assert (place / "report").read_text() == "the first"
    assert listing(tmp_path) == ["out"]


def test_a_rename_that_fails_brings_the_earlier_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out"
    write(place, report="the first")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if (self / "manifest.json").exists() and self != place and target == place and self.name != "old":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="Input/output error"):
        write(place, report="the second")
    monkeypatch.undo()
    verify(place)
    assert (place / "report").read_text() == "the first"
    assert listing(tmp_path) == ["out"]


def test_what_is_not_a_bundle_is_never_touched(tmp_path: Path) -> None:
    foreign, file, link = tmp_path / "foreign", tmp_path / "file", tmp_path / "link"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    file.write_text("a file")
    (tmp_path / "bundle").mkdir()
    link.symlink_to(tmp_path / "bundle")
    before = contents(tmp_path)
    for place, match in (
        (foreign, "holds files that neuroport did not write, which a bundle would replace; choose another --out"),
        (file, "is not a directory; choose another --out"),
        (link, "is not a directory; choose another --out"),
    ):
        with pytest.raises(BundleError, match=match):
            check_place(place)
        with pytest.raises(BundleError, match=match), staged_bundle(place):
            pytest.fail("the block must not run")
    assert contents(tmp_path) == before
    with (
        pytest.raises(BundleError, match=r"cannot write to '.*file': .*; choose another --out"),
        staged_bundle(file / "x"),
    ):
        pytest.fail("the block must not run")


def test_staging_of_dead_processes_is_removed_and_of_live_ones_is_not(tmp_path: Path) -> None:
    """A neighbour called 'out.7' stages as '.out.7.<pid>.xyz', which must not look like a leftover of process 7."""
    dead, mine = dead_pid(), os.getpid()
    kept = [f".out.{mine}.abc", f".out.{dead}.{mine}.abc", f".out.{dead}", f".out2.{dead}.abc", ".out.x.abc", "other"]
    removed = [f".out.{dead}.abc", f".out.{dead}.d_f1"]
    for name in (*kept, *removed):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").touch()
    write(tmp_path / "out")
    assert listing(tmp_path) == sorted([*kept, "out"])


def test_names_with_special_characters(tmp_path: Path) -> None:
    dead = dead_pid()
    for name in ("run[1]", "a.b", "x*y", "with space"):
        (tmp_path / f".{name}.{dead}.abc").mkdir()
        write(tmp_path / name)
        verify(tmp_path / name)
    assert listing(tmp_path) == sorted(["run[1]", "a.b", "x*y", "with space"])


def test_a_killed_process_leaves_the_earlier_bundle_and_the_next_run_clears_up(tmp_path: Path) -> None:
    place = tmp_path / "out"
    write(place, report="the first")
    code = (
        "import sys, time, pathlib\nfrom neuroport.bundle import staged_bundle\n"
        "with staged_bundle(pathlib.Path(sys.argv[1])) as stage:\n"
        "    (stage / 'report').write_text('half')\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(listing(tmp_path)) == 2
        process.send_signal(signal.SIGKILL)
    assert (place / "report").read_text() == "the first"
    verify(place)
    write(place, report="the second")
    assert listing(tmp_path) == ["out"]


def test_two_runs_at_once_end_with_one_whole_bundle(tmp_path: Path) -> None:
    """Not in the main thread either, where signals cannot be held back."""
    place = tmp_path / "out"
    with staged_bundle(place) as stage:
        other = threading.Thread(target=write, args=(place,), kwargs={"report": "other", "more": "files"})
        other.start()
        other.join()
        verify(place)
        (stage / "report").write_text("mine")
    verify(place)
    assert set(contents(place)) == {"manifest.json", "report"}
    assert listing(tmp_path) == ["out"]


def test_ctrl_c_works_again_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    write(tmp_path / "out")
    write(tmp_path / "out")
    assert signal.getsignal(signal.SIGINT) is before


def damage(name: str) -> Callable[[Path], object]:
    return {
        "missing": lambda place: (place / "sub/data.bin").unlink(),
        "cut": lambda place: (place / "sub/data.bin").write_bytes(b"abcdef"[:3]),
        "empty": lambda place: (place / "sub/data.bin").write_bytes(b""),
        "edited": lambda place: (place / "sub/data.bin").write_bytes(b"abcdeF"),
        "swapped": lambda place: (place / "sub/data.bin").write_bytes((place / "report.json").read_bytes()),
        "added": lambda place: (place / "sub/extra").touch(),
        "hidden": lambda place: (place / ".extra").touch(),
        "inner": lambda place: (place / "sub/manifest.json").touch(),
    }[name]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "file 'sub/data.bin' is missing since it was written"),
        ("cut", "file 'sub/data.bin' was changed since it was written"),
        ("empty", "file 'sub/data.bin' was changed since it was written"),
        ("edited", "file 'sub/data.bin' was changed since it was written"),
        ("swapped", "file 'sub/data.bin' was changed since it was written"),
        ("added", "file 'sub/extra' was added since it was written"),
        ("hidden", "file '.extra' was added since it was written"),
        ("inner", "file 'sub/manifest.json' was added since it was written"),
    ],
)
def test_verify_tells_what_changed(tmp_path: Path, kind: str, message: str) -> None:
    place = tmp_path / "out"
    with staged_bundle(place) as stage:
        (stage / "sub").mkdir()
        (stage / "sub" / "data.bin").write_bytes(b"abcdef")
        (stage / "report.json").write_text("{}")
    verify(place)
    damage(kind)(place)
    with pytest.raises(BundleError, match=message):
        verify(place)


@pytest.mark.parametrize(
    "manifest", [None, "", "{", "[]", "3", "{}", '{"files": []}', '{"files": ["a"]}', '{"files": 3}', b"\xff\xfe"]
)
def test_a_directory_without_a_whole_manifest_is_no_bundle(tmp_path: Path, manifest: str | bytes | None) -> None:
    if manifest is not None:
        content = manifest if isinstance(manifest, bytes) else manifest.encode()
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"is not a bundle of neuroport|has format None"):
        verify(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle of neuroport"):
        verify(tmp_path / "absent")


def test_a_bundle_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_FORMAT", "neuroport-bundle/2")
    write(tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(BundleError, match="has format neuroport-bundle/2; this neuroport reads neuroport-bundle/1"):
        verify(tmp_path / "out")


def test_a_bundle_whose_replacement_was_killed_comes_back(tmp_path: Path) -> None:
    """kill -9 between the two renames: the old bundle lies in the dead process's directory, nothing is in place."""
    place = tmp_path / "out"
    write(place)
    dead = subprocess.Popen(["true"])
    dead.wait()
    (aside := tmp_path / f".out.{dead.pid}.xyz").mkdir()
    place.rename(aside / "old")
    with pytest.raises(KeyError), staged_bundle(place):
        raise KeyError
    verify(place)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("out", [".", ".."])
def test_the_current_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BundleError, match="the directory you are in, or one above it"), staged_bundle(Path(out)):
        pass


def test_another_programs_manifest_and_added_files_are_not_ours_to_delete(tmp_path: Path) -> None:
    foreign = tmp_path / "extension"
    foreign.mkdir()
    (foreign / "manifest.json").write_text('{"name": "extension"}')
    (foreign / "thesis.txt").write_text("years of work")
    place = tmp_path / "out"
    write(place)
    (place / "notes.txt").write_text("mine")
    for target in (foreign, place):
        with pytest.raises(BundleError, match="holds files that neuroport did not write"), staged_bundle(target):
            pass
    assert (foreign / "thesis.txt").read_text() == "years of work"
    assert (place / "notes.txt").read_text() == "mine"


def test_a_file_added_while_the_run_goes_on_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "out"
    write(place)
    with pytest.raises(BundleError, match="holds files that neuroport did not write"), staged_bundle(place):
        (place / "notes.txt").write_text("mine")
    assert (place / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_the_renames_arrives_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Also where another thread would take it: the new bundle is in place and whole, the signal is not lost."""

    class Ended(BaseException):
        pass

    def end(*_: object) -> None:
        raise Ended

    before = signal.signal(number, end)
    waiting = threading.Event()
    other = threading.Thread(target=waiting.wait)
    other.start()
    place = tmp_path / "out"
    write(place)
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), number)
        time.sleep(0.05)  # the handler has run if it is going to
        return rename(self, target)

    try:
        with pytest.raises(Ended), staged_bundle(place) as stage:
            (stage / "new.txt").write_text("new")
            monkeypatch.setattr(Path, "rename", renamed)
    finally:
        signal.signal(number, before)
        waiting.set()
        other.join()
    verify(place)
    assert (place / "new.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
