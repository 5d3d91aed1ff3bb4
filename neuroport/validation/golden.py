"""Golden recordings: a network, its inputs and every spike in one small file, to hold later versions against.

A file `*.golden.h5` is HDF5 behind a user block of 512 bytes, which holds the format and the SHA-256 of all that
follows:

    neuroport-golden/1
    sha256 <64 hex digits>

Behind it: attributes `neuroport` (the version that wrote it), `network_hash` (chip/digest.py), `sheet` (the datasheet
as JSON, without its sources and its arithmetic, which is the network's), and the groups `network`, `inputs` and `trace`
as chip/files.py lays them out, spikes in bits. The same run gives the same bytes. A recording is written once: another
one is refused in its place unless it is forced.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from neuroport.chip.core import run_core
from neuroport.chip.digest import network_hash
from neuroport.chip.files import read_inputs, read_network, read_trace, write_inputs, write_network, write_trace
from neuroport.chip.inputs import IntInputs, check_inputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace
from neuroport.errors import GoldenError, NeuroportError, UsageError
from neuroport.validation.recorded import Recorded, missing, read_bundle
from neuroport.validation.rerun import Rerun, Reruns
from neuroport.version import __version__

SUFFIX = ".golden.h5"
_MAGIC = b"neuroport-golden/"
_FORMAT = _MAGIC + b"1"
_HEAD = 512  # HDF5 looks for itself at 0, 512, 1024 and so on
_LAYOUT = ("v110", "v110")  # of HDF5 1.10: a third of the size of the oldest, and read by all of this decade
_NOT_OF_THE_SHEET = {"arithmetic", "neurons", "sources", "references"}  # the network has its own arithmetic
_TAKE_BACK = "take it back from version control, and record it again only if the change is meant"


@dataclass(frozen=True, eq=False)
class Golden:
    """A recording as read: the run, the hash of its network, and the neuroport that made it."""

    recorded: Recorded
    network_hash: str
    made_by: str


@dataclass(frozen=True)
class Recording:
    """What came of recording: how the core compares with what the bundle says, and the file if it is equal."""

    rerun: Rerun
    network_hash: str
    n_bytes: int = 0


def record_golden(
    bundle: str | Path, out: str | Path, *, n_samples: int | None = None, force: bool = False
) -> Recording:
    """Record the first samples of a bundle, all if None; nothing is written if the core no longer gives its spikes.

    Raises:
        UsageError: another suffix, a file that is there already, or more samples than the bundle holds. BundleError: no
        bundle, or one that was changed.
    """
    check_place(out, force=force)
    recorded = read_bundle(bundle)
    n_held = recorded.inputs.n_samples
    if n_samples is not None and not 1 <= n_samples <= n_held:
        raise UsageError(f"--samples {n_samples}: bundle '{bundle}' holds {n_held} samples; give 1 to {n_held}")
    recorded = recorded.first(n_samples or n_held)
    rerun, found = Reruns().core(recorded), network_hash(recorded.network)
    if not rerun.is_equal:
        return Recording(rerun, found)
    return Recording(rerun, found, write_golden(out, recorded, force=force))


def record_run(network: IntNetwork, inputs: IntInputs, sheet: Target | None = None) -> Recorded:
    """A run of the core, to be written."""
    return Recorded(network, inputs, run_core(network, inputs, record="spikes").trace, sheet=sheet)


def check_golden(path: str | Path, backends: Sequence[str] = (), reruns: Reruns | None = None) -> tuple[Rerun, ...]:
    """Run a recording again: the core, then each backend ('cpu' is the oracle).

    Raises:
        GoldenError: see read_golden. UsageError, DoesNotFitError, ToolchainError: see Reruns.run.
    """
    return (reruns or Reruns()).run(read_golden(path).recorded, backends)


def check_place(out: str | Path, *, force: bool) -> None:
    """Refuse a name that pytest would not find, and a recording that is there already.

    Raises:
        UsageError, GoldenError: these.
    """
    out = Path(out)
    if not out.name.endswith(SUFFIX) or out.name == SUFFIX:
        raise UsageError(f"'{out}' does not end in {SUFFIX}, by which pytest finds recordings; name it NAME{SUFFIX}")
    if not out.parent.is_dir():
        raise UsageError(f"'{out}': '{out.parent}' is no folder; make it, or choose another place")
    try:
        is_there = out.exists()
    except OSError as error:
        raise UsageError(f"cannot write '{out}': {error.strerror or error}; choose another place") from error
    if is_there and not force:
        raise GoldenError(
            f"'{out}' is there already, and recordings are written once; choose another name, or if its spikes are "
            f"meant to change, overwrite it with --force"
        )


def write_golden(out: str | Path, recorded: Recorded, *, force: bool = False) -> int:
    """Write a recording, whole or not at all; returns its bytes.

    Raises:
        UsageError, GoldenError: see check_place; or the disk does not take it.
    """
    check_place(out, force=force)
    out, network = Path(out), recorded.network
    content = io.BytesIO()  # on a full disk the HDF5 library itself would crash
    with h5py.File(content, "w", userblock_size=_HEAD, libver=_LAYOUT) as f:
        f.attrs.update(neuroport=__version__, network_hash=network_hash(network))
        if recorded.sheet is not None:
            f.attrs["sheet"] = recorded.sheet.model_dump_json(exclude=_NOT_OF_THE_SHEET, exclude_defaults=True)
        write_network(f.create_group("network"), network)
        write_inputs(f.create_group("inputs"), recorded.inputs)
        source = {p.name for p in network.populations if p.role == "input"}
        spikes = {name: x for name, x in recorded.trace.spikes.items() if name not in source}  # they are the inputs
        write_trace(f.create_group("trace"), spikes, recorded.trace.potentials)
    body = content.getvalue()[_HEAD:]
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        draft.write_bytes(_head(body) + body)
        draft.replace(out)
    except OSError as error:
        raise UsageError(f"cannot write '{out}': {error.strerror or error}; choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return _HEAD + len(body)


def _head(body: bytes) -> bytes:
    text = _FORMAT + b"\nsha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n"
    return text.ljust(_HEAD - 1) + b"\n"


def read_golden(path: str | Path) -> Golden:
    """A recording, its checksum and the hash of its network compared first.

    Raises:
        GoldenError: no such file, a foreign one, one of another format, damaged, cut short or edited.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GoldenError(
            f"'{path}' cannot be read: {error.strerror or error}; make it with `neuroport golden record`"
        ) from error
    _check_content(path, content)
    try:
        with h5py.File(io.BytesIO(content), "r") as f:
            network, inputs, trace = read_network(f["network"]), read_inputs(f["inputs"]), read_trace(f["trace"])
            content_of_sheet = json.loads(f.attrs["sheet"]) if "sheet" in f.attrs else None
            made_by, expected = str(f.attrs["neuroport"]), str(f.attrs["network_hash"])
        check_inputs(network, inputs)
        sheet = _sheet(content_of_sheet, network)
    except (NeuroportError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise GoldenError(f"'{path}' is whole, but this neuroport does not read it: {error}; {_TAKE_BACK}") from error
    _check_parts(path, network, inputs, trace, expected)
    return Golden(Recorded(network, inputs, trace, sheet=sheet), expected, made_by)


def _sheet(content: dict[str, Any] | None, network: IntNetwork) -> Target | None:
    return None if content is None else Target.model_validate({**content, "arithmetic": network.arithmetic})


def _check_content(path: Path, content: bytes) -> None:
    if not content.startswith(_MAGIC):
        found = "is empty" if not content else "does not begin as one"
        raise GoldenError(f"'{path}' is no golden recording of neuroport, or is damaged: it {found}; {_TAKE_BACK}")
    first = content.split(b"\n", 1)[0]
    if first != _FORMAT and re.fullmatch(_MAGIC + rb"\d{1,9}", first):
        raise GoldenError(
            f"'{path}' has format {first.decode()}, this neuroport reads {_FORMAT.decode()}; use the neuroport that "
            f"made it"
        )
    if content[:_HEAD] != _head(content[_HEAD:]):
        raise GoldenError(
            f"'{path}' was damaged, cut short or edited since it was written: its checksum is another; {_TAKE_BACK}"
        )


def _check_parts(path: Path, network: IntNetwork, inputs: IntInputs, trace: Trace, expected: str) -> None:
    if (found := network_hash(network)) != expected:
        raise GoldenError(
            f"'{path}': its network has the hash {found[:16]}..., recorded was {expected[:16]}...; the network was "
            f"exchanged, or this neuroport reads it differently; {_TAKE_BACK}"
        )
    if lacking := missing(network, inputs, trace):
        raise GoldenError(f"'{path}' {lacking}; {_TAKE_BACK}")
