"""An integer network back from a file of our own, every number as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neuroport.backends.nir.file import KEY, same_fields
from neuroport.backends.nir.write_int import SCALARS, int_graph
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntArray, IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntSynapse
from neuroport.chip.target import Arithmetic
from neuroport.errors import ModelFileError, NeuroportError
from neuroport.snn.operators import ConvGeometry

# What a wrong description makes Python, numpy and pydantic raise (its errors are ValueErrors).
_WRONG = (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError)


def int_network(name: str, graph: Any, described: Mapping[str, Any]) -> IntNetwork:
    """The integer network of a graph with our metadata, `described`; `name` is the file's.

    Every range is checked again, and the network is written once more: the graph must be that one.

    Raises:
        ModelFileError: the graph is not what neuroport wrote. DoesNotFitError: a number out of range.
    """
    try:
        arithmetic = Arithmetic.model_validate(described["arithmetic"])
        rows = {row["name"]: row for row in described["populations"]}
        populations = tuple(_population(graph, row, described) for row in rows.values())
        projections = tuple(
            _projection(graph, row, row["exponent"] + arithmetic.synaptic_shift - rows[row["post"]]["exponent"])
            for row in described["projections"]
        )
        heads = tuple(IntHead(head["population"], head["read"]) for head in described["heads"])
        found = IntNetwork(described["target"], arithmetic, populations, projections, heads)
        again = int_graph(found)
    except NeuroportError:
        raise
    except _WRONG as error:
        raise _changed(name, f"its description is damaged ({type(error).__name__}: {error})") from error
    if again.nodes.keys() != graph.nodes.keys() or set(again.edges) != set(graph.edges):
        raise _changed(name, "it has other nodes or edges")
    for node in again.nodes:
        if type(again.nodes[node]) is not type(graph.nodes[node]):
            raise _changed(name, f"node '{node}' is a {type(graph.nodes[node]).__name__}")
        if field := same_fields(again.nodes[node], graph.nodes[node]):
            raise _changed(name, f"node '{node}' has another {field}")
    return found


def _changed(name: str, found: str) -> ModelFileError:
    return ModelFileError(
        f"'{name}' was changed after neuroport wrote it: {found}; write it again, or take the key '{KEY}' out of its "
        f"metadata to have it read as the plain NIR network it is now"
    )


def _population(graph: Any, row: Mapping[str, Any], described: Mapping[str, Any]) -> IntPopulation:
    shape = tuple(row["shape"])
    kept = graph.nodes[row["node"]].metadata.get(KEY, {})
    bias = kept["bias_mantissa"] if "bias_mantissa" in kept else _bias(graph, row, described).reshape(shape)
    return IntPopulation(shape=shape, bias_mantissa=bias, **{key: row[key] for key in SCALARS})


def _bias(graph: Any, row: Mapping[str, Any], described: Mapping[str, Any]) -> IntArray:
    """Mantissas [n], from the first node of weights that leads to the population."""
    n = int(np.prod(row["shape"]))
    first = next((j["node"] for j in described["projections"] if j["post"] == row["name"]), None)
    values = np.zeros(1, np.int64) if first is None else graph.nodes[first].bias.astype(np.int64)
    if not values.any():
        return np.zeros(n, np.int32)
    mantissa = values >> (row["bias_exponent"] - row["exponent"])
    return np.repeat(mantissa, n // len(mantissa)).astype(np.int32)


def _projection(graph: Any, row: Mapping[str, Any], shift: int) -> IntProjection:
    node = graph.nodes[row["node"]]
    return IntProjection(row["pre"], row["post"], _synapse(node, row, shift), row["exponent"])


def _synapse(node: Any, row: Mapping[str, Any], shift: int) -> IntSynapse:
    if row["kind"] == "IntDense":
        return IntDense((node.weight >> shift).astype(np.int32))
    kept = node.metadata[KEY]
    if row["kind"] == "IntSparse":
        return IntSparse(kept["mantissa"], kept["columns"], kept["row_start"])
    pairs: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row["geometry"].items()
    }
    geometry = ConvGeometry(**pairs)
    kinds: dict[str, type[IntConv2d] | type[IntConvTranspose2d]] = {
        "IntConv2d": IntConv2d,
        "IntConvTranspose2d": IntConvTranspose2d,
    }
    return kinds[row["kind"]](kept["mantissa"], geometry)
