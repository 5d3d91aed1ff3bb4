"""Writes our own golden recordings, once, from the top of the checkout:

    python -m tests.golden.record TARGET... >> tests/golden/hashes.txt

For each datasheet two files, `TARGET-spikes.golden.h5` and `TARGET-currents.golden.h5`: a network that uses what its
arithmetic offers (features.py), and all that the core gave. What is there already is refused, and never overwritten by
this script. `hashes.txt` has a line for each file, which test_own_goldens.py holds it against. A recording keeps the
network itself, so features.py may change for new ones. Core and oracle must agree before anything is written.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from neuroport.chip.oracle import run_oracle
from neuroport.chip.target import load_target
from neuroport.validation.divergence import compare
from neuroport.validation.golden import SUFFIX, record_run, write_golden
from tests.golden.features import KINDS, make

FOLDER = Path(__file__).parent


def record(name: str, kind: str, folder: Path) -> str:
    """Write one; the line for hashes.txt."""
    target = load_target(name)
    network, inputs = make(target, kind)
    run = record_run(network, inputs, target)
    found = compare(network, inputs, run.trace, run_oracle(network, inputs))
    if found.mismatches:
        raise SystemExit(f"core and oracle differ: {found.first_mismatch}")
    path = folder / f"{target.name}-{kind}{SUFFIX}"
    write_golden(path, run)
    return line_of(path)


def line_of(path: Path) -> str:
    """As sha256sum prints it."""
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"


def main(names: Sequence[str], folder: Path = FOLDER) -> None:
    """Write those of these datasheets and print their lines."""
    for name in names:
        for kind in KINDS:
            sys.stdout.write(record(name, kind, folder) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
