"""Where brian2-loihi, nengo-loihi's emulator and Lava's models differ: both sides run, and whom we follow.

We follow Lava wherever it computes something else in silence, for it is the vendor's; and what a chip would do to a
number without a word (floor, clip, wrap) is refused by the integer network before anything runs.
"""

import numpy as np
import pytest

from neuroport.chip.oracle import limit
from neuroport.errors import DoesNotFitError
from tests.chip.networks import dense, network_of, population, source, target
from tests.oracles.harness import LAGS, OracleError
from tests.oracles.networks import layer

LOIHI_1, SIMULATED = target("loihi1").arithmetic, target("loihi-sim").arithmetic
pytestmark = pytest.mark.lava  # Lava is one of the sides everywhere


def potentials(oracle, *case):
    """[n_steps, n] of the layer behind the input, from the step at which its first spike arrives."""
    start = LAGS[oracle.name](1)
    return oracle.run_case(*case)["v.1"][0, start : start + case[0]["n_steps"]]


def weights_of(oracle, mantissas, exponent=0):
    """What each weight adds to a potential, in units of 64."""
    v = potentials(oracle, *layer(np.array(mantissas)[:, None], [[1]], exponent=exponent))
    assert not (v % 64).any()
    return (v[0] // 64).tolist()


def refused(arithmetic, weights, match, exponent=0):
    weights = np.asarray(weights, np.int32)
    with pytest.raises(DoesNotFitError, match=match):
        network_of(
            arithmetic,
            [source((weights.shape[1],)), population("out", (len(weights),))],
            [dense(weights, exponent=exponent)],
        )


def test_odd_mixed_weights(nengo, brian2, lava_models):
    """Lava floors, brian2-loihi cuts toward zero, nengo-loihi rounds halves to even. Ours: even ones or none at all."""
    odd, even = [3, -3, 5, -5, 1, -1, 253], [2, -4, 4, -6, 0, -254, 254]
    assert weights_of(lava_models, odd) == [2, -4, 4, -6, 0, -2, 252]
    assert weights_of(brian2, odd) == [2, -2, 4, -4, 0, 0, 252]
    assert weights_of(nengo, odd) == [4, -4, 4, -4, 0, 0, 252]
    for oracle in (nengo, brian2, lava_models):
        assert weights_of(oracle, even) == even
    refused(LOIHI_1, np.array(odd)[:, None], "multiples of 2")


def test_the_smallest_weights(nengo, brian2, lava_models):
    """Mixed -256: nengo-loihi's discretizer alone clips it (discretize.py l.476). Inhibitory -256: brian2-loihi alone
    takes it (loihi_synapses.py l.105). Ours: -256 mixed and -255 inhibitory, as Lava has them.
    """
    assert weights_of(lava_models, [-256, 254]) == [-256, 254] == weights_of(brian2, [-256, 254])
    assert weights_of(nengo, [-256, 254]) == [-254, 254]
    assert weights_of(brian2, [-256, -2]) == [-256, -2]
    assert weights_of(lava_models, [-256, -2]) == [-255, -2] == weights_of(nengo, [-256, -2])
    mixed, inhibitory = LOIHI_1.weights.mixed, LOIHI_1.weights.inhibitory
    assert (mixed.minimum, inhibitory.minimum) == (-256, -255)
    refused(LOIHI_1, [[-256], [-2]], "-255 to 0")


def test_negative_weight_exponents(nengo, brian2, lava_models):
    """Two spikes of weight 3 at exponent -1: Lava shifts the sum, brian2-loihi each weight (down), nengo-loihi each
    (to the nearest). Ours: exponents from 0, where all agree.
    """
    case = layer([[3, 3]], [[1, 1]], exponent=-1)
    assert [int(potentials(o, *case)[0, 0]) // 64 for o in (lava_models, brian2, nengo)] == [3, 2, 4]
    assert "Lost 1 extra bits in weight rounding" in nengo.warnings
    for exponent in (0, 1, 7):
        case = layer([[3, 3]], [[1, 1]], exponent=exponent)
        assert {int(potentials(o, *case)[0, 0]) // 64 for o in (lava_models, brian2, nengo)} == {6 << exponent}
    refused(LOIHI_1, [[3, 3]], "weight exponent -1", exponent=-1)


def test_the_synaptic_accumulator(nengo, brian2, lava_models):
    """A sum of 50,800: nengo-loihi wraps it at 21 bits and sign (discretize.py l.19), or raises where it is strict;
    Lava and brian2-loihi hold it. Ours: refused on loihi1, whose accumulator is nengo-loihi's; held on loihi-sim.
    """
    weights, spikes = np.full((1, 200), 254), np.ones((1, 200))
    assert (
        potentials(lava_models, *layer(weights, spikes))[0]
        == 50_800 << 6
        == potentials(brian2, *layer(weights, spikes))
    )
    assert potentials(nengo, *layer(weights, spikes))[0] == (50_800 << 6) - (1 << 22)
    assert "Overflow in q0" in nengo.warnings
    with pytest.raises(OracleError, match="SimulationError: Overflow in q0"):
        nengo.run_case(*layer(weights, spikes, options={"strict": True}))
    refused(LOIHI_1, weights, "accumulator holds 32767")
    network_of(SIMULATED, [source((200,)), population("out")], [dense(weights)])
    fits = np.full((1, 129), 254)  # 32,766: all agree up to here
    for oracle in (nengo, brian2, lava_models):
        assert potentials(oracle, *layer(fits, np.ones((1, 129))))[0] == 32_766 << 6


def test_overflow_of_the_current(brian2, lava_models):
    """A sum of -152,400 leaves 24 bits: Lava wraps, brian2-loihi has no end. Ours: refused; the formula is Lava's."""
    weights, spikes, u = np.full((1, 600), -254), np.ones((1, 600)), -152_400 << 6
    assert potentials(brian2, *layer(weights, spikes))[0] == u
    assert potentials(lava_models, *layer(weights, spikes))[0] == u + (1 << 24) > 0
    assert limit(np.array([u]), SIMULATED.current) == u + (1 << 24)
    refused(SIMULATED, weights, "accumulator holds 131071")


def test_the_ends_of_the_potential(nengo, brian2, lava_models):
    """-16,320 a step: Lava and nengo-loihi end at -(2^23 - 1), brian2-loihi nowhere. Ours: as Lava.

    A compartment of nengo-loihi as it is made ends at 0 below (block.py l.179), which is a setting, not a limit.
    """
    case = layer([[-255]], np.ones((12, 1)), exponent=6)
    step, end = 255 << 12, (1 << 23) - 1
    assert potentials(brian2, *case)[:, 0].tolist() == [-step * k for k in range(1, 13)]
    expected = [max(-step * k, -end) for k in range(1, 13)]
    assert expected[-1] == -end == -LOIHI_1.membrane.limit
    assert potentials(lava_models, *case)[:, 0].tolist() == expected == potentials(nengo, *case)[:, 0].tolist()
    floored = layer([[-255]], np.ones((12, 1)), exponent=6, v_min=0)
    assert not potentials(nengo, *floored).any()
