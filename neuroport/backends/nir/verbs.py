"""`export_nir` and `read_nir`: networks to and from files of NIR."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroport.backends.nir.file import DT_S, KEY, VERSION, read_graph, write_graph
from neuroport.backends.nir.read_float import float_network
from neuroport.backends.nir.read_int import int_network
from neuroport.backends.nir.write_float import float_graph
from neuroport.backends.nir.write_int import int_graph
from neuroport.chip.network import IntNetwork
from neuroport.errors import ModelFileError, UsageError
from neuroport.snn.network import Reset, SpikingNetwork


def export_nir(network: SpikingNetwork | IntNetwork, path: str | Path) -> None:
    """Write a network as a file of NIR, integers as integers; what NIR has no place for goes to its metadata.

    The key `neuroport` of the metadata holds a JSON text: target, arithmetic, resets, initial potentials, exponents,
    units, the test at the threshold, input code and outputs. See write_int.py and write_float.py.

    Raises:
        DoesNotFitError: what NIR cannot hold, with layer and remedy; nothing is written then.
        UsageError: the place cannot be written, or the package nir is missing.
    """
    graph = int_graph(network) if isinstance(network, IntNetwork) else float_graph(network)
    write_graph(Path(path), graph)


def read_nir(path: str | Path, *, reset: Reset | None = None, dt_s: float | None = None) -> SpikingNetwork | IntNetwork:
    """The network in a file of NIR: a float one, or the integer one that neuroport wrote, bit for bit.

    Thresholds become 1 and leaks those of one step; a neuron of ours fires at its threshold, which is just above NIR's
    (neurons.py). The input takes what `simulate` shows it, the same analog values in every step, unless neuroport wrote
    otherwise. An Output behind a linear node or an integrator is read by its potential.

    Args:
        path: the .nir file.
        reset: of neurons whose file does not say it; None is 'zero', as in NIR's equations.
        dt_s: of one step in seconds, for time constants; None is the file's, or 1e-4 as in snnTorch.

    Raises:
        ModelFileError: missing, damaged, no file of NIR, or changed after neuroport wrote it. UsageError: the file says
        another reset or step. ConversionError: what neuroport's networks do not have, with node, value and remedy.
    """
    path = Path(path)
    graph = read_graph(path)
    described = _described(path, graph)
    if dt_s is not None and not 0 < dt_s < float("inf"):
        raise UsageError(f"--dt {dt_s:g} is no length of a step; give seconds above 0: 1e-4")
    if described is None:
        return float_network(path.name, graph, None, reset=reset or "zero", dt_s=dt_s or DT_S)
    if reset is not None or dt_s is not None:
        raise UsageError(
            f"'{path}' says itself how its neurons are reset and how long a step is; leave --reset and --dt out"
        )
    if described["kind"] == "integer":
        return int_network(path.name, graph, described)
    return float_network(path.name, graph, described, reset="zero", dt_s=DT_S)


def _described(path: Path, graph: Any) -> Mapping[str, Any] | None:
    """Our metadata.

    Raises:
        ModelFileError: of another version, or not to be read.
    """
    text = graph.metadata.get(KEY)
    if text is None:
        return None
    try:
        found = json.loads(text)
        version, kind = found["version"], found.get("kind")
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(
            f"'{path}': its metadata under '{KEY}' are damaged ({error}); write it again with neuroport"
        ) from error
    if version != VERSION:
        raise ModelFileError(
            f"'{path}' has metadata of neuroport in version {version}, this one reads version {VERSION}; write it "
            f"again, or use the neuroport that wrote it"
        )
    if kind not in ("integer", "float"):
        raise ModelFileError(
            f"'{path}': its metadata under '{KEY}' are of a kind '{kind}', integer and float are; write it again with "
            f"neuroport"
        )
    described: Mapping[str, Any] = found
    return described
