"""A deployed network as a file of NIR: the integer network of a bundle, or the one in floats it was rounded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neuroport.backends.nir.verbs import export_nir
from neuroport.backends.nir.write_int import exponent_of
from neuroport.bundle import verify
from neuroport.chip.files import read_network
from neuroport.chip.network import IntNetwork
from neuroport.normalize.files import read_normalized
from neuroport.records import is_record
from neuroport.snn.network import SpikingNetwork
from neuroport.verbs.exchange import check_places


@dataclass(frozen=True)
class ExportedNir:
    """A file that was written. n_layers: with neurons; numbers: which ones it holds; entry: what its Inputs take."""

    out: Path
    n_layers: int
    numbers: str
    entry: str


def export_bundle_nir(source: str | Path, out: str | Path) -> ExportedNir:
    """Write the integer network of a bundle, or of its network.h5, as a file of NIR; of its float.h5 the one in floats.

    Raises:
        BundleError: source is no such thing. UsageError: `out` cannot be written, or is part of the source.
        DoesNotFitError: NIR cannot hold it. Nothing is written then.
    """
    source, out = Path(source), Path(out)
    check_places(source, out)
    if source.is_dir():
        verify(source)
        source = source / "network.h5"
    network = read_normalized(source).network if is_record(source) else read_network(source)
    export_nir(network, out)
    numbers = f"in the integers of {network.target}" if isinstance(network, IntNetwork) else "in floats"
    return ExportedNir(out, sum(p.role != "input" for p in network.populations), numbers, _entry(network))


def _entry(network: IntNetwork | SpikingNetwork) -> str:
    if isinstance(network, SpikingNetwork):
        return "the samples in every step" if network.encoding == "current" else "spikes"
    driven = [
        f"those of '{p.name}', mantissas << {p.bias_exponent - exponent_of(p, network)}"
        for p in network.populations
        if p.driven
    ]
    return f"input currents, which the host makes of the samples: {', '.join(driven)}" if driven else "spikes"
