"""The ladder: accuracies and agreements counted by hand, and all rungs of a network whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuroport.ann.graph import AnnGraph
from neuroport.ann.load import load_ann
from neuroport.ann.simplify import simplify
from neuroport.chip.quantize import quantize
from neuroport.chip.suit import suited
from neuroport.engine import evaluate_samples
from neuroport.errors import ConversionError
from neuroport.normalize.convert import convert
from neuroport.normalize.recipe import load_recipe
from neuroport.validation.ladder import Ladder
from neuroport.validation.outputs import TestSet
from tests.chip.networks import NEURONS, target


def batch_of(network, normalized, tests, n_steps):
    return evaluate_samples(network, normalized, tests, n_steps, keeps_batches=True).batches.whole()


def scores(*classes):
    return np.eye(3)[list(classes)]


def test_accuracy_and_agreement_by_hand():
    ladder = Ladder(np.array([0, 1, 2, 1]))
    first = ladder.add("ann", scores(0, 1, 2, 2))
    assert (first.name, first.samples, first.accuracy, first.agreement) == ("ann", 4, 0.75, None)
    second = ladder.add("folded", scores(0, 1, 0, 1))
    assert (second.accuracy, second.agreement) == (0.75, 0.5)
    assert ladder.rungs == [first, second]


def test_a_rung_on_fewer_samples_is_compared_on_those():
    ladder = Ladder(np.array([0, 1, 2, 1]))
    ladder.add("integer_core", scores(0, 2, 2, 2))
    rung = ladder.add("backend", scores(0, 1))
    assert (rung.samples, rung.accuracy, rung.agreement) == (2, 1.0, 0.5)


def test_ties_go_to_the_first_class():
    ladder = Ladder(np.array([0, 1]))
    assert ladder.add("core", np.array([[5.0, 5.0], [3.0, 3.0]])).accuracy == 0.5


class Halves(torch.nn.Module):
    """Class 0 where the left pixel is brighter, class 1 where the right one is: |l - r| through two ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(2, 2)
        self.readout = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
            self.readout.weight.copy_(torch.eye(2))
            for layer in (self.hidden, self.readout):
                layer.bias.zero_()

    def forward(self, x):
        return self.readout(torch.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def halves():
    """The module as loaded, 120 images with clear differences (more than one batch of the ladder), their classes."""
    rng = np.random.default_rng(0)
    left = rng.integers(0, 2, 120)
    bright, dark = rng.uniform(0.7, 1, 120), rng.uniform(0, 0.3, 120)
    images = np.where(left[:, None] == [[1, 0]], bright[:, None], dark[:, None]).astype(np.float32)
    return load_ann(Halves().eval(), examples=[torch.from_numpy(images[:2])]), images, 1 - left


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("coding", ["", "-rate"])
def test_every_rung_of_a_network_with_known_answers(halves, name, coding):
    ann, images, classes = halves
    made_for = target(name)
    resets_to_zero = "subtract" not in set(made_for.arithmetic.resets) - set(made_for.arithmetic.two_compartments)
    recipe = suited(load_recipe(("reset-zero" if resets_to_zero else "robust") + coding), made_for)
    folded = simplify(ann.graph)
    normalized = convert(folded, images, recipe)
    network = quantize(normalized.network, made_for, 32, images=images).network
    told = []
    labels = classes.copy()
    labels[:12] = 1 - labels[:12]  # a tenth is labelled wrongly: accuracy is 0.9, agreement 1
    ladder = Ladder(labels, told.append)
    tests = TestSet(images, labels)
    ladder.climb_float(ann, folded, normalized, tests, 32)
    core = ladder.add_core(batch_of(network, normalized, tests, 32))
    assert [rung.name for rung in ladder.rungs] == ["ann", "folded", "normalized", "float_snn", "integer_core"]
    assert told == [rung.name for rung in ladder.rungs[:4]]
    assert [rung.samples for rung in ladder.rungs] == [120] * 5
    assert [rung.accuracy for rung in ladder.rungs] == [0.9] * 5
    assert [rung.agreement for rung in ladder.rungs] == [None, 1.0, 1.0, 1.0, 1.0]
    assert len(core.over_time) == 32
    assert core.over_time[-1] == 0.9
    sure = [rung.margins for rung in ladder.rungs]
    assert [m.relative for m in sure[:2]] == pytest.approx([1, 1], abs=1e-5)
    if not resets_to_zero:  # a reset to zero throws a part of each margin away
        assert all(m.relative == pytest.approx(1, abs=0.1) and m.correlation > 0.95 for m in sure)
    # the wrongly labelled tenth lies anywhere among the margins
    assert all(sum(m.accuracies) == pytest.approx(4 * 0.9) for m in sure)
    hidden = core.activity["hidden"]
    assert hidden.silent_fraction == 0
    # one of two neurons fires, driven by 0.4 to 1 of its threshold: at least at every third of the 32 steps
    assert 10 / 32 / 2 <= hidden.mean_rate <= 1 / 2
    assert hidden.overflows == 0


def test_activity_counts_silent_neurons_and_spikes_per_step(halves):
    ann, images, classes = halves
    left = images[classes == 0][:50]
    recipe = load_recipe("max-norm")
    normalized = convert(ann.graph, images, recipe)
    network = quantize(normalized.network, target("cpu"), 10, images=images).network
    tests = TestSet(left, np.zeros(50, np.int64))
    activity = Ladder(np.zeros(50, np.int64)).add_core(batch_of(network, normalized, tests, 10)).activity
    assert activity["hidden"].silent_fraction == 0.5  # the neuron of the right side never fires
    assert activity["readout"].mean_rate == 0  # accumulates
    assert activity["readout"].silent_fraction == 1
    largest = (images.max(1) - images.min(1)).max()
    rates = (left[:, 0] - left[:, 1]) / largest
    counted = np.floor(rates * 10).mean() / 10 / 2  # reset by subtraction, v_init 0: floor(T x) spikes
    one_spike = 1 / (50 * 2 * 10)  # the brightest image, of rate 1, may lie on either side of it in float32
    assert activity["hidden"].mean_rate == pytest.approx(counted, abs=1.001 * one_spike)


def test_a_wrong_conversion_is_not_carried_further(halves):
    """The folded network, or the spiking one, with one weight off: refused, with exit code 3."""
    ann, images, classes = halves
    folded = simplify(ann.graph)
    normalized = convert(folded, images, load_recipe("robust"))
    nodes = list(folded.nodes)
    k = next(k for k, node in enumerate(nodes) if node.name == "readout")
    nodes[k] = replace(nodes[k], op=replace(nodes[k].op, weight=nodes[k].op.weight * [[1.01, 1], [1, 1]]))
    with pytest.raises(ConversionError, match=r"the folded network differs from the trained one by 0\.0"):
        Ladder(classes).climb_float(
            ann, AnnGraph(tuple(nodes), folded.outputs), normalized, TestSet(images, classes), 4
        )
    *first, last = normalized.network.projections
    wrong = replace(last, operator=replace(last.operator, weight=last.operator.weight * 1.01))
    network = replace(normalized.network, projections=(*first, wrong))
    with pytest.raises(ConversionError, match="in unclipped rates differs from the trained one"):
        Ladder(classes).climb_float(ann, folded, replace(normalized, network=network), TestSet(images, classes), 4)
