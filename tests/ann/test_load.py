"""How a network is found by its name, and that no file is ever trusted to run code."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neuroport.ann.from_torch import export_module
from neuroport.ann.interpret import run_graph, run_outputs
from neuroport.ann.load import load_ann, names_callable, read_exported
from neuroport.errors import InvalidNetworkError, ModelFileError, UnsupportedOperatorError, UsageError


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


class WithConstant(nn.Module):
    """A linear layer and a constant that is no parameter, so that the archive has both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 3)
        self.offset = torch.tensor([1.0, -2.0, 0.5])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.fc.weight, self.offset)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.export.save(export_module(WithConstant(), torch.rand(3, 4)), tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the-payload-ran"


def rewritten(
    source: Path, target: Path, *, change: dict[str, Callable[[bytes], bytes]], add: dict[str, bytes] | None = None
) -> Path:
    """A copy of an archive with the named entries changed and others added below the same root."""
    changed = set()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            content = old.read(name)
            relative = name.removeprefix(f"{root}/")
            if relative in change:
                content = change[relative](content)
                changed.add(relative)
            new.writestr(name, content)
        for name, content in (add or {}).items():
            new.writestr(f"{root}/{name}", content)
    assert changed == set(change), "torch names the archive's entries differently now"
    return target


def saved_bytes(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def edited_json(edit: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        document = json.loads(content)
        edit(document)
        return json.dumps(document).encode()

    return change


def assert_refused(path: Path, marker: Path, match: str = "pickled objects, which are never run") -> None:
    with pytest.raises(ModelFileError, match=match) as caught:
        load_ann(path)
    assert not marker.exists(), "code of the file was run"
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_saved_network_is_read_and_runs(saved: Path) -> None:
    ann = load_ann(saved)
    x = np.random.default_rng(0).random((300, 4), np.float32)
    expected = WithConstant()(torch.from_numpy(x)).detach().numpy()
    assert (ann.name, ann.input_shape) == ("net", (4,))
    # Batches of another size may sum four products in another order: three roundings of values below 4.
    np.testing.assert_allclose(ann.run_framework(x), expected, rtol=0, atol=4 * 3 * 2**-23)
    np.testing.assert_allclose(run_graph(ann.graph, torch.from_numpy(x)).numpy(), expected, rtol=0, atol=4 * 3 * 2**-23)


def test_a_network_with_a_fixed_batch_runs_any_number_of_samples(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(WithConstant(), (torch.rand(4, 4),)), tmp_path / "fixed.pt2")
    ann = load_ann(tmp_path / "fixed.pt2")
    x = np.random.default_rng(0).random((10, 4), np.float32)
    found = ann.run_framework(x)
    assert found.shape == (10, 3)
    np.testing.assert_allclose(found, WithConstant()(torch.from_numpy(x)).detach(), rtol=0, atol=4 * 3 * 2**-23)


def test_the_payload_of_these_tests_does_run_when_a_file_is_trusted(marker: Path) -> None:
    torch.load(io.BytesIO(saved_bytes(Payload(marker))), weights_only=False)
    assert marker.exists()
    marker.unlink()
    pickle.loads(pickle.dumps(Payload(marker)))  # noqa: S301 - the point of this test
    assert marker.exists()


@pytest.mark.parametrize("entry", ["data/sample_inputs/model.pt", "data/weights/weight_0", "data/constants/tensor_0"])
def test_a_pickle_inside_an_archive_is_not_run(saved: Path, marker: Path, entry: str, tmp_path: Path) -> None:
    def as_pickles(config: Any) -> None:
        for payload in config["config"].values():
            payload["use_pickle"] = True

    change: dict[str, Callable[[bytes], bytes]] = {entry: lambda _: saved_bytes(Payload(marker))}
    assert_refused(rewritten(saved, tmp_path / "a.pt2", change=change), marker)
    change["data/weights/model_weights_config.json"] = edited_json(as_pickles)
    change["data/constants/model_constants_config.json"] = edited_json(as_pickles)
    assert_refused(rewritten(saved, tmp_path / "b.pt2", change=change), marker)


@pytest.mark.parametrize("kind", ["opaque_obj_0", "custom_obj_0", "OPAQUE_OBJ_0"])
def test_a_pickled_constant_of_an_archive_is_not_run(saved: Path, marker: Path, kind: str, tmp_path: Path) -> None:
    def rename(config: Any) -> None:
        config["config"]["offset"]["path_name"] = kind.lower()

    change = {"data/constants/model_constants_config.json": edited_json(rename)}
    add = {f"data/constants/{kind}": pickle.dumps(Payload(marker))}
    assert_refused(rewritten(saved, tmp_path / "a.pt2", change=change, add=add), marker)


def test_a_size_that_is_python_is_not_evaluated(saved: Path, marker: Path, tmp_path: Path) -> None:
    size = re.compile(r'"expr_str": "Symbol\([^"]*\)"')
    evil = f"__import__('pathlib').Path('{marker}').touch()"

    def change(content: bytes) -> bytes:
        text, n = size.subn(f'"expr_str": "{evil}"', content.decode())
        assert n > 0
        return text.encode()

    assert_refused(rewritten(saved, tmp_path / "a.pt2", change={"models/model.json": change}), marker)


def test_guards_of_an_archive_are_not_executed(saved: Path, marker: Path, tmp_path: Path) -> None:
    def add_guard(model: Any) -> None:
        model["guards_code"] = [f"__import__('pathlib').Path('{marker}').touch() is None"]

    ann = load_ann(rewritten(saved, tmp_path / "a.pt2", change={"models/model.json": edited_json(add_guard)}))
    assert ann.run_framework(np.zeros((2, 4), np.float32)).shape == (2, 3)
    assert not marker.exists()


def test_the_environment_is_as_before_after_reading(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    read_exported(saved)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    read_exported(saved)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


def test_files_that_are_no_archive_are_refused(tmp_path: Path, marker: Path, saved: Path) -> None:
    payload = {
        "net.pth": saved_bytes(Payload(marker)),
        "net.pt": saved_bytes(Payload(marker)),
        "bare": saved_bytes(Payload(marker)),
        "renamed.pt2": saved_bytes(Payload(marker)),
        "legacy.pt2": pickle.dumps(Payload(marker)),
        "text.pt2": b"this is text\n",
        "empty.pt2": b"",
        "cut.pt2": saved.read_bytes()[:-2000],
    }
    reasons = {
        "net.pth": "is not a .pt2 or .onnx file; a .pth may be a pickle that runs code when it is read; write",
        "net.pt": "is not a .pt2 or .onnx file; a .pt may be a pickle that runs code when it is read; write",
        "bare": "is not a .pt2 or .onnx file; a file without suffix may be a pickle",
        "renamed.pt2": "is damaged, or holds pickled objects, which are never run; write it again with torch.export",
        "legacy.pt2": r"is not an archive of torch.export \(not a zip file\)",
        "text.pt2": r"is not an archive of torch.export \(not a zip file\)",
        "empty.pt2": r"is not an archive of torch.export \(not a zip file\)",
        "cut.pt2": r"is not an archive of torch.export \(not a zip file\); was it cut short\?",
    }
    for name, content in payload.items():
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path / name, marker, reasons[name])
    assert_refused(
        tmp_path / "absent.pt2", marker, "does not exist; give a .pt2 or .onnx file or package.module:callable"
    )
    (tmp_path / "folder.pt2").mkdir()
    assert_refused(tmp_path / "folder.pt2", marker, "does not exist")
    with zipfile.ZipFile(tmp_path / "zip.pt2", "w") as archive:
        archive.writestr("readme.txt", "nothing of torch")
    assert_refused(tmp_path / "zip.pt2", marker, "is not an archive of torch.export, is damaged")


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of networks that lies in the current directory, as a user's would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "user_nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "number = 3\n"
        "class Small(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 2))\n"
        "def make(): return Small().train()\n"
        "def gelu(): return nn.Sequential(nn.Linear(4, 2), nn.GELU())\n"
        "def nan():\n"
        "    net = Small()\n"
        "    net[4].weight.data[0, 0] = float('nan')\n"
        "    return net\n"
        "def wrong(): return {'weights': 1}\n"
        "def failing(): raise RuntimeError('no such\\nfile')\n"
        "def unbatched(): return nn.Flatten(0)\n"
        "class Two(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.left, self.right = nn.Linear(3, 2), nn.Conv1d(2, 4, 2)\n"
        "    def forward(self, row, lines):\n"
        "        y = self.right(lines)\n"
        "        return {'scores': self.left(row) + y.mean((1, 2))[:, None], 'all': [y, None]}\n"
    )
    (tmp_path / "broken_nets.py").write_text("import not_installed_anywhere\n")
    yield "user_nets"
    for name in ("user_nets", "broken_nets"):
        sys.modules.pop(name, None)


EXAMPLE = torch.rand(3, 4)


def test_a_callable_is_imported_from_the_current_directory_and_traced_in_inference_mode(nets: str) -> None:
    ann = load_ann(f"{nets}:make", examples=[torch.rand(3, 1, 2, 2), torch.rand(1, 4)])
    assert (ann.name, ann.input_shape) == ("make", (4,))
    module = sys.modules[nets].Small().eval()
    module.load_state_dict(
        {k: v for k, v in ann.framework.program.state_dict.items() if k in module.state_dict()}, strict=False
    )
    x = torch.rand(7, 4)
    assert torch.allclose(run_graph(ann.graph, x), module(x), rtol=1e-5, atol=1e-6)
    assert load_ann(f"{nets}:Small", examples=[EXAMPLE]).name == "Small"


def test_what_is_wrong_with_a_callable_is_said(nets: str) -> None:
    for model, error, match in (
        ("user_nets:absent", UsageError, "module 'user_nets' has no callable 'absent'"),
        ("user_nets:number", UsageError, "module 'user_nets' has no callable 'number'"),
        ("user_nets:", UsageError, "has no callable ''"),
        (":make", UsageError, "cannot import '' of ':make'"),
        ("no_such_module:make", UsageError, "cannot import 'no_such_module'.*No module named 'no_such_module'"),
        ("broken_nets:make", UsageError, "cannot import 'broken_nets'.*No module named 'not_installed_anywhere'"),
        ("user_nets:wrong", UsageError, r"'user_nets:wrong\(\)' returned dict; it must return a torch.nn.Module"),
        ("user_nets:failing", UsageError, r"'user_nets:failing\(\)' failed: RuntimeError: no such$"),
        ("user_nets:unbatched", UsageError, "takes no input of shape .4.*not one row of scores per sample"),
        ("user_nets:gelu", UnsupportedOperatorError, "aten.gelu.default"),
        ("user_nets:nan", InvalidNetworkError, "1 of 10 numbers in its weight are NaN"),
    ):
        with pytest.raises(error, match=match):
            load_ann(model, examples=[EXAMPLE])
    with pytest.raises(UsageError, match=r"'make' takes no input of shape \[5\], \[2, 2\] .--data.: .+"):
        load_ann(f"{nets}:make", examples=[torch.rand(3, 5), torch.rand(3, 2, 2)])
    with pytest.raises(UsageError, match=r"takes no input of shape any .*no example was given"):
        load_ann(f"{nets}:make")


def test_names_of_callables_and_of_files(tmp_path: Path) -> None:
    (tmp_path / "a:b.pt2").touch()
    assert names_callable("package.module:make")
    assert not names_callable("net.pt2")
    assert not names_callable(tmp_path / "a:b.pt2")


def test_weights_are_loaded_before_the_network_is_read(nets: str, tmp_path: Path) -> None:
    load_ann(f"{nets}:make", examples=[EXAMPLE])
    trained = sys.modules[nets].Small().eval()
    torch.manual_seed(5)
    for tensor in trained.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    for name, state in (("bare.pth", trained.state_dict()), ("wrapped.pth", {"state_dict": trained.state_dict()})):
        torch.save(state, tmp_path / name)
        ann = load_ann(f"{nets}:make", examples=[EXAMPLE], weights=tmp_path / name)
        assert torch.allclose(run_graph(ann.graph, EXAMPLE), trained(EXAMPLE), rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_belong_are_refused(nets: str, tmp_path: Path, marker: Path, saved: Path) -> None:
    (tmp_path / "text.pth").write_text("weights\n")
    torch.save(Payload(marker), tmp_path / "evil.pth")
    torch.save({"0.weight": torch.zeros(5, 4), "extra": Payload(marker)}, tmp_path / "part.pth")
    (tmp_path / "legacy.pth").write_bytes(pickle.dumps(Payload(marker)))
    torch.save({"0.weight": torch.zeros(5, 4)}, tmp_path / "few.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    for name, match in (
        ("absent.pth", "weights file '.*absent.pth' does not exist"),
        ("text.pth", "is damaged, or holds pickled objects, which are never run; save model.state_dict"),
        ("evil.pth", "is damaged, or holds pickled objects, which are never run"),
        ("part.pth", "is damaged, or holds pickled objects, which are never run"),
        ("legacy.pth", "is damaged, or holds pickled objects, which are never run"),
        ("few.pth", r"cannot load '.*few.pth' into Small: .*Missing key.*0\.bias"),
        ("tensor.pth", "cannot load '.*tensor.pth' into Small"),
    ):
        with pytest.raises(ModelFileError, match=match) as caught:
            load_ann(f"{nets}:make", examples=[EXAMPLE], weights=tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not marker.exists()
    torch.save({}, tmp_path / "any.pth")
    with pytest.raises(UsageError, match=r"--weights goes with package.module:callable; .* holds its own weights"):
        load_ann(saved, weights=tmp_path / "any.pth")


def test_a_module_in_memory_is_read_and_left_in_training_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 2)).train()
    ann = load_ann(module, examples=[torch.rand(2, 4)])
    assert ann.name == "Sequential"
    assert all(m.training for m in module.modules())
    assert torch.allclose(run_graph(ann.graph, EXAMPLE), module.eval()(EXAMPLE), rtol=1e-5, atol=1e-6)


def test_a_module_around_an_exported_program_is_read() -> None:
    """Such a program refuses eval()."""
    free = ({0: torch.export.Dim("n")},)
    inner = torch.export.export(nn.Linear(4, 3).eval(), (EXAMPLE,), dynamic_shapes=free).module()
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), inner)
    ann = load_ann(module, examples=[EXAMPLE])
    assert torch.allclose(run_graph(ann.graph, EXAMPLE), module(EXAMPLE), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_a_network_of_several_inputs_and_outputs_runs_on_joined_samples(
    nets: str, tmp_path: Path, batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    rows, lines = torch.rand(6, 3), torch.rand(6, 2, 5)
    module = importlib.import_module(nets).Two().eval()
    if batch is None:
        wrong = [(rows, lines[:, :1]), rows]
        ann = load_ann(module, examples=[*wrong, (rows[:1], lines[:1])])
    else:
        program = torch.export.export(module, (rows[:batch], lines[:batch]))
        torch.export.save(program, tmp_path / "two.pt2")
        ann = load_ann(tmp_path / "two.pt2")
    assert ann.input_shape == (13,)
    images = torch.cat([rows, lines.flatten(1)], 1)
    expected = module(rows, lines)
    found = ann.run_outputs(images.numpy())
    assert [output.shape for output in found] == [(6, 2), (6, 4, 4)]
    for output, ours, theirs in zip(
        found, run_outputs(ann.graph, images), [expected["scores"], expected["all"][0]], strict=True
    ):
        assert output.dtype == np.float32
        # Sums of fewer than 32 numbers below 1.
        np.testing.assert_allclose(output, theirs.detach(), rtol=0, atol=32 * 2**-23)
        np.testing.assert_allclose(ours, theirs.detach(), rtol=0, atol=32 * 2**-23)
    np.testing.assert_array_equal(ann.run_framework(images.numpy()), found[0])
    assert ann.precision == 2**-23


def test_inputs_of_another_precision_are_cast_for_the_framework() -> None:
    ann = load_ann(nn.Linear(4, 2).double(), examples=[EXAMPLE])
    assert ann.precision == 2**-52
    assert ann.run_framework(EXAMPLE.numpy()).dtype == np.float32


def test_examples_that_no_module_takes_are_named_with_every_input(nets: str) -> None:
    with pytest.raises(UsageError, match=r"'Two' takes no input of shape \[3\] and \[4\], \[4\] .--data"):
        load_ann(f"{nets}:Two", examples=[(torch.rand(2, 3), EXAMPLE), EXAMPLE])


def test_a_module_that_gives_a_view_of_its_input_is_traced_on_a_copy() -> None:
    example = torch.rand(3, 4)
    before = example.clone()
    load_ann(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), examples=[example - 0.5, example])
    assert torch.equal(example, before)
