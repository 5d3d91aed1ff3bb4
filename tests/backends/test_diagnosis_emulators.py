"""Real differences: emulators of Loihi given what they change in silence, and the diagnosis that names it."""

from __future__ import annotations

import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntProjection
from neuroport.chip.oracle import run_oracle
from neuroport.chip.synapses import IntConv2d
from neuroport.snn.operators import conv_geometry
from neuroport.validation.diagnosis import diagnose
from tests.backends.lava_networks import TARGET
from tests.chip.networks import dense, network_of, population, source, target, variant

pytestmark = pytest.mark.lava

_WEIGHTS = target("loihi-sim").arithmetic.weights.model_dump()
ODD = variant("loihi-sim", weights={**_WEIGHTS, "mixed": {"minimum": -256, "maximum": 255, "step": 1}})


@pytest.fixture(scope="module")
def odd_network():
    """Two dense layers behind the input, odd weights of both signs in the second; a datasheet that allows them."""
    rng = np.random.default_rng(2)
    hidden = {"role": "hidden", "threshold_mantissa": 150}
    network = network_of(
        ODD,
        [source((12,)), population("a", (14,), **hidden), population("b", (9,), **hidden), population("out", (4,))],
        [
            dense(2 * rng.integers(-20, 40, (14, 12)), post="a"),
            dense(rng.integers(-70, 90, (9, 14)), "a", "b"),
            dense(2 * rng.integers(-30, 40, (4, 9)), "b", "out"),
        ],
        name="loihi-sim",
    )
    return network, IntInputs(3, 60, (rng.random((3, 60, 12)) < 0.4).astype(np.uint8), {})


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("lava_models", "odd-weights-floored", "it floors odd weights of mixed signs to even ones (Lava does"),
        ("brian2", "odd-weights-truncated", "it cuts odd weights of mixed signs toward zero (brian2-loihi 0.5.2 does"),
        ("nengo", "odd-weights-rounded", "it rounds odd weights of mixed signs to even multiples of 2 (nengo-loihi"),
    ],
)
def test_odd_weights_of_mixed_signs(request, odd_network, name, rule, words):
    """Each of the three does another thing to them; each is named, at the second layer alone."""
    network, inputs = odd_network
    trace = request.getfixturevalue(name).run(network, inputs)
    found = diagnose(network, inputs, run_oracle(network, inputs), trace)
    assert found is not None
    assert [origin.population for origin in found.origins] == ["b"]
    assert [e.rule for e in found.origins[0].exact] == [rule], found.verdict
    assert found.verdict.startswith(f"population 'b' differs by itself: {words}")
    assert found.inherited == ("out",)


def test_weights_beyond_eight_bits_on_lava(lava, tmp_path, odd_network):
    """Through Lava's runtime, past the backend's check: odd ones are held doubled there, so Lava clips at 7 bits."""
    network, inputs = odd_network
    j = network.projections[1]
    wide = j.synapse.mantissa.copy()
    wide[::2] = np.where(np.abs(wide[::2]) > 40, 2 * wide[::2] + 1, wide[::2])
    network = network_of(
        ODD, network.populations, [network.projections[0], dense(wide, "a", "b"), network.projections[2]],
        name="loihi-sim",
    )  # fmt: skip
    assert wide.max() > 127 and wide.min() < -128
    trace = LavaBackend().run(Job(TARGET, network, inputs, tmp_path))
    found = diagnose(network, inputs, run_oracle(network, inputs), trace)
    assert found is not None
    assert [origin.population for origin in found.origins] == ["b"]
    assert "it clips weights to -128 to 127" in found.verdict


def test_a_threshold_that_lava_reaches_and_another_chip_fires_at(lava, tmp_path):
    """A datasheet that says >= where Lava computes >, with sums that hit the threshold exactly."""
    rng = np.random.default_rng(4)
    at = variant("loihi-sim", threshold={"mantissa_max": 131071, "shift": 6, "compare": ">="})
    weights = 10 * rng.integers(-2, 6, (3, 2, 3, 3))
    bias = rng.choice([0, 17], (3, 5, 5)).astype(np.int32)  # else a threshold one higher would explain it as well
    geometry = conv_geometry((2, 5, 5), weights.shape, (1, 1), (1, 1), (1, 1), 1)
    network = network_of(
        at,
        [source((2, 5, 5)), population("out", (3, 5, 5), threshold_mantissa=100, bias_mantissa=bias)],
        [IntProjection("input", "out", IntConv2d(weights.astype(np.int32), geometry))],
        name="loihi-sim",
    )
    inputs = IntInputs(2, 30, (rng.random((2, 30, 2, 5, 5)) < 0.3).astype(np.uint8), {})
    trace = LavaBackend().run(Job(TARGET, network, inputs, tmp_path))
    found = diagnose(network, inputs, run_oracle(network, inputs), trace)
    assert found is not None
    assert [e.rule for e in found.origins[0].exact] == ["threshold-compare"], found.verdict
    assert "it fires where v > threshold, not >= (Loihi and Lava fire above the threshold" in found.verdict
