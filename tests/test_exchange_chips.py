"""`load` for a chip: its ranges, its cores, and where its largest threshold is not the file's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neuroport.bundle import verify
from tests.backends.netx_files import CUBA, dense, write
from tests.test_exchange import data, driven, run


@pytest.mark.parametrize("neuron", [{**CUBA, "vThMant": (1 << 18) - 1}, None])
def test_a_layer_that_never_fires_in_the_file_and_would_on_the_chip(
    tmp_path: Path, neuron: dict[str, object] | None
) -> None:
    """The potential ends 63 above the largest threshold; netx has one beyond, so nothing fires there."""
    path = write(tmp_path / "n.net", [dense([[254] * 3, [2] * 3], neuron, bias=np.array([600, 0]))])
    held = data(tmp_path, spikes=np.stack([np.zeros((200, 3)), np.ones((200, 3))]))
    assert run("load", path, "--data", held, "--backend", "cpu", "--samples", 1).exit_code == 0
    done = run("load", path, "--data", held, "--backend", "cpu", "--out", tmp_path / "b")
    assert done.exit_code == 3
    said = " ".join(done.output.split())
    assert "layer '0.dense': in sample 1 its potential is at the end of Loihi's 24 bits" in said
    assert not (tmp_path / "b").exists()


def test_load_for_a_chip_is_mapped_onto_its_cores(tmp_path: Path) -> None:
    """loihi-sim has no cores; loihi1 has, and ranges of its own."""
    path, held = driven(tmp_path), data(tmp_path, x=np.ones((2, 1, 2, 3)))
    out, told = tmp_path / "b", ("--data", held, "--steps", 8, "--backend", "cpu")
    assert run("load", path, "--target", "loihi1", *told, "--out", out).exit_code == 0
    verify(out)
    report = json.loads((out / "report.json").read_text())
    assert (report["target"], report["backend"]["mismatches"]) == ("loihi1", 0)
    done = run("map", out, "--out", tmp_path / "m", "--json")
    assert done.exit_code == 0, done.output
    mapping = json.loads((tmp_path / "m" / "mapping.json").read_text())
    assert (mapping["target"], mapping["cores"]) == ("loihi1", 1)
    wide = write(tmp_path / "w.net", [dense(np.full((1, 200), 200))])
    assert run("load", wide).exit_code == 0
    done = run("load", wide, "--target", "loihi1")
    assert (done.exit_code, "one step can add weights up to 40000, loihi1's" in done.output) == (3, True)
    done = run("load", path, "--target", "cpu")
    assert done.exit_code == 2
    assert "--target 'cpu' cannot hold a file of netx; loihi-sim, loihi1, loihi2 can" in done.output
