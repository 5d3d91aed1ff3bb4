"""Small networks with everything that a datasheet's arithmetic can do, for our own golden recordings.

Each population wishes for a feature (a leak, a clamp, the other reset, ...); what the chip refuses is left out, so one
description serves every datasheet. Thresholds are set so that populations fire, and not always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.oracle import run_oracle
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntWeights
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError
from neuroport.snn.operators import ConvGeometry, conv_geometry
from tests.chip.networks import gate, network_of, population, source, weight_range, windows

N_SAMPLES, N_STEPS = 2, 32
RATE = 0.2  # of each hidden population, at least
KINDS = ("spikes", "currents")


class Builder:
    """A network that grows population by population, every number within the ranges of its chip."""

    def __init__(self, target: Target, first: IntPopulation, inputs: IntInputs, rng: np.random.Generator) -> None:
        self.name, self.a, self.rng, self.inputs = target.name, target.arithmetic, rng, inputs
        self.populations: list[IntPopulation] = []
        self.projections: list[IntProjection] = []
        self.populations.append(self.tuned(self.plain(first), []) if first.driven else first)

    def weights(self, shape: tuple[int, ...], reach: int, sign: str = "mixed") -> Any:
        """Mantissas of up to `reach` weight steps; mixed ones half as far below 0, or most were silent."""
        sheet = weight_range(self.a, sign)
        down = -reach // 2 if sign == "mixed" else -reach
        low, high = max(sheet.minimum // sheet.step, down), min(sheet.maximum // sheet.step, reach)
        m = self.rng.integers(low, high, shape, endpoint=True) * sheet.step
        if sign == "mixed":
            m.flat[:2] = (-sheet.step, sheet.step)
        return m.astype(np.int32)

    def dense(self, n_out: int, pre: str, reach: int, sign: str = "mixed") -> IntDense:
        """From all neurons of a population."""
        return IntDense(self.weights((n_out, self.of(pre).n_neurons), reach, sign))

    def sparse(self, n_out: int, pre: str, reach: int, sign: str = "mixed") -> IntSparse:
        """From a fourth of them."""
        held = self.rng.random((n_out, self.of(pre).n_neurons)) < 0.25
        held[0, :2] = True
        rows, columns = np.nonzero(held)
        row_start = np.searchsorted(rows, np.arange(n_out + 1)).astype(np.int32)
        return IntSparse(self.weights(rows.shape, reach, sign), columns.astype(np.int32), row_start)

    def of(self, name: str) -> IntPopulation:
        """The population of that name."""
        return next(p for p in self.populations if p.name == name)

    def network(self, last: IntPopulation, incoming: Sequence[IntProjection]) -> IntNetwork:
        """What there is with one more population, an output."""
        last = replace(last, role="readout")
        return network_of(self.a, [*self.populations, last], [*self.projections, *incoming], name=self.name)

    def fits(self, last: IntPopulation, incoming: Sequence[IntProjection]) -> bool:
        try:
            self.network(last, incoming)
        except DoesNotFitError:
            return False
        return True

    def plain(self, p: IntPopulation, incoming: Sequence[IntProjection] = ()) -> IntPopulation:
        """The population as this chip must have it: its first reset, a leak that is fixed, a bias exponent it takes."""
        p = replace(p, reset=self.a.resets[0], decay=getattr(self.a, "fixed_decay", None) or 0)
        one = np.ones(p.shape, np.int32)
        for exponent in range(self.a.bias.exponent_max + 1):
            if self.fits(replace(p, bias_exponent=exponent, bias_mantissa=one), incoming):
                return replace(p, bias_exponent=exponent)
        raise AssertionError(f"population '{p.name}' fits {self.name} with no bias")

    def tuned(self, p: IntPopulation, incoming: Sequence[IntProjection], v_init: float = 0) -> IntPopulation:
        """The population with the highest threshold (a power of 2) at which it fires often enough."""
        shift = self.a.threshold.shift
        for exponent in range(self.a.threshold.mantissa_max.bit_length() - 1, -1, -1):
            q = replace(p, threshold_mantissa=1 << exponent, v_init_int=int(v_init * (1 << exponent << shift)))
            if not self.a.v_init:
                q = replace(q, v_init_int=0)
            if self.fits(q, incoming) and self.rate(q, incoming) >= RATE:
                return q
        raise AssertionError(f"population '{p.name}' never fires on {self.name}")

    def rate(self, p: IntPopulation, incoming: Sequence[IntProjection]) -> float:
        """Spikes per neuron and step."""
        return float(run_oracle(self.network(p, incoming), self.inputs).spikes[p.name].mean())

    def add(
        self,
        name: str,
        shape: tuple[int, ...],
        synapses: dict[str, IntWeights],
        *,
        v_init: float = 0,
        exponent: int = 0,
        **wishes: Any,
    ) -> None:
        """One more population; its first projection's exponent up to `exponent`, and each wish that the chip takes."""
        incoming = [IntProjection(pre, name, synapse) for pre, synapse in synapses.items()]
        p = self.plain(population(name, shape, role="hidden"), incoming)
        stronger = [[replace(incoming[0], exponent=n), *incoming[1:]] for n in range(exponent, -1, -1)]
        incoming = next((tried for tried in stronger if self.fits(p, tried)), incoming)
        for field, value in wishes.items():
            wished = replace(p, **{field: value})
            p = wished if self.fits(wished, incoming) else p
        self.populations.append(self.tuned(p, incoming, v_init))
        self.projections += incoming

    def add_gate(self, name: str, pre: str) -> str:
        """A max-pool behind a population where the chip has gates; the population to go on from."""
        if not self.a.gated_max_pool:
            return pre
        c, h, w = self.of(pre).shape
        out = (c, -(-h // 2), -(-w // 2))
        self.projections.append(windows((c, h, w), out, pre=pre, post=name, ceil_mode=True))
        self.populations.append(gate(name, out))
        return name

    def add_potentials(self, name: str, synapses: dict[str, IntWeights]) -> None:
        """A readout that accumulates; its biases take one neuron to the lower end of its register, where they can.

        The upper end is beyond every threshold, so no neuron stays there.
        """
        incoming = [IntProjection(pre, name, synapse) for pre, synapse in synapses.items()]
        bias, limit = self.a.bias, self.a.membrane.limit
        first = self.plain(population(name, (4,)), incoming)
        for share, exponent in product(range(9), range(bias.exponent_max, -1, -1)):
            low, high = bias.mantissa_min >> share, bias.mantissa_max >> share
            values = np.array([high, low, 3, 0], np.int32)
            p = replace(first, bias_mantissa=values, bias_exponent=exponent)
            near = min(limit + (3 * low << exponent), limit)  # three steps from the end
            for threshold, v_init in product((self.a.threshold.mantissa_max, 1 << 14), (-near, 0)):
                q = replace(p, threshold_mantissa=threshold, v_init_int=v_init)
                if self.fits(q, incoming):
                    self.populations.append(replace(q, role="readout"))
                    self.projections += incoming
                    return
        raise AssertionError(f"no biases for readout '{name}' fit {self.name}")

    def done(self, *counted: str) -> IntNetwork:
        """The network; the last population is read by its potentials, these by their spikes."""
        parts = [replace(p, role="readout") if p.name in counted else p for p in self.populations]
        heads = [IntHead(parts[-1].name, "membrane"), *(IntHead(name, "count") for name in counted)]
        return network_of(self.a, parts, self.projections, heads=heads, name=self.name)


def make(target: Target, kind: str) -> tuple[IntNetwork, IntInputs]:
    """The network and inputs for a datasheet; kind: what the samples are, 'spikes' or 'currents'."""
    rng = np.random.default_rng(9)
    return (_of_spikes if kind == "spikes" else _of_currents)(target, rng)


def _of_spikes(target: Target, rng: np.random.Generator) -> tuple[IntNetwork, IntInputs]:
    """Convolutions, a gate, a skip over two levels, leaks, a clamp, an initial potential, both resets."""
    shape = (2, 6, 5)
    inputs = IntInputs(N_SAMPLES, N_STEPS, (rng.random((N_SAMPLES, N_STEPS, *shape)) < 0.3).astype(np.uint8), {})
    b = Builder(target, source(shape), inputs, rng)
    last = target.arithmetic.resets[-1]
    # small whole weights and nothing else: potentials meet the threshold exactly
    conv = IntConv2d(b.weights((4, 2, 3, 3), 3), conv_geometry(shape, (4, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1))
    b.add("conv", (4, 6, 5), {"input": conv})
    pre = b.add_gate("pool", "conv")
    here = b.of(pre).shape
    geometry = conv_geometry(here, (4, 2, 2, 2), (1, 2), (1, 0), (1, 1), 2)
    strided = IntConv2d(b.weights((4, 2, 2, 2), 40), geometry)
    bias = rng.integers(-9, 60, geometry.out_shape).astype(np.int32)
    b.add(
        "leaky",
        geometry.out_shape,
        {pre: strided},
        v_init=0.5,
        exponent=1,
        decay=1 << target.arithmetic.decay_bits >> 3,
        clamp_until=3,
        bias_mantissa=bias,
        bias_exponent=4,
        reset="zero",
    )
    both = {"leaky": b.dense(12, "leaky", 40, "excitatory"), "conv": b.sparse(12, "conv", 9, "inhibitory")}
    slow = 1 << target.arithmetic.decay_bits >> 1
    b.add("skip", (12,), both, exponent=2, current_decay=slow, reset=last)
    b.add_potentials("out", {"skip": b.dense(4, "skip", 127), "input": b.sparse(4, "input", 30, "excitatory")})
    return b.done("skip"), inputs


def _of_currents(target: Target, rng: np.random.Generator) -> tuple[IntNetwork, IntInputs]:
    """Neurons that the samples drive, a transposed convolution, sparse and dense layers with biases, both resets."""
    shape, bias = (2, 3, 3), target.arithmetic.bias
    low, high = max(bias.mantissa_min, -900), min(bias.mantissa_max, 2000)
    currents = rng.integers(low, high, (N_SAMPLES, *shape), endpoint=True).astype(np.int32)
    inputs = IntInputs(N_SAMPLES, N_STEPS, None, {"pixels": currents})
    first = population("pixels", shape, role="hidden", driven=True)
    b = Builder(target, first, inputs, rng)
    up = IntConvTranspose2d(b.weights((2, 3, 2, 2), 50), ConvGeometry(shape, (3, 6, 6), (2, 2), (2, 2)))
    resets = target.arithmetic.resets
    b.add("up", (3, 6, 6), {"pixels": up}, v_init=0.75, reset=resets[-1], clamp_until=4)
    b.add(
        "sparse",
        (15,),
        {"up": b.sparse(15, "up", 120)},
        exponent=1,
        reset=resets[0],
        bias_mantissa=rng.integers(-200, 300, 15).astype(np.int32),
        decay=1 << target.arithmetic.decay_bits >> 5,
    )
    # strong weights only, into a current that hardly decays: it leaves its register
    sheet, n_in = weight_range(b.a, "excitatory"), b.of("pixels").n_neurons
    top = min(sheet.maximum, target.arithmetic.synaptic_limit // (2 * n_in)) // sheet.step
    strong = sheet.step * rng.integers(top - 20, top, (6, n_in), endpoint=True)
    b.add("strong", (6,), {"pixels": IntDense(strong.astype(np.int32))}, exponent=7, current_decay=16, reset=resets[0])
    b.add_potentials("out", {"sparse": b.dense(4, "sparse", 127), "strong": b.dense(4, "strong", 127)})
    return b.done("sparse"), inputs
