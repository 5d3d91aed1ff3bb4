"""Writes our own golden recordings, once, from the top of the checkout:

    python -m tests.golden.record TARGET... >> tests/golden/hashes.txt

For each datasheet, or each of its kinds of neurons (`TARGET.NEURON`), two files: `TARGET-spikes.golden.h5` and
`TARGET-currents.golden.h5`: a network that uses what its
arithmetic offers (features.py), and all that the core gave. What is there already is refused, and never overwritten by
this script. `hashes.txt` has a line for each file, which test_own_goldens.py holds it against. A recording keeps the
network itself, so features.py may change for new ones. Core and oracle must agree before anything is written.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from neuroport.chip.oracle import run_oracle
from neuroport.chip.target import Target, load_target
from neuroport.validation.divergence import compare
from neuroport.validation.golden import SUFFIX, record_run, write_golden
from tests.golden.features import KINDS, make

FOLDER = Path(__file__).parent


def sheets_of(name: str) -> dict[str, Target]:
    """A datasheet by its name, or with each of its kinds of neurons by name.neuron."""
    target = load_target(name)
    neurons = getattr(target, "neurons", {})
    return {f"{name}.{neuron}": target.with_neuron(neuron) for neuron in neurons} or {name: target}


def record(label: str, target: Target, kind: str, folder: Path) -> str:
    """Write one; the line for hashes.txt."""
    network, inputs = make(target, kind)
    run = record_run(network, inputs, target)
    found = compare(network, inputs, run.trace, run_oracle(network, inputs))
    if found.mismatches:
        raise SystemExit(f"core and oracle differ: {found.first_mismatch}")
    path = folder / f"{label}-{kind}{SUFFIX}"
    write_golden(path, run)
    return line_of(path)


def line_of(path: Path) -> str:
    """As sha256sum prints it."""
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"


def main(names: Sequence[str], folder: Path = FOLDER) -> None:
    """Write those of these datasheets and print their lines."""
    for name in names:
        for (label, target), kind in product(sheets_of(name).items(), KINDS):
            sys.stdout.write(record(label, target, kind, folder) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
