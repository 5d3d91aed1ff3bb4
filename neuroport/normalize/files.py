"""The normalized network as a file of the bundle: what is needed to show the chip new samples, and to find blame."""

from __future__ import annotations

from pathlib import Path

from neuroport.ann import graph
from neuroport.errors import BundleError
from neuroport.normalize.activations import ActivationStatistics
from neuroport.normalize.scales import Normalized
from neuroport.records import read_record, write_record
from neuroport.snn import network, operators

_CLASSES: tuple[type, ...] = (
    Normalized,
    ActivationStatistics,
    network.SpikingNetwork,
    network.Population,
    network.Projection,
    network.Neuron,
    network.Gate,
    network.Saturation,
    network.Head,
    operators.Dense,
    operators.Conv2d,
    operators.ConvGeometry,
    operators.ConvTranspose2d,
    operators.Sparse,
    operators.Scale,
    operators.Gather,
    operators.Resample,
    operators.Window,
    operators.Chain,
    graph.Node,
    graph.Origin,
    graph.MaxPool2d,
    graph.Softmax,
    graph.Squash,
    graph.LeakyReLU,
    graph.Reshape,
)


def write_normalized(path: Path, normalized: Normalized) -> None:
    """Write the normalized network to a new file."""
    write_record(path, normalized, _CLASSES)


def read_normalized(path: Path) -> Normalized:
    """Read a normalized network; it checks itself as it does when it is made.

    Raises:
        BundleError: not such a file, or one that is cut short or damaged.
    """
    found = read_record(path, _CLASSES)
    if not isinstance(found, Normalized):
        raise BundleError(f"'{path}' holds a {type(found).__name__}, not a normalized network; deploy again")
    return found
