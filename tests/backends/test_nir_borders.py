"""Biases that follow the border of a padded convolution, as NIR holds them: a kernel over an image of ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroport as nrp
from neuroport.backends.nir.borders import border_kernel
from neuroport.chip.network import IntNetwork
from neuroport.chip.oracle import run_oracle
from neuroport.chip.synapses import IntConv2d
from neuroport.errors import ModelFileError
from neuroport.snn.network import Neuron, Projection, SpikingNetwork
from neuroport.snn.operators import Conv2d, apply, conv_geometry
from neuroport.snn.simulate import simulate
from tests.backends.nir_interpreter import run
from tests.chip.float_networks import float_population
from tests.chip.networks import cases, dense, network_of, population, source, spikes_of, target

BORDER = conv_geometry((1, 6, 5), (2, 1, 3, 3), (1, 1), (1, 1), (1, 1), 1)


def over_ones(kernel: Any, geometry: Any) -> Any:
    ones = torch.ones(1, *geometry.in_shape, dtype=torch.float64)
    return apply(Conv2d(kernel.astype(np.float64), geometry), ones)[0].numpy()


@cases(200)
@given(
    k=st.integers(1, 5),
    padding=st.integers(0, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    seed=st.integers(0, 99),
)
def test_the_kernel_writes_the_biases(
    k: int, padding: int, stride: int, dilation: int, size: tuple[int, int], seed: int
) -> None:
    """Whatever kernel they come of, integers exactly."""
    g = conv_geometry((1, *size), (2, 1, k, k), (stride, stride), (padding, padding), (dilation, dilation), 1)
    if min(g.out_shape) < 1:
        return
    made = np.random.default_rng(seed).integers(-50, 50, (2, 1, k, k))
    bias = np.rint(over_ones(made, g)).astype(np.int32)
    kernel = border_kernel(bias, g)
    if kernel is not None:  # of integers there may be none among whole kernels with as few taps
        assert kernel.dtype == np.int32
        assert np.array_equal(over_ones(kernel, g), bias)
    found = border_kernel(over_ones(made, g), g)
    assert found is not None
    assert np.allclose(over_ones(found, g), bias, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("stride", "size"), [(1, 8), (2, 8), (1, 7), (2, 7)])
def test_whole_kernels_are_found_of_the_usual_convolutions(stride: int, size: int) -> None:
    g = conv_geometry((1, size, size), (4, 1, 3, 3), (stride, stride), (1, 1), (1, 1), 1)
    made = np.random.default_rng(size).integers(-500, 500, (4, 1, 3, 3))
    kernel = border_kernel(np.rint(over_ones(made, g)).astype(np.int32), g)
    assert kernel is not None


def test_other_biases_have_no_kernel() -> None:
    assert border_kernel(np.arange(60, dtype=np.int32).reshape(2, 6, 5), BORDER) is None
    assert border_kernel(np.random.default_rng(0).normal(size=(2, 6, 5)), BORDER) is None


def test_an_integer_network_keeps_its_convolution(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    g = conv_geometry((3, 6, 5), (2, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    bias = np.rint(over_ones(rng.integers(-60, 90, (2, 1, 3, 3)), BORDER)).astype(np.int32)
    out = population("out", (2, 6, 5), bias_mantissa=bias, threshold_mantissa=400)
    j = replace(dense([[1]]), synapse=IntConv2d(2 * rng.integers(-30, 40, (2, 3, 3, 3)).astype(np.int32), g))
    a = target("cpu").arithmetic
    network = network_of(a, [source((3, 6, 5)), out], [j])
    nrp.export_nir(network, tmp_path / "n.nir")
    graph = nir.read(tmp_path / "n.nir")
    assert type(graph.nodes["out_weights"]).__name__ == "Conv2d"
    back = nrp.read_nir(tmp_path / "n.nir")
    assert isinstance(back, IntNetwork)
    assert np.array_equal(back.by_name["out"].bias_mantissa, bias)
    raster = (rng.random((20, 3, 6, 5)) < 0.4).astype(np.uint8)
    wanted = run_oracle(network, spikes_of(raster))
    spikes, potentials = run(graph, {"input": raster.astype(np.int64)}, 20)
    assert np.array_equal(spikes["out"], wanted.spikes["out"][0])
    assert np.array_equal(potentials["out"], wanted.potentials["out"][0])
    assert 0 < spikes["out"].mean() < 1


def test_a_float_network_keeps_its_convolution(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    g = conv_geometry((3, 6, 5), (2, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    out = float_population(
        "out", (2, 6, 5), Neuron("zero"), role="readout", bias=over_ones(rng.uniform(-0.1, 0.2, (2, 1, 3, 3)), BORDER)
    )
    j = Projection("input", "out", Conv2d(rng.normal(size=(2, 3, 3, 3)) / 5, g))
    network = SpikingNetwork((float_population("input", (3, 6, 5), role="input"), out), (j,))
    nrp.export_nir(network, tmp_path / "n.nir")
    back = nrp.read_nir(tmp_path / "n.nir")
    assert isinstance(back, SpikingNetwork)
    assert len(back.projections) == 1
    assert np.array_equal(back.projections[0].operator.weight, j.operator.weight)  # type: ignore[union-attr]
    assert np.array_equal(back.output.bias, out.bias)
    x = rng.random((3, 3, 6, 5))
    one, other = (simulate(n, x, 30, dtype=torch.float64).readout for n in (network, back))
    assert np.array_equal(one, other)
    assert one.any()


def test_biases_that_no_longer_belong_to_the_kernel_are_not_taken_for_ours(tmp_path: Path) -> None:
    g = conv_geometry((3, 6, 5), (2, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    rng = np.random.default_rng(7)
    bias = over_ones(rng.uniform(-0.1, 0.2, (2, 1, 3, 3)), BORDER)
    out = float_population("out", (2, 6, 5), Neuron("zero"), role="readout", bias=bias)
    j = Projection("input", "out", Conv2d(rng.normal(size=(2, 3, 3, 3)) / 5, g))
    nrp.export_nir(SpikingNetwork((float_population("input", (3, 6, 5), role="input"), out), (j,)), tmp_path / "n.nir")
    for value in (0.5, np.nan):
        with h5py.File(tmp_path / "n.nir", "r+") as f:
            f["node/nodes/out/metadata/neuroport/bias"][0, 0, 0] = value
        with pytest.raises(ModelFileError, match=r"was changed after neuroport wrote it, .* has another bias"):
            nrp.read_nir(tmp_path / "n.nir")
