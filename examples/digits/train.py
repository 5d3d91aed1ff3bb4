"""Makes the embedded example from scratch: the data (`digits.npz`) and the trained network (`digits.pt2`).

    python train.py [--out DIR]

Needs torch and scikit-learn. With the same versions on the same machine two runs give the same arrays and the
same weights, bit for bit. Nothing is written when the network misses `MIN_ACCURACY`.
"""

from __future__ import annotations

import argparse
import re
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

SPLIT_SEED = 2026
TRAIN_SEED = 1
TEST_FRACTION = 1 / 3
MIN_ACCURACY = 0.97

N_EPOCHS = 60
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
INPUT_NOISE = 0.15
LABEL_SMOOTHING = 0.05

# Rounding of a few float32 sums of 150 terms; the scores are of order ten.
MAX_DIFFERENCE = 1e-4

FILE_LINE = re.compile(r'File "(?P<path>[^"]+)"')


class DigitsNet(nn.Module):
    """Ten class scores [N, 10] from images [N, 1, 8, 8] in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(0.25)
        self.fc1 = nn.Linear(16 * 3 * 3, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [N, 10] of images [N, 1, 8, 8]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.dropout(torch.flatten(self.pool(x), 1))
        x = torch.relu(self.fc1(x))
        return self.fc2(x)


def load_split() -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """The 1797 images as float32 [N, 1, 8, 8] in [0, 1] with labels, about a third of every class for testing.

    The pixels are counts 0 to 16, so division by 16 is exact. The split uses numpy's generator alone, so that it
    does not move with scikit-learn.
    """
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    rng = np.random.default_rng(SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        is_test[members[: round(len(members) * TEST_FRACTION)]] = True
    return {
        "x_train": images[~is_test],
        "y_train": labels[~is_test],
        "x_test": images[is_test],
        "y_test": labels[is_test],
    }


def train(x: Tensor, y: Tensor) -> DigitsNet:
    """A network trained on x [N, 1, 8, 8] and y [N], in eval mode.

    The input noise is there for the chip: a network that tolerates it also tolerates rates of a few dozen steps
    and the charge that neurons with reset to zero throw away.
    """
    torch.manual_seed(TRAIN_SEED)
    model = DigitsNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_batches = -(-len(x) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=N_EPOCHS * n_batches)
    model.train()
    for _ in range(N_EPOCHS):
        for index in torch.randperm(len(x)).split(BATCH_SIZE):
            images = (x[index] + INPUT_NOISE * torch.randn(len(index), *x.shape[1:])).clamp(0, 1)
            loss = nn.functional.cross_entropy(model(images), y[index], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def relative_path(path: str) -> str:
    """A source path without the machine in it: `torch/nn/modules/conv.py`, or the bare file name."""
    for root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")):
        if Path(path).is_relative_to(root):
            return Path(path).relative_to(root).as_posix()
    return Path(path).name


def export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The exported program with a free batch dimension and source lines that name no folder of this machine.

    The example is cloned: torch.export would otherwise store the whole tensor that it is a view of.
    """
    batch = torch.export.Dim("batch", min=1, max=65536)
    program = torch.export.export(model, (example.clone(),), dynamic_shapes=({0: batch},))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if trace := node.meta.get("stack_trace"):
                node.meta["stack_trace"] = FILE_LINE.sub(lambda m: f'File "{relative_path(m["path"])}"', trace)
    return program


def save_pair(out: Path, arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]], model: DigitsNet) -> None:
    """Write both files into `out`, each complete or not at all.

    Raises:
        RuntimeError: the saved program computes other scores than the network it was made from.
    """
    x_test = torch.from_numpy(arrays["x_test"])
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out) as folder:
        npz, pt2 = Path(folder, "digits.npz"), Path(folder, "digits.pt2")
        np.savez_compressed(npz, **arrays)
        torch.export.save(export(model, x_test[:2]), pt2)
        with torch.no_grad():
            difference = (torch.export.load(pt2).module()(x_test) - model(x_test)).abs().max().item()
        if not difference <= MAX_DIFFERENCE:
            raise RuntimeError(f"digits.pt2: scores differ from the network's by {difference}, above {MAX_DIFFERENCE}")
        npz.replace(out / npz.name)
        pt2.replace(out / pt2.name)


def main() -> int:
    """Exit code 0 with both files written, 1 with none when the accuracy is too low."""
    parser = argparse.ArgumentParser(description="Train the digits example and write digits.npz and digits.pt2.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to [this script's]")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arrays = load_split()
    model = train(torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"]))
    with torch.no_grad():
        predicted = model(torch.from_numpy(arrays["x_test"])).argmax(1).numpy()
    n_right, n_test = int((predicted == arrays["y_test"]).sum()), len(predicted)
    print(f"test accuracy {n_right / n_test:.4f} ({n_right} of {n_test})")
    if n_right < MIN_ACCURACY * n_test:
        print(f"nothing written: the accuracy is below {MIN_ACCURACY}", file=sys.stderr)
        return 1
    save_pair(out, arrays, model)
    print(f"wrote digits.npz and digits.pt2 to {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
