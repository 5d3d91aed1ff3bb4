"""What `neuroport deploy` can be told, and the command line that says the same."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from neuroport.snn.network import Reset
from neuroport.verbs.loading import Source

_FLAGS = {"eval_samples": "eval", "dt_s": "dt"}  # those not named as their option is


@dataclass(frozen=True)
class DeployOptions(Source):
    """What `neuroport deploy` can be told; model, data and seed: see Source.

    target, recipe: names or YAML files; recipe None is the target's default. neuron: of those the target has, None for
    the one that is right most often on calibration samples. via: a format of other tools ('netx') that
    the network takes its way to the simulator through, and the bundle holds. steps: None for the recipe's, or for
    those of recorded spikes. samples: to the backend, or sample_numbers: which of the test part, from 0. eval_samples:
    test images for accuracy, those of the backend among them, None for all. workers: of the vendor's simulator that
    share the samples, None by processors. scheduler, shared: who runs the core on the samples for accuracy, see
    open_engine. blame: whether to measure what each layer costs, None for where the core lost
    accuracy. out: bundle directory, None for neuroport-out/<model>-<target>. reset, dt_s: of a .nir file that does not
    say them (read_nir).
    """

    target: str | Path = "loihi-sim"
    backend: str | None = None
    via: str | None = None
    recipe: str | Path | None = None
    neuron: str | None = None
    steps: int | None = None
    samples: int = 20
    sample_numbers: tuple[int, ...] = ()
    eval_samples: int | None = 1000
    workers: int | None = None
    scheduler: str = "none"
    shared: Path | None = None
    blame: bool | None = None
    out: Path | None = None
    reset: Reset | None = None
    dt_s: float | None = None

    @property
    def n_backend(self) -> int:
        """Samples to the backend."""
        return len(self.sample_numbers) or self.samples


def command_of(options: DeployOptions) -> str:
    """The command line of these options, but for the place of the bundle; what is left at its default is left out."""
    parts = ["neuroport", "deploy"]
    if options.model is not None:
        is_module = isinstance(options.model, torch.nn.Module)
        parts.append("MODULE" if is_module else shlex.quote(str(options.model)))
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name in ("model", "out") or value == f.default:
            continue
        flag = _FLAGS.get(f.name, f.name.replace("_", "-"))
        if isinstance(value, bool):
            parts.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else "0" if value is None else str(value)
        parts.append(f"--{flag} {shlex.quote(text)}")
    return " ".join(parts)
