"""The network's hash: the same wherever the integers are, another where anything is changed, and pinned."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from neuroport.chip.digest import as_document, first_change, network_hash
from neuroport.chip.files import read_network, write_network
from neuroport.chip.synapses import IntDense, as_sparse
from neuroport.chip.target import Arithmetic
from tests.chip.networks import TARGETS, dense, network_of, networks, population, source, sparse, target
from tests.golden.mutations import mutations

ARITHMETICS = [target(name).arithmetic for name in TARGETS]


def small(**changes):
    """Three inputs, two neurons."""
    bias = np.array([5, -5], np.int32)
    out = population(shape=(2,), **({"threshold_mantissa": 9, "bias_mantissa": bias} | changes))
    return network_of(target("loihi1").arithmetic, [source((3,)), out], [dense([[2, -4, 6], [8, 0, 2]])])


def test_the_hash_is_that_of_the_documented_text():
    """Computed here as another program would, from the module's head alone."""

    def array(values):
        return {
            "shape": list(values.shape),
            "sha256": hashlib.sha256(values.astype("<i8").tobytes(order="C")).hexdigest(),
        }

    common = {"bias_exponent": 0, "v_init_int": 0, "reset": "zero", "decay": 0, "clamp_until": 0, "driven": False}
    document = {
        "target": "testchip",
        "arithmetic": json.loads(target("loihi1").arithmetic.model_dump_json()),
        "populations": [
            common
            | {"name": "input", "shape": [3], "role": "input", "threshold_mantissa": 1, "unit": 64}
            | {"bias_mantissa": array(np.zeros(3))},
            common
            | {"name": "out", "shape": [2], "role": "readout", "threshold_mantissa": 9, "unit": 64}
            | {"bias_mantissa": array(np.array([5, -5]))},
        ],
        "projections": [
            {
                "pre": "input",
                "post": "out",
                "synapse": {"kind": "dense", "mantissa": array(np.array([[2, -4, 6], [8, 0, 2]]))},
            }
        ],
        "heads": [{"population": "out", "read": "count"}],
    }
    own = target("loihi1").arithmetic
    for sheet, part in ((own, document["arithmetic"]), (own.bias, document["arithmetic"]["bias"])):
        for key, field in type(sheet).model_fields.items():
            if not field.is_required() and getattr(sheet, key) == field.get_default():
                del part[key]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert network_hash(small()) == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_does_not_depend_on_types_of_arrays_or_their_order_in_memory():
    given = small()
    m = given.projections[0].synapse.mantissa
    for other in (m.astype(np.int64), m.astype(np.int8), np.asfortranarray(m), m.astype(">i4")):
        link = replace(given.projections[0], synapse=IntDense(other))
        assert network_hash(replace(given, projections=(link,))) == network_hash(given)


@given(networks(ARITHMETICS))
@settings(max_examples=25)
def test_the_hash_survives_a_file_and_notices_every_change(tmp_path_factory, case):
    network, _ = case
    path = tmp_path_factory.mktemp("digest") / "network.h5"
    write_network(path, network)
    found = network_hash(network)
    assert network_hash(read_network(path)) == found
    assert first_change(network, read_network(path)) == ""
    for what, other in mutations(network):
        if as_document(other) != as_document(network):  # a weight of 0 that was 0
            assert network_hash(other) != found, what
            assert first_change(network, other), what
        else:
            assert what.startswith("weights")


def test_one_weight_by_one_step_is_another_hash():
    given = small()
    m = given.projections[0].synapse.mantissa.copy()
    m[1, 2] += 2
    other = replace(given, projections=(replace(given.projections[0], synapse=IntDense(m)),))
    assert network_hash(other) != network_hash(given)
    assert first_change(given, other) == "projections[0].synapse.mantissa: other values"


def test_a_rule_that_is_added_later_leaves_the_hash_as_it_is():
    class Later(Arithmetic):
        refractory_steps: int = 0

    a = target("loihi1").arithmetic
    given = small()
    same, other = (replace(given, arithmetic=Later(**dict(a), refractory_steps=n)) for n in (0, 1))
    assert network_hash(same) == network_hash(given)
    assert network_hash(other) != network_hash(given)
    assert first_change(given, other) == "arithmetic.refractory_steps: the default before, 1 now"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (small(threshold_mantissa=8), "populations[out].threshold_mantissa: 9 before, 8 now"),
        (small(current_decay=0), "populations[out].current_decay: the default before, 0 now"),
        (small(bias_mantissa=np.array([5, 5], np.int32)), "populations[out].bias_mantissa: other values"),
        (replace(small(), target="other"), "target: testchip before, other now"),
        (
            network_of(target("loihi1").arithmetic, [source((3,)), population()], [dense([[2, 2, 2]])]),
            "populations[out].shape[0]: 2 before, 1 now",
        ),
        (
            network_of(target("loihi1").arithmetic, [source((3,)), population("a")], [dense([[2, 2, 2]], post="a")]),
            "populations[out].name: out before, a now",
        ),
        (
            network_of(
                target("loihi1").arithmetic,
                [source((3,)), population("a", role="hidden"), population(shape=(2,))],
                [dense([[2, 2, 2]], post="a"), dense([[2], [2]], pre="a")],
            ),
            "populations: 2 of them before, 3 of them now",
        ),
    ],
)
def test_what_changed_is_named(other, said):
    assert first_change(small(), other) == said


def test_dense_and_sparse_synapses_of_the_same_weights_are_two_networks():
    given = small()
    link = replace(given.projections[0], synapse=as_sparse(given.projections[0].synapse))
    other = replace(given, projections=(link,))
    assert network_hash(other) != network_hash(given)
    assert first_change(given, other) == "projections[0].synapse.mantissa: [2, 3] before, [5] now"
    rows = [{0: 2}, {2: 4}]
    some = network_of(given.arithmetic, [source((3,)), population(shape=(2,))], [sparse(rows)])
    assert "other values" in first_change(some, replace(some, projections=(sparse([{1: 2}, {2: 4}]),)))
