"""Networks that are no chain, from end to end: branches, pools, several inputs and outputs, events, ONNX."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from neuroport.cli import app
from neuroport.errors import DataError, DoesNotFitError, UsageError
from neuroport.verbs.deployment import Deployment, deploy
from neuroport.verbs.options import DeployOptions
from tests.ann.onnx_models import Net

RNG = np.random.default_rng(5)
N_TRAIN, N_TEST = 40, 20


class Residual(nn.Module):
    """A stem with max-pool, a block with a convolution in its shortcut, one that skips three layers, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(3))
        self.short = nn.Conv2d(4, 6, 1, stride=2)
        self.d = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.cls, self.box = nn.Linear(6, 3), nn.Conv2d(6, 2, 1)
        self.norm.running_mean.normal_(0, 0.1)
        self.norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        deep = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        x = F.relu(x + deep)
        x = F.relu(self.d(x) + self.short(x))
        return {"scores": F.log_softmax(self.cls(x.mean((2, 3))), 1), "box": self.box(x)}


class Pair(nn.Module):
    """Two inputs of different kinds, one of them negative too."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.line, self.out = nn.Linear(16, 8), nn.Conv1d(2, 3, 3, padding=1), nn.Linear(8 + 15, 3)

    def forward(self, image: torch.Tensor, line: torch.Tensor) -> torch.Tensor:
        parts = F.relu(self.image(image.flatten(1))), F.relu(self.line(line)).flatten(1)
        return self.out(torch.cat(parts, 1))


def seeded(module: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return module().eval()


def labels(n: int) -> Any:
    return np.arange(n) % 3


def save(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def images(tmp_path: Path, *shape: int) -> Path:
    x = RNG.random((N_TRAIN + N_TEST, *shape)).astype(np.float32)
    train, test = x[:N_TRAIN], x[N_TRAIN:]
    return save(tmp_path, x_train=train, y_train=labels(N_TRAIN), x_test=test, y_test=labels(N_TEST))


def run(tmp_path: Path, model: Any, data: Path, **options: Any) -> Deployment:
    settings: dict[str, Any] = {"target": "cpu", "samples": 4, "eval_samples": N_TEST, "out": tmp_path / "out"}
    result = deploy(DeployOptions(model=model, data=data, **(settings | options)))
    assert result.is_equal and result.comparison.compared_spikes > 0
    return result


def errors(result: Deployment, output: int) -> dict[str, float]:
    found: dict[str, float] = result.report["outputs"][output]["error"]
    return found


@pytest.mark.parametrize("target", ["cpu", "loihi-sim"])
def test_branches_pools_and_two_outputs(tmp_path: Path, target: str) -> None:
    """Rates follow the ANN in both outputs, with four times the steps a good deal closer."""
    data, model = images(tmp_path, 1, 8, 8), seeded(Residual)
    recipe = tmp_path / "max.yaml"
    recipe.write_text("name: max\nsummary: maximum\nsource: test\nv_init: 0.5\n")
    found = [
        run(tmp_path, model, data, target=target, backend="cpu", recipe=recipe, steps=steps, out=tmp_path / str(steps))
        for steps in (64, 256)
    ]
    assert [row["shape"] for row in found[0].report["outputs"]] == [[3], [2, 2, 2]]
    for output in (0, 1):
        few, many = (errors(result, output) for result in found)
        assert few["folded"] < 1e-6 and many["normalized"] < 0.05, "calibrated on other images than these"
        assert many["float_snn"] < 0.5 * few["float_snn"] + many["normalized"]
        assert many["integer_core"] < 0.05 + many["float_snn"]
    assert all(rung.agreement in (None, 1.0) for rung in found[1].rungs[:3])


@pytest.mark.lava
def test_the_same_on_lava(lava: Any, tmp_path: Path) -> None:
    """Skips of one, two and four levels, and a membrane for each output: every spike and potential is the core's."""
    result = run(tmp_path, seeded(Residual), images(tmp_path, 1, 8, 8), target="loihi-sim", steps=24, samples=3)
    assert result.report["backend"]["name"] == "lava"
    assert result.report["network"]["depth"] >= 6


@pytest.mark.parametrize("recipe", ["robust", "robust-rate"])
def test_two_inputs(tmp_path: Path, recipe: str) -> None:
    """One of them with negative numbers: under a rate code each number has an on and an off channel."""
    arrays: dict[str, Any] = {}
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        arrays[f"x_{part}_0"] = RNG.random((n, 1, 4, 4)).astype(np.float32)
        arrays[f"x_{part}_1"] = RNG.normal(size=(n, 2, 5)).astype(np.float32)
        arrays[f"y_{part}"] = labels(n)
    result = run(tmp_path, seeded(Pair), save(tmp_path, **arrays), recipe=recipe, steps=256)
    assert errors(result, 0)["integer_core"] < 0.1
    beyond = [w for w in result.report["warnings"] if "outside the range of the calibration data" in w]
    assert len(beyond) <= 1 and (not beyond or recipe == "robust-rate")


def event_net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()


def test_recorded_spikes_go_straight_in(tmp_path: Path) -> None:
    spikes = (RNG.random((30, 20, 2, 6, 6)) < 0.3).astype(np.uint8)
    result = run(tmp_path, event_net(), save(tmp_path, spikes=spikes, y=labels(30)), samples=2)
    assert result.report["steps"] == 20
    assert result.report["layers"][0]["synapses"] > 0, "events are spikes, not currents"
    with pytest.raises(DataError, match="have 20 steps, the run has 21; use --steps 20"):
        run(tmp_path, event_net(), tmp_path / "data.npz", steps=21)


def test_address_events_are_binned_to_the_steps_asked_for(tmp_path: Path) -> None:
    n, per = 30, 60
    events = {
        "t": np.sort(RNG.integers(0, 1000, (n, per)), axis=1).reshape(-1),
        "x": RNG.integers(0, 6, n * per),
        "y": RNG.integers(0, 6, n * per),
        "p": RNG.integers(0, 2, n * per),
        "offsets": np.arange(n + 1) * per,
        "labels": labels(n),
    }
    result = run(tmp_path, event_net(), save(tmp_path, **events), steps=16, samples=2)
    assert result.report["steps"] == 16
    assert errors(result, 0)["folded"] < 1e-6


def test_max_pool_gates_and_a_spiking_softmax(tmp_path: Path) -> None:
    recipe = tmp_path / "gated.yaml"
    recipe.write_text(
        "name: gated\nsummary: gates\nsource: Rueckauer 2016\nv_init: 0.5\nmax_pool: gated\nreadout: softmax\n"
    )
    data = images(tmp_path, 1, 8, 8)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    one = run(tmp_path, net, data, recipe=recipe)
    two = run(tmp_path, net, data, recipe=recipe, out=tmp_path / "again")
    assert [rung.accuracy for rung in one.rungs] == [rung.accuracy for rung in two.rungs], "drawn with the seed"
    assert one.report["network"]["populations"] == 3
    with pytest.raises(DoesNotFitError, match=r"is a max-pool gate, loihi-sim's neurons cannot .* `max_pool: expand`"):
        run(tmp_path, net, data, recipe=recipe, target="loihi-sim", backend="cpu")


def test_a_linear_readout_that_counts_spikes(tmp_path: Path) -> None:
    """Sums below 0 are silence, not a wrong conversion."""
    recipe = tmp_path / "count.yaml"
    recipe.write_text("name: count\nsummary: counts\nsource: test\nv_init: 0.5\nreadout: count\n")
    result = run(tmp_path, seeded(Residual), images(tmp_path, 1, 8, 8), recipe=recipe, steps=128)
    assert result.report["network"]["membrane_readouts"] == []
    assert result.report["layers"][-1]["mean_rate"] > 0


def test_a_last_layer_that_changes_the_order_of_the_scores(tmp_path: Path) -> None:
    """PReLU with a slope above 1 for some classes: the class is that of the output, not of the sums before it."""
    torch.manual_seed(3)
    last = nn.PReLU(3)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([-2.0, 0.1, 3.0]))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 3), last).eval()
    result = run(tmp_path, net, images(tmp_path, 1, 8, 8), steps=512)
    assert result.rungs[2].agreement == 1.0, "the normalized network has the trained one's classes"


def test_two_inputs_of_different_range_have_a_rate_code_each(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        arrays[f"x_{part}_0"] = RNG.random((n, 1, 4, 4)).astype(np.float32)
        arrays[f"x_{part}_1"] = (255 * RNG.random((n, 2, 5))).astype(np.float32)
        arrays[f"y_{part}"] = labels(n)
    net = seeded(Pair)
    with torch.no_grad():
        net.line.weight.mul_(1 / 255)
    result = run(tmp_path, net, save(tmp_path, **arrays), recipe="robust-rate", steps=256)
    assert errors(result, 0)["integer_core"] < 0.1


def test_inputs_that_no_rate_expresses_are_told(tmp_path: Path) -> None:
    x = RNG.uniform(-1, 1, (60, 1, 8, 8)).astype(np.float32)
    test = x[N_TRAIN:].copy()
    test[:, 0, 0, 0] = 5.0
    data = save(tmp_path, x_train=x[:N_TRAIN], y_train=labels(N_TRAIN), x_test=test, y_test=labels(N_TEST))
    result = run(tmp_path, seeded(Residual), data, recipe="robust-rate")
    (told,) = [w for w in result.report["warnings"] if "outside the range of the calibration data" in w]
    assert told.startswith("1.562 %"), "one pixel of 64"


def test_onnx_deploys_with_onnxruntime_as_the_judge(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Conv", net.input(1, 8, 8), net.rand(4, 1, 3, 3), net.rand(4), pads=[1, 1, 1, 1])
    x = net.op("Flatten", net.op("MaxPool", net.op("Relu", x), kernel_shape=[2, 2], strides=[2, 2]))
    model = net.build(net.op("Gemm", x, net.rand(3, 64), transB=1))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    result = run(tmp_path, tmp_path / "net.onnx", images(tmp_path, 1, 8, 8))
    assert errors(result, 0)["folded"] < 1e-4
    assert result.report["model"] == "net"


def test_mean_and_std_reach_the_network(tmp_path: Path) -> None:
    """The same network with the normalization written into its first layer answers the same."""
    data, net = images(tmp_path, 1, 8, 8), seeded(Residual)
    wrapped = nn.Sequential(Normalize(0.4, 0.25), net).eval()
    for recipe in ("robust", "robust-rate"):
        outside = run(tmp_path, net, data, mean=(0.4,), std=(0.25,), recipe=recipe, steps=256)
        inside = run(tmp_path, wrapped, data, recipe=recipe, steps=256, out=tmp_path / "inside")
        assert outside.rungs[0].accuracy == inside.rungs[0].accuracy
        for result in (outside, inside):
            assert errors(result, 0)["integer_core"] < 0.1


class Normalize(nn.Module):
    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def test_the_flags_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    arguments = ["deploy", "--target", "cpu", "--samples", "1", "--eval", "5", "--out", str(tmp_path / "out")]
    for flags, reason in (
        (["--mean", "a,b"], "--mean 'a,b' is not a list of numbers"),
        (["--std", "0"], "--std above 0"),
        (["--mean", "0.1,0.2"], "hold 2 numbers, the model's input [1, 8, 8] has 1 channels"),
    ):
        result = CliRunner().invoke(app, [*arguments, *flags])
        assert result.exit_code == UsageError.exit_code and reason in " ".join(result.output.split()), result.output
    result = CliRunner().invoke(app, [*arguments, "--mean", "0.1", "--std", "0.5", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output[result.output.index("{") :])
    assert math.isfinite(report["outputs"][0]["error"]["integer_core"])
