"""What we predict of cores, chips and SDRAM beside what sPyNNaker's own mapper uses."""

from dataclasses import replace

import numpy as np
import pytest

from neuroport.backends.base import Job
from neuroport.backends.spinnaker.predict import TOLERANCE, predict
from neuroport.backends.spinnaker.virtual import SpinnakerVirtual
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntHead, IntNetwork, IntProjection
from neuroport.chip.synapses import IntConv2d
from neuroport.snn.operators import conv_geometry
from tests.backends.spinnaker_networks import LEAKY, TARGET, network, population

pytestmark = pytest.mark.spinnaker


def wide(target):
    """Driven by currents, depthwise, with a skip: 48 cores of neurons and 3 of sources, on several chips."""
    rng = np.random.default_rng(3)
    shape = (8, 22, 22)
    pops = [population(target, "first", shape, 300, driven=True)]
    pops += [population(target, name, shape, 300, bias=20, rng=rng) for name in ("second", "third")]
    pops[-1] = replace(pops[-1], role="readout")
    kernels = rng.integers(-50, 90, (2, 8, 1, 3, 3)).astype(np.int32)
    g = conv_geometry(shape, kernels[0].shape, (1, 1), (1, 1), (1, 1), 8)
    joined = [("first", "second", 0), ("second", "third", 1), ("first", "third", 1)]
    projections = tuple(IntProjection(a, b, IntConv2d(kernels[k], g)) for a, b, k in joined)
    made = IntNetwork(target.name, target.arithmetic, tuple(pops), projections, (IntHead("third", "count"),))
    return made, IntInputs(3, 20, None, {"first": rng.integers(-50, 200, (3, *shape)).astype(np.int32)})


@pytest.mark.parametrize(
    ("target", "make"),
    [
        (TARGET, lambda: network(n_dense=300)),
        (LEAKY, lambda: network(LEAKY, driven=True)),
        (LEAKY, lambda: wide(LEAKY)),
    ],
    ids=["spikes", "currents", "several chips"],
)
def test_cores_chips_and_memory_as_predicted(spinnaker, tmp_path, target, make):
    """SDRAM: sPyNNaker does not round up the last list of a core to 16 bytes."""
    net, inputs = make()
    mapped = SpinnakerVirtual().map(Job(target, net, inputs, tmp_path))
    rows = {row["what"]: row for row in mapped.report["predicted"]}
    assert rows["cores"]["predicted"] == rows["cores"]["used"] == mapped.report["machine"]["cores_used"]
    assert rows["chips"]["predicted"] == rows["chips"]["used"]
    more = rows["SDRAM bytes"]["predicted"] - mapped.report["sdram_bytes"]
    assert 0 <= more < 16 * rows["cores"]["used"]
    assert all(abs(row["difference"]) < TOLERANCE for row in rows.values())
    assert not mapped.warnings
    prediction = predict(net, inputs, target)
    assert [(part.name, part.n_cores) for part in prediction.parts] == [
        (row["name"], len(row["cores"])) for row in mapped.report["populations"]
    ]


def test_a_wrong_prediction_is_said(spinnaker, tmp_path):
    """Of a datasheet that lets fewer neurons onto a core than sPyNNaker does, and whose routers hold one entry."""
    net, inputs = network(n_dense=300)
    wrong = {"neurons_per_core": 64, "router_entries_per_chip": 1}
    machine = TARGET.geometry.machine.model_copy(update=wrong)
    target = TARGET.model_copy(update={"geometry": TARGET.geometry.model_copy(update={"machine": machine})})
    cores, *_, routers = SpinnakerVirtual().map(Job(target, net, inputs, tmp_path)).warnings
    assert cores.startswith("sPyNNaker uses 9 cores, predicted were 14 (+56%)")
    assert "entries and has 1: sPyNNaker has to compress" in routers
