"""The deployment directory: everything one deployment is made of, written whole or not at all.

A bundle is filled in a staging directory beside its place and renamed when it is complete, so a reader never meets
half of one and a failed run leaves an earlier one as it was. `manifest.json` holds the checksum of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuroport.errors import BundleError
from neuroport.interrupts import held_back

_MANIFEST = "manifest.json"
_FORMAT = "neuroport-bundle/1"
_SCRATCH = "scratch"
_OLD = "old"


@contextmanager
def staged_bundle(place: Path) -> Iterator[Path]:
    """A staging directory that becomes the bundle at `place` when the block ends, and vanishes if it raises.

    A subdirectory `scratch` is there for files that are not kept. An existing bundle at `place` is replaced; any
    other file or non-empty directory is refused before anything runs.

    Raises:
        BundleError: `place` is not ours to overwrite, or cannot be written.
    """
    place = place.absolute()  # the staging directory is handed to processes that run elsewhere
    check_place(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(place)
        stage = Path(tempfile.mkdtemp(prefix=f".{place.name}.{os.getpid()}.", dir=place.parent))
    except OSError as error:
        raise BundleError(
            f"cannot write to '{place.parent}': {error.strerror or error}; choose another --out"
        ) from error
    try:
        (stage / _SCRATCH).mkdir()
        yield stage
        shutil.rmtree(stage / _SCRATCH)
        stage.chmod(0o755)
        _seal(stage)
        _move_into_place(stage, place)
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle '{place}': {error.strerror or error}; make room there, or choose another --out"
        ) from error
    finally:
        with held_back():
            shutil.rmtree(stage, ignore_errors=True)


def check_place(place: Path) -> None:
    """Refuse a place that cannot be written, or holds something which is not a bundle.

    Raises:
        BundleError: a file, a directory with other content, or one that may not be written.
    """
    if Path.cwd().is_relative_to(place.resolve()):
        raise BundleError(f"'{place}' is the directory you are in, or one above it; choose another --out")
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise BundleError(f"'{place}' is not a directory; choose another --out")
    if place.is_dir() and any(place.iterdir()) and not _is_ours(place):
        raise BundleError(
            f"'{place}' holds files that neuroport did not write, which a bundle would replace; choose another --out"
        )
    parent = next(p for p in place.absolute().parents if p.is_dir())
    if not os.access(parent, os.W_OK):
        raise BundleError(f"cannot write to '{parent}': permission denied; choose another --out")


def _is_ours(place: Path) -> bool:
    """Whether every file is one that a manifest of neuroport lists."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
        listed = {_MANIFEST, *manifest["files"]}
        is_bundle = str(manifest["format"]).startswith(_FORMAT.split("/")[0])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    found = {p.relative_to(place).as_posix() for p in place.rglob("*") if not p.is_dir()}
    return is_bundle and found <= listed


def verify(place: Path) -> None:
    """Compare every file of a bundle with its checksum.

    Raises:
        BundleError: no bundle, a file missing, cut short, edited or added.
    """
    try:
        manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
        expected = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"'{place}' is not a bundle of neuroport ({_MANIFEST}: {error}); give a folder that deploy wrote"
        ) from error
    if manifest.get("format") != _FORMAT:
        raise BundleError(f"bundle '{place}' has format {manifest.get('format')}; this neuroport reads {_FORMAT}")
    found = _checksums(place)
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            state = "is missing" if name not in found else "was added" if name not in expected else "was changed"
            raise BundleError(
                f"bundle '{place}': file '{name}' {state} since it was written; copy the bundle again from where "
                f"it was made, or deploy again"
            )


def _seal(stage: Path) -> None:
    content = {"format": _FORMAT, "files": _checksums(stage)}
    (stage / _MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / _MANIFEST)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _move_into_place(stage: Path, place: Path) -> None:
    check_place(place)  # minutes have passed since it was looked at
    with held_back():
        if not place.exists():
            stage.rename(place)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{place.name}.{os.getpid()}.", dir=place.parent))
        place.rename(old / _OLD)
        try:
            stage.rename(place)
        except OSError:
            (old / _OLD).rename(place)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def remove_abandoned(place: Path) -> None:
    """Staging directories of processes that were killed before they could clean up; what was in place comes back."""
    ours = re.compile(re.escape(f".{place.name}.") + r"(\d{1,9})\.[^.]+")  # not those of a neighbour 'name.1'
    for path in place.parent.iterdir():
        match = ours.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            if (path / _OLD).is_dir() and not place.exists():  # killed between the two renames
                (path / _OLD).rename(place)
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
