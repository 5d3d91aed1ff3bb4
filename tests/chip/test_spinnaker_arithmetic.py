"""SpiNNaker 1: its two neurons against the vendor's C, transcribed, and what their arithmetic refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroport.chip.inputs import IntInputs, encode_inputs
from neuroport.chip.oracle import run_oracle
from neuroport.chip.quantize import quantize
from neuroport.chip.sources import entry_of
from neuroport.chip.suit import suited
from neuroport.chip.synapses import sum_bound
from neuroport.chip.target import Arithmetic, Target, load_target
from neuroport.datasheets import read_text
from neuroport.errors import DatasheetError, DoesNotFitError, UsageError
from neuroport.normalize.recipe import load_recipe
from neuroport.snn.network import Neuron
from tests.chip.float_networks import one_layer
from tests.chip.networks import cases, currents_of, dense, network_of, networks, population, source, spikes_of, target
from tests.chip.test_core import assert_core_is_oracle

TRUNC, LEAKY = target("spinnaker1").arithmetic, target("spinnaker1/if-curr-delta").arithmetic
ONE = 1 << 15  # 1.0 as an s16.15
TAU_M = 512

# spinn_common, src/stdfix-exp.c l.50-67
EXP_HI_0, EXPM1_MID = 4294967296, (0, 260218914, 504671961, 734314346)
EXP_SERIES = (5294, 4293434720, 2081624032)


def int32(x):
    """The 32 bits of x as a signed integer."""
    return (x + 2**31) % 2**32 - 2**31


def kmul(x, y):
    """accum * accum as the programs compute it: the product of 64 bits, shifted down by 15, of which 32 bits stay."""
    return int32((x * y) >> 15)


def expk(n):
    """expk of n between -2^13 and -1 in units of 2^-15: stdfix-exp.c l.105-145, with z = 0."""
    f = -n
    high = EXP_HI_0 - EXPM1_MID[f >> 11]  # scale64(2^32, y) is y
    y = (f & 0x7FF) << 17
    tmp = EXP_SERIES[1] - (EXP_SERIES[2] * y >> 32)
    series = (tmp * y >> 32) + EXP_SERIES[0]
    low, top = high & 0xFFFFFFFF, high >> 32
    product = low * series
    scaled = (product >> 32) + ((product & 0xFFFFFFFF) >= 2**31 - 1) + top * series
    return (high - scaled) >> 17


def lif(v, exc, inh, shift):
    """neuron_model_lif_impl.h l.111-118 and 140-165 with R = 1.0 and V_rest = 0; sums as they lie in ring buffers."""
    given = int32(int32(min(exc, 65535) << shift) - int32(min(inh, 65535) << shift))
    alpha = kmul(given, ONE)
    return int32(alpha - kmul(expk(-ONE // TAU_M), int32(alpha - v)))


def if_trunc(v, exc, inh, shift):
    """neuron_model_if_trunc.h, neuron_model_state_update, with R = 1.0 and V_reset = 0."""
    given = int32(int32(min(exc, 65535) << shift) - int32(min(inh, 65535) << shift))
    return max(int32(kmul(given, ONE) + v), 0)


def test_the_leak_is_what_expk_gives():
    assert expk(-ONE // TAU_M) == ONE - LEAKY.fixed_decay
    assert LEAKY.fixed_leak == 1 - 1 / TAU_M
    assert LEAKY.input_shift == 9


@given(data=st.data())
@cases(200)
@pytest.mark.parametrize(("a", "step"), [(TRUNC, if_trunc), (LEAKY, lif)], ids=["if-trunc-delta", "if-curr-delta"])
def test_the_oracle_is_the_vendors_program(a, step, data):
    """Sums, starts and thresholds anywhere, ends included: every spike and every bit of V."""
    weights = st.one_of(st.sampled_from([0, 1, 65534, 65535]), st.integers(0, 65535))
    exc, inh = data.draw(weights), data.draw(weights)
    raster = np.array(data.draw(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)))
    top = a.threshold.mantissa_max
    mantissa = data.draw(st.one_of(st.just(top), st.integers(1, top), st.integers(1, 65535)))
    threshold = mantissa << a.threshold.shift
    v = data.draw(st.one_of(st.sampled_from([0, threshold - 1]), st.integers(0, threshold - 1)))
    neuron = population(threshold_mantissa=mantissa, v_init_int=v, decay=a.fixed_decay)
    network = network_of(a, [source((2,)), neuron], [dense([[exc, -inh or -0]])] if exc or inh else [])
    trace = run_oracle(network, spikes_of(raster))
    for t, (up, down) in enumerate(raster.tolist()):
        v = step(v, up * exc, down * inh, a.synaptic_shift)
        fired = v >= threshold
        v = 0 if fired else v
        assert (trace.spikes["out"][0, t, 0], trace.potentials["out"][0, t, 0]) == (fired, v)


@given(networks([TRUNC, LEAKY]))
@cases(150)
def test_core_equals_oracle(case):
    assert_core_is_oracle(*case)


@given(
    networks([LEAKY]),
    st.sampled_from([1, 2, 2**7, 2**15]),
    st.sampled_from([None, 0, -300]),
    st.sampled_from([">", ">="]),
    st.sampled_from([16, 32, 40]),
)
@cases(150)
def test_core_equals_oracle_for_any_leak_in_closed_form(case, decay, floor, compare, bits):
    network, inputs = case
    a = network.arithmetic
    changed = Arithmetic.model_validate(
        a.model_dump()
        | {
            "fixed_decay": decay,
            "membrane_floor": floor,
            "synaptic_shift": 15,
            "bias": a.bias.model_dump() | {"exponent_min": 15, "exponent_max": 15},
            "threshold": {"mantissa_max": 2**40, "shift": 0, "compare": compare},
        }
    )
    changed = changed.model_copy(update={"membrane": a.membrane.model_copy(update={"bits": bits})})
    end = changed.membrane.limit
    made = object.__new__(type(network))
    populations = tuple(
        replace(p, decay=decay, bias_exponent=15, v_init_int=max(-end, min(p.v_init_int, end)))
        for p in network.populations
    )
    for name in ("target", "projections", "heads"):
        object.__setattr__(made, name, getattr(network, name))
    object.__setattr__(made, "populations", populations)
    object.__setattr__(made, "arithmetic", changed)
    assert_core_is_oracle(made, inputs)


def test_no_input_takes_the_leaky_neuron_out_of_its_register():
    neuron = population(threshold_mantissa=LEAKY.threshold.mantissa_max, decay=64, v_init_int=-(65535 << 14))
    network = network_of(LEAKY, [source((2,)), neuron], [dense([[65535, -65535]])], readout="membrane")
    raster = np.zeros((9000, 2))
    raster[:4500, 1] = raster[4500:, 0] = 1
    v = run_oracle(network, spikes_of(raster)).potentials["out"][0, :, 0]
    assert np.abs(v).max() <= 65535 << 14
    assert v.min() < -0.99 * 2**30
    assert v.max() > 0.99 * 2**30


def test_a_readout_that_never_fires_has_no_floor():
    weights = [dense([[-3]], post="a"), dense([[-5]], pre="input", post="out")]
    neurons = [population("a", threshold_mantissa=9, role="hidden"), population("out", threshold_mantissa=9)]
    network = network_of(TRUNC, [source(), *neurons], weights, readout="membrane")
    trace = run_oracle(network, spikes_of([[1], [1]]))
    assert trace.potentials["a"].ravel().tolist() == [0, 0]
    assert trace.potentials["out"].ravel().tolist() == [-5 << 8, -10 << 8]
    counted = network_of(TRUNC, [source(), *neurons], weights, readout="count")
    assert run_oracle(counted, spikes_of([[1], [1]])).potentials["out"].ravel().tolist() == [0, 0]
    for made in (network, counted):
        assert_core_is_oracle(made, spikes_of([[1], [1]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias_mantissa": np.array([6], np.int32)}, "bias mantissas 0 to 6 with exponent 0, testchip allows"),
        (
            {"driven": True},
            "bias mantissas 0 to 0 with exponent 0, testchip allows -65535 to 65535 with exponent 8 to 8",
        ),
        ({"bias_mantissa": np.array([-6], np.int32), "bias_exponent": 8}, "one step can add weights up to 65536"),
        ({"clamp_until": 2}, "waits for step 2 (clamp), testchip's neurons take what arrives from the first step on"),
        ({"decay": 3}, "voltage decay 3, testchip's neuron always has 0 of 32768; use a recipe without a leak"),
        ({"reset": "subtract"}, "needs reset 'subtract', testchip's neuron offers reset zero; choose another recipe"),
        ({"threshold_mantissa": 8323073}, "threshold mantissa 8323073, testchip allows 1 to 8323072"),
    ],
)
def test_what_the_neuron_cannot_do_is_refused(changes, message):
    with pytest.raises(DoesNotFitError) as caught:
        network_of(TRUNC, [source(), population(**changes)], [dense([[65530]])])
    assert f"layer 'out'{'' if message.startswith(('needs', 'waits')) else ':'} {message}" in str(caught.value)


def test_sums_and_biases_share_the_ring_buffers():
    """Three weights and a bias: together they fill what 16 bits hold, and no scale asks for more."""
    network = one_layer([[0.5, 0.25, -0.125]], [0.25], neuron=Neuron("zero"))
    made = quantize(network, target("spinnaker1"), 16, images=np.ones((2, 3), np.float32)).network
    (j,), p = made.projections, made.output
    assert sum_bound(j.synapse) + abs(int(p.bias_mantissa[0])) <= 65535
    assert j.synapse.mantissa.tolist() == [[2 * p.bias_mantissa[0], p.bias_mantissa[0], -p.bias_mantissa[0] // 2]]
    assert (p.bias_exponent, p.threshold_mantissa << 8) == (8, p.unit)


def test_a_current_beyond_what_the_ring_buffer_holds_is_refused():
    network = one_layer([[0.5]], encoding="current", neuron=Neuron("zero"))
    made = quantize(network, target("spinnaker1"), 16, images=np.ones((2, 1), np.float32)).network
    ends = encode_inputs(network, made, np.array([[1.0], [-1.0]], np.float32), 16).currents["out"]
    assert ends[0] == -ends[1] == made.output.unit >> 9
    with pytest.raises(DoesNotFitError, match=r"sample 1 needs an input current of mantissa \d+, spinnaker1 allows"):
        encode_inputs(network, made, np.array([[1.0], [1e4]], np.float32), 16)


def test_currents_leave_room_for_the_weights_beside_them():
    neuron = population(driven=True, bias_exponent=8, threshold_mantissa=9)
    made = network_of(TRUNC, [population("a", role="hidden"), neuron], [dense([[65000]], pre="a")])
    float_network = one_layer([[1.0]], encoding="current")
    made = replace(made, populations=(made.populations[0], replace(neuron, unit=256)))
    held = encode_inputs(float_network, made, np.array([[535.0]], np.float32), 4)
    assert held.currents["out"].tolist() == [[535]]
    with pytest.raises(DoesNotFitError, match=r"mantissa 536, testchip allows -535 to 535"):
        encode_inputs(float_network, made, np.array([[536.0]], np.float32), 4)


def test_currents_move_the_leaky_neuron_by_their_part():
    neuron = population(driven=True, bias_exponent=14, decay=64, threshold_mantissa=32 * 1000)
    network = network_of(LEAKY, [neuron], readout="count")
    trace = run_oracle(network, currents_of([[1000], [-1000]], 3))
    assert trace.spikes["out"][:, :, 0].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert trace.potentials["out"][1, :2, 0].tolist() == [-32000, -63937]  # -32000 + ceil((-16384000 + 32000) / 512)
    assert_core_is_oracle(network, currents_of([[1000], [-1000], [999]], 40))


def test_recipes_take_over_what_the_neuron_decides():
    recipe = load_recipe("hard-reset-unclamped")
    for name, leak, floor in (("spinnaker1", 1.0, 0.0), ("spinnaker1/if-curr-delta", 1 - 1 / 512, None)):
        found = suited(recipe, target(name))
        assert (found.leak, found.floor, found.leaky_readout) == (leak, floor, True)
    assert suited(recipe, target("loihi1")) == recipe


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            "robust",
            {},
            "recipe 'robust' needs reset 'subtract', spinnaker1's neuron if-trunc-delta offers reset zero",
        ),
        ("hard-reset", {}, "recipe 'hard-reset' makes layers wait (clamp 1), spinnaker1's neuron if-trunc-delta takes"),
        ("reset-zero", {"leak": 0.5}, "a leak of 0.5 per step, spinnaker1's neuron if-trunc-delta always has 1; leave"),
    ],
)
def test_recipes_for_other_neurons_are_refused(recipe, changes, message):
    with pytest.raises(DoesNotFitError) as caught:
        suited(load_recipe(recipe).model_copy(update=changes), target("spinnaker1"))
    assert message in str(caught.value)


def test_the_datasheet_has_two_names_and_two_neurons():
    sheet = load_target("spinnaker")
    assert sheet == load_target("spinnaker1")
    assert list(sheet.neurons) == ["if-trunc-delta", "if-curr-delta"]
    assert sheet.arithmetic == sheet.neurons["if-trunc-delta"]
    for name in sheet.neurons:
        alone = sheet.with_neuron(name)
        assert (alone.arithmetic.neuron, alone.neurons, alone.unsourced) == (name, {}, [])
    assert "aplx" in sheet.with_neuron("if-curr-delta").sources["arithmetic.leak"].source


def test_neurons_with_sources_in_groups_and_names_in_each_other(tmp_path):
    """`if` and `if-2`, the second with one source for all that is its own."""
    text = read_text("targets", "spinnaker1").replace("if-trunc-delta", "if").replace("if-curr-delta", "if-2")
    kept = [line for line in text.splitlines(keepends=True) if not line.startswith("  neurons.if-2.")]
    group = '  neurons.if-2: {status: second-hand, source: "a talk"}\n'
    at = next(k for k, line in enumerate(kept) if line.startswith("  geometry: {status"))
    path = tmp_path / "mine.yaml"
    path.write_text("".join([*kept[:at], group, *kept[at:]]))
    sheet = load_target(path)
    for name, first in (("if", "APLX/IF_trunc_delta.aplx at 0x24b8"), ("if-2", "a talk")):
        alone = sheet.with_neuron(name)
        assert alone.unsourced == []
        assert Target.model_validate(alone.model_dump()) == alone  # what a bundle holds can be read again
        entry = alone.sources[entry_of("arithmetic.threshold.shift", alone.sources)]
        assert entry.source.startswith(first)


def test_unknown_neurons_are_refused():
    with pytest.raises(UsageError, match=r"no neuron 'lif'; known: if-trunc-delta, if-curr-delta; leave --neuron out"):
        load_target("spinnaker1").with_neuron("lif")
    with pytest.raises(UsageError, match=r"cpu has no neuron 'lif'; it has one kind of neuron"):
        load_target("cpu").with_neuron("lif")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  if-trunc-delta: {}\n", "", "'if-trunc-delta' of `arithmetic` is not among them, unchanged"),
        ("  if-trunc-delta: {}", "  if-trunc-delta: {v_init: false}", "is not among them, unchanged"),
        ("  if-trunc-delta: {}", "  if-trunc-delta: 3", "`neurons` holds, by name, keys that replace"),
        (
            "    leak: closed-form",
            "    neuron: lif\n    leak: closed-form",
            "'if-curr-delta' calls itself 'lif'",
        ),
        ("    fixed_decay: 64", "    fixed_decay: 65", "closed-form needs a power of two as fixed_decay, got 65"),
        ("    fixed_decay: 64", "    fixed_decay: 40000", "fixed_decay 40000 is more than 32768"),
        ("    synaptic_shift: 14", "    synaptic_shift: 8", "synaptic_shift 8 is below 9"),
        ("    fixed_decay: 64", "    fixed_dekay: 64", "unknown key 'neurons.if-curr-delta.fixed_dekay'"),
    ],
)
def test_wrong_neurons_are_refused(tmp_path, old, new, message):
    text = read_text("targets", "spinnaker1")
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text[: text.index("references:")].replace(old, new) + text[text.index("toolchain:") :])
    with pytest.raises(DatasheetError) as caught:
        load_target(path)
    assert message in str(caught.value)


def test_inputs_without_synapses_run():
    """A first layer alone, driven to its ends."""
    ends = np.array([[65535], [-65535], [0]], np.int32)
    neuron = population(driven=True, bias_exponent=8, threshold_mantissa=65535)
    network = network_of(TRUNC, [neuron])
    trace = assert_core_is_oracle(network, IntInputs(3, 4, None, {"out": ends}))
    assert trace.spikes["out"].sum(1).ravel().tolist() == [4, 0, 0]
