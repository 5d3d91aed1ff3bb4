"""A deployed network as a directory that other people run without neuroport."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from neuroport.backends.spinnaker.export import write_export
from neuroport.bundle import remove_abandoned
from neuroport.bundle import verify as verify_bundle
from neuroport.chip.files import read_inputs, read_network, read_trace
from neuroport.errors import BundleError, UsageError

_NEEDED = ("manifest.json", "network.h5", "inputs.h5", "core.h5")


def export_pynn(source: str | Path, out: str | Path) -> int:
    """Write a bundle's network, samples and expected spikes as a PyNN directory; returns the number of samples.

    Raises:
        BundleError: source is no bundle. UsageError: `out` is there already, or cannot be written.
        DoesNotFitError: SpiNNaker cannot hold it. Nothing is written then.
    """
    source, out = Path(source), Path(out)
    missing = [name for name in _NEEDED if not (source / name).is_file()]
    if missing:
        raise BundleError(
            f"'{source}' holds no {missing[0]}: the export needs a network, samples and what the core made of "
            f"them; give a bundle made by `neuroport deploy --target spinnaker1`"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out '{out}' is there already and is not empty; choose another --out, or remove it")
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"--out '{out}' would change the bundle '{source}'; choose a place outside of it")
    verify_bundle(source)
    network, inputs = read_network(source / "network.h5"), read_inputs(source / "inputs.h5")
    expected = read_trace(source / "core.h5")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}.", dir=out.parent))
        try:
            write_export(stage, network, inputs, expected)
            stage.chmod(0o755)
            stage.replace(out)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"cannot write '{out}': {error.strerror or error}; choose another --out") from error
    return inputs.n_samples
