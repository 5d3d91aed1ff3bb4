"""A deployed network as a file of NIR: the integer network of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neuroport.backends.nir.verbs import export_nir
from neuroport.bundle import verify
from neuroport.chip.files import read_network
from neuroport.verbs.exchange import check_places


@dataclass(frozen=True)
class ExportedNir:
    """A file that was written. n_layers: with neurons; target: whose integers it holds."""

    out: Path
    n_layers: int
    target: str


def export_bundle_nir(source: str | Path, out: str | Path) -> ExportedNir:
    """Write the integer network of a bundle, or of a network.h5, as a file of NIR.

    Raises:
        BundleError: source is no such thing. UsageError: `out` cannot be written, or is part of the source.
        DoesNotFitError: NIR cannot hold it. Nothing is written then.
    """
    source, out = Path(source), Path(out)
    check_places(source, out)
    if source.is_dir():
        verify(source)
        source = source / "network.h5"
    network = read_network(source)
    export_nir(network, out)
    return ExportedNir(out, sum(p.role != "input" for p in network.populations), network.target)
