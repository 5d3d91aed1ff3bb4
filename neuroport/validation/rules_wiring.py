"""What chips and simulators are known to do to weights, kernels, orders and delays instead of what they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.loihi.netx_weights import weights_run
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntWeights, IntWindow
from neuroport.snn.operators import Shape
from neuroport.validation.isolate import Arrival, Site
from neuroport.validation.rules import Candidate, Rule

Index = NDArray[np.intp]
Rewire = Callable[[IntWeights], IntWeights | None]
_LAVA_WEIGHTS = "lava-nc 0.10.0, lava/utils/weightutils.py"
_LAVA_CONV = "lava-nc 0.10.0, lava/proc/conv/models.py"


def _each(site: Site, rule: str, text: str, cause: str, rewire: Rewire) -> Iterator[Candidate]:
    """The change in all projections that it touches; where those are several, in each alone too."""
    touched = [k for k, a in enumerate(site.arrivals) if _rewired(a, rewire) is not None]
    groups = [touched, *([k] for k in touched if len(touched) > 1)] if touched else []
    for ks in groups:
        where = "" if len(site.arrivals) == 1 else _from(site, ks)
        yield Candidate(rule, text + where, cause, partial(_rewire_all, ks=ks, rewire=rewire))


def _rewired(arrival: Arrival, rewire: Rewire) -> IntWeights | None:
    synapse = arrival.projection.synapse
    return None if isinstance(synapse, IntWindow) else rewire(synapse)


def _rewire_all(site: Site, ks: list[int], rewire: Rewire) -> Site:
    for k in ks:
        synapse = _rewired(site.arrivals[k], rewire)
        site = site.rewired(k, synapse=synapse)
    return site


def _from(site: Site, ks: list[int]) -> str:
    """Which projections, where there are several."""
    names = [f"'{site.arrivals[k].projection.pre}'" for k in ks]
    if len({a.projection.pre for a in site.arrivals}) < len(site.arrivals):  # two from one population
        names = [f"{name} (projection {k})" for name, k in zip(names, ks, strict=True)]
    return f", from {' and '.join(names)}"


def _mantissas(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Rewire:
    """A change of all weights of a projection; None where it changes nothing."""

    def rewire(synapse: IntWeights) -> IntWeights | None:
        m = change(synapse.mantissa).astype(np.int32)
        return None if np.array_equal(m, synapse.mantissa) else replace(synapse, mantissa=m)

    return rewire


def _if_mixed(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Rewire:
    return _mantissas(lambda m: change(m) if m.size and m.min() < 0 < m.max() else m)


def odd_weights(site: Site) -> Iterator[Candidate]:
    """Odd weights of mixed signs, which 8 bits with a sign do not hold."""
    ways: dict[str, tuple[str, str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
        "odd-weights-floored": (
            "floors odd weights of mixed signs to even ones",
            f"Lava does, {_LAVA_WEIGHTS} l.204-247",
            lambda m: m - m % 2,
        ),
        "odd-weights-truncated": (
            "cuts odd weights of mixed signs toward zero",
            "brian2-loihi 0.5.2 does, loihi_synapses.py",
            lambda m: m - np.sign(m) * (m % 2),
        ),
        "odd-weights-rounded": (
            "rounds odd weights of mixed signs to even multiples of 2",
            "nengo-loihi 1.1.0 does, builder/discretize.py l.476",
            lambda m: 2 * np.rint(m / 2),
        ),
    }
    for name, (text, cause, change) in ways.items():
        yield from _each(site, name, text, cause, _if_mixed(change))


def weight_range(site: Site) -> Iterator[Candidate]:
    """Weights cut to, or wrapped into, fewer bits."""

    def lava(m: NDArray[Any]) -> NDArray[Any]:
        low, high = (0, 255) if m.min(initial=0) >= 0 else (-255, 0) if m.max(initial=0) <= 0 else (-256, 255)
        clipped: NDArray[Any] = np.clip(m, low, high)
        return clipped

    cause = f"Lava does in Dense and Sparse, {_LAVA_WEIGHTS} l.250-295"
    yield from _each(site, "weights-clipped", "clips weights to 8 bits and a sign", cause, _mantissas(lava))
    text = "multiplies with other weights, as netx and Lava do not agree on the bits of these"
    cause = "lava-dl 0.6.0, lava/lib/dl/netx/utils.py l.101-158"
    dense = _mantissas(lambda m: weights_run(m.astype(np.int64)) if m.ndim == 2 else m)
    yield from _each(site, "netx-weights", text, cause, dense)
    signed = _mantissas(lambda m: np.clip(m, -128, 127))
    yield from _each(site, "weights-clipped", "clips weights to -128 to 127", "", signed)
    cause = "py-spinnaker2's s2_nir.py casts kernels by astype(int8)"
    wrapped = _mantissas(lambda m: m.astype(np.int8))
    yield from _each(site, "weights-wrapped", "wraps weights into 8 bits", cause, wrapped)


def signs(site: Site) -> Iterator[Candidate]:
    """Signs that get lost."""
    cause = "sPyNNaker stores magnitudes as uint16, the sign by the projection's receptor"
    yield from _each(site, "sign-lost", "adds the magnitudes of negative weights", cause, _mantissas(np.abs))


def exponents(site: Site) -> Iterator[Candidate]:
    """Weight exponents that nobody reads."""
    touched = [k for k, a in enumerate(site.arrivals) if a.projection.exponent]
    for ks in [touched, *([k] for k in touched if len(touched) > 1)] if touched else []:
        text = "ignores the weights' exponent" + _from(site, ks)
        cause = f"Lava's Conv does, {_LAVA_CONV} l.31-32"
        yield Candidate("exponent-ignored", text, cause, partial(_without_exponents, ks=ks))


def _without_exponents(site: Site, ks: list[int]) -> Site:
    for k in ks:
        site = site.rewired(k, exponent=0)
    return site


def kernels(site: Site) -> Iterator[Candidate]:
    """Kernels that are flipped, or whose axes are swapped."""
    cause = f"Lava's Conv is a convolution, torch's a correlation, {_LAVA_CONV} l.68-79"
    yield from _each(site, "kernel-flipped", "flips the kernel in both axes", cause, _of_images(_flipped))
    cause = "Lava's images are [W, H, C], lava-nc 0.10.0, lava/proc/conv/process.py l.37, l.49"
    text = "swaps the kernel's rows and columns"
    yield from _each(site, "axes-swapped", text, cause, _of_images(_transposed))
    text = "swaps rows and columns of stride, padding and dilation"
    yield from _each(site, "axes-swapped", text, cause, _of_images(_other_geometry))


def _of_images(change: Callable[[IntConv2d | IntConvTranspose2d], IntWeights]) -> Rewire:
    def rewire(synapse: IntWeights) -> IntWeights | None:
        if not isinstance(synapse, IntConv2d | IntConvTranspose2d):
            return None
        changed = change(synapse)
        same = np.array_equal(changed.mantissa, synapse.mantissa)
        return None if same and getattr(changed, "geometry", None) == synapse.geometry else changed

    return rewire


def _flipped(conv: IntConv2d | IntConvTranspose2d) -> IntWeights:
    return replace(conv, mantissa=np.ascontiguousarray(conv.mantissa[:, :, ::-1, ::-1]))


def _transposed(conv: IntConv2d | IntConvTranspose2d) -> IntWeights:
    rows, cols = conv.geometry.kernel
    return replace(conv, mantissa=np.ascontiguousarray(conv.mantissa.swapaxes(2, 3))) if rows == cols else conv


def _other_geometry(conv: IntConv2d | IntConvTranspose2d) -> IntWeights:
    g = conv.geometry
    turned = {name: getattr(g, name)[::-1] for name in ("stride", "padding", "dilation")}
    return replace(conv, geometry=replace(g, **turned))


def orders(site: Site) -> Iterator[Candidate]:
    """Neurons of an image, before or in the population, in another order than [C, H, W]."""
    cause = "Lava's images are [W, H, C]; a flattened layer reads them in that order unless it is turned round"
    for k, arrival in enumerate(site.arrivals):
        for rule, text, index in _orders(arrival.shape):
            what = f"reads '{arrival.projection.pre}' {text}"
            yield Candidate(rule, what, cause, partial(_reordered, k=k, index=index))
    for rule, text, index in _orders(site.population.shape):
        yield Candidate(rule, f"gives its own spikes {text}", cause, partial(_answered, index=index))


def _reordered(site: Site, k: int, index: Index) -> Site:
    return site.rewired(k, spikes=np.ascontiguousarray(site.arrivals[k].spikes[..., index]))


def _answered(site: Site, index: Index) -> Site:
    return replace(site, places=index)


def _orders(shape: Shape) -> Iterator[tuple[str, str, Index]]:
    """(rule, text, the neuron at each place) of all other orders of the axes, there and back."""
    if len(shape) not in (2, 3):
        return
    names = "CHW"[-len(shape) :]
    seen = {np.arange(np.prod(shape)).tobytes()}
    for axes in permutations(range(len(shape))):
        there = np.arange(np.prod(shape)).reshape(shape).transpose(axes).reshape(-1)
        for index in (there, np.argsort(there)):
            if index.tobytes() in seen:
                continue
            seen.add(index.tobytes())
            is_spatial = len(shape) == 3 and axes == (0, 2, 1)
            text = "with rows and columns swapped" if is_spatial else f"in the order {''.join(names[i] for i in axes)}"
            yield "axes-swapped" if is_spatial else "channel-order", text, index


def missing(site: Site) -> Iterator[Candidate]:
    """A projection of which nothing arrives."""
    for k in range(len(site.arrivals)):
        text = "gets nothing" + _from(site, [k])
        yield Candidate("projection-missing", text, "", partial(_silenced, k=k))


def _silenced(site: Site, k: int) -> Site:
    return site.rewired(k, spikes=np.zeros_like(site.arrivals[k].spikes))


def delays(site: Site) -> Iterator[Candidate]:
    """A population, or what arrives at it, one step off."""
    step = "each connection of Lava adds one step, lava-nc 0.10.0, lava/proc/dense/models.py l.93-107"
    yield Candidate("one-step-late", "runs one step late", step, lambda s: replace(s, late=1))
    if any(not a.from_source for a in site.arrivals):
        text = "runs one step late, as what it reads does"
        yield Candidate("one-step-late", text, step, _late_with_inputs)
    for k in range(len(site.arrivals)):
        where = _from(site, [k])
        yield Candidate("delay-off-by-one", "gets spikes one step late" + where, step, partial(_delayed, k=k))
        yield Candidate("delay-off-by-one", "gets spikes one step early" + where, step, partial(_hurried, k=k))


def _late_with_inputs(site: Site) -> Site:
    for k, arrival in enumerate(site.arrivals):
        if not arrival.from_source:
            site = site.rewired(k, spikes=_earlier(arrival))
    return replace(site, late=1)


def _delayed(site: Site, k: int) -> Site:
    spikes = np.zeros_like(site.arrivals[k].spikes)
    spikes[:, 1:] = site.arrivals[k].spikes[:, :-1]
    return site.rewired(k, spikes=spikes)


def _hurried(site: Site, k: int) -> Site:
    return replace(site.rewired(k, spikes=_earlier(site.arrivals[k])), n_unknown=1)


def _earlier(arrival: Arrival) -> NDArray[np.uint8]:
    spikes = np.zeros_like(arrival.spikes)
    spikes[:, :-1] = arrival.spikes[:, 1:]
    return spikes


WEIGHT_RULES: tuple[Rule, ...] = (odd_weights, weight_range, signs, exponents, kernels)
PLACE_RULES: tuple[Rule, ...] = (orders, missing, delays)
