"""Normalized networks of random graphs come back from their file as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neuroport.ann.graph import AnnGraph
from neuroport.errors import BundleError, ConversionError
from neuroport.normalize.convert import convert
from neuroport.normalize.files import read_normalized, write_normalized
from neuroport.normalize.recipe import load_recipe
from neuroport.records import write_record
from neuroport.snn.network import Neuron
from tests.ann.random_graphs import graphs
from tests.equal import same
from tests.snn import graphs as made
from tests.snn.graphs import draw, samples

NETS = [made.feature_pyramid, made.quantized, made.clamped, made.tokens, made.upsampled, made.concat_then_max_pool]


def check(graph: AnnGraph, recipe: str, path: Path) -> None:
    try:
        normalized = convert(graph, samples(graph, 4).numpy(), load_recipe(recipe), 16)
    except ConversionError:
        assume(False)
        return
    write_normalized(path, normalized)
    assert same(read_normalized(path), normalized)


@settings(max_examples=40)
@given(graph=graphs(), recipe=st.sampled_from(["robust", "hard-reset", "max-norm", "robust-rate"]))
def test_random_networks(graph: AnnGraph, recipe: str, tmp_path: Path) -> None:
    check(graph, recipe, tmp_path / "float.h5")


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
@pytest.mark.parametrize("recipe", ["robust", "hard-reset"])
def test_networks_of_every_kind(net: Any, recipe: str, tmp_path: Path) -> None:
    check(draw(net), recipe, tmp_path / "float.h5")


def test_another_record_is_told(tmp_path: Path) -> None:
    write_record(tmp_path / "float.h5", Neuron(), (Neuron,))
    with pytest.raises(BundleError, match="holds a Neuron, not a normalized network; deploy again"):
        read_normalized(tmp_path / "float.h5")
