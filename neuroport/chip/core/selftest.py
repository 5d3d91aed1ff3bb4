"""The core's kernels against the oracle at start-up: extreme weights, every kind of stamp, the number types in use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntPopulation, IntProjection
from neuroport.chip.oracle import run_oracle
from neuroport.chip.synapses import IntConv2d, IntDense, IntSynapse
from neuroport.chip.target import Arithmetic
from neuroport.chip.trace import Trace
from neuroport.errors import SelfTestError
from neuroport.snn.network import Reset, Role
from neuroport.snn.operators import Shape, conv_geometry

Types = tuple[str, str, bool]
_FAR = {"bits": 40, "overflow": "saturate"}
_ARITHMETIC = Arithmetic.model_validate(
    {
        "weights": {
            "mixed": {"minimum": -(2**31), "maximum": 2**31 - 1, "step": 1},
            "excitatory": {"minimum": 0, "maximum": 2**31 - 1, "step": 1},
            "inhibitory": {"minimum": -(2**31), "maximum": 0, "step": 1},
            "exponent_max": 0,
        },
        "accumulator_bits": 40,
        "synaptic_shift": 0,
        "current": _FAR,
        "membrane": _FAR,
        "threshold": {"mantissa_max": 2**31, "shift": 0, "compare": ">="},
        "bias": {"mantissa_min": -4096, "mantissa_max": 4095, "exponent_max": 0},
        "decay_bits": 12,
        "resets": ["zero", "subtract"],
        "v_init": True,
    }
)
# By types of weights and sums: the largest weight, odd, and how many of that size reach a neuron by dense synapses and
# by others. The first number chooses the type of the sums in every layer.
_EXTREMES = {
    ("int8", "int16"): (127, 150, 100),
    ("int8", "int32"): (127, 300, 100),
    ("int16", "int16"): (2999, 6, 2),
    ("int32", "int32"): ((1 << 20) - 1, 60, 40),
    ("int64", "int64"): ((1 << 31) - 1, 60, 40),
}
_N_STEPS = 6


@cache
def trial(types: Types) -> tuple[IntNetwork, IntInputs]:
    """A network whose layers use kernels of these types (weights, sums, potentials in 32 bits), and inputs for it.

    Dense, scattered by vectors of every width, merged, pooled and depthwise, with strides and padding.
    """
    weight, total, is_narrow = types
    largest, n_dense, n_other = _EXTREMES[weight, total]
    rng = np.random.default_rng(0)

    def extreme(*shape: int) -> NDArray[np.int32]:
        m = rng.choice([-largest, largest], (shape[0], int(np.prod(shape[1:]))))
        m[rng.random(m.shape).argsort(1) >= (n_dense if len(shape) == 2 else n_other)] = 0
        m[0] = np.abs(m[0])
        return m.reshape(shape).astype(np.int32)

    def conv(before: IntPopulation, n_out: int, kernel: int, stride: int, padding: int, groups: int = 1) -> IntConv2d:
        shape = (n_out, before.shape[0] // groups, kernel, kernel)
        pairs = ((stride, stride), (padding, padding), (1, 1))
        return IntConv2d(extreme(*shape), conv_geometry(before.shape, shape, *pairs, groups))

    def neurons(name: str, shape: Shape, role: Role = "hidden", reset: Reset = "subtract") -> IntPopulation:
        bias = rng.integers(-100, 100, shape).astype(np.int32)
        threshold, decay = min(3 * largest, 2**31), 0 if is_narrow else 77
        return IntPopulation(name, shape, role, threshold, bias, 0, largest // 2, reset, decay, 0, False, 1)

    made = [IntPopulation("input", (600,), "input", 1, np.zeros(600, np.int32), 0, 0, "zero", 0, 0, False, 1)]
    projections: list[IntProjection] = []

    def add(population: IntPopulation, *incoming: tuple[IntPopulation, IntSynapse]) -> None:
        # a dense projection besides: all layers reach the same number of inputs, and so the same types
        whole = IntDense(extreme(population.n_neurons, 600))
        sources: Sequence[tuple[IntPopulation, IntSynapse]] = ((made[0], whole), *incoming)
        projections.extend(IntProjection(pre.name, population.name, synapse) for pre, synapse in sources)
        made.append(population)

    add(neurons("image", (8, 9, 7), reset="zero"))
    image = made[-1]
    add(neurons("pool", (8, 4, 3)), (image, conv(image, 8, 2, 2, 0, 8)), (image, conv(image, 8, 3, 2, 0, 8)))
    add(neurons("wide", (64, 4, 3)), (made[-1], conv(made[-1], 64, 3, 1, 1)))
    add(neurons("half", (32, 2, 2)), (made[-1], conv(made[-1], 32, 3, 2, 1)))
    add(neurons("quarter", (16, 2, 2)), (made[-1], conv(made[-1], 16, 3, 1, 1)))
    add(neurons("eighth", (8, 2, 2)), (made[-1], conv(made[-1], 8, 3, 1, 1)))
    add(neurons("out", (70,), "readout"))
    network = IntNetwork("self-test", _ARITHMETIC, tuple(made), tuple(projections), (IntHead("out", "membrane"),))
    spikes = (rng.random((2, _N_STEPS, 600)) < 0.5).astype(np.uint8)
    spikes[0, 0] = 1
    return network, IntInputs(2, _N_STEPS, spikes, {})


@cache
def check_kernels(types: Types, run: Callable[[IntNetwork, IntInputs], Trace]) -> None:
    """Compare a trial on the core, `run`, with the oracle, once per process and types.

    Raises:
        SelfTestError: a spike or a potential differs.
    """
    network, inputs = trial(types)
    expected, found = run_oracle(network, inputs), run(network, inputs)
    for p in network.populations:
        same = np.array_equal(found.spikes[p.name], expected.spikes[p.name])
        if p.role != "input":
            same = same and np.array_equal(found.potentials[p.name], expected.potentials[p.name])
        if not same:
            raise SelfTestError(
                f"the core's compiled code differs from its reference in population '{p.name}' of the self-test "
                f"(weights {types[0]}, sums {types[1]}, potentials in {32 if types[2] else 64} bits); delete the "
                f"folders 'compiled-*' in neuroport's cache directory and run again; if it stays, report it with the "
                f"processor's name and numba's version"
            )
