"""The `netx` backend: the network as a file of lava-dl's netx, loaded back by netx itself and run on Lava."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from neuroport.backends.base import Job
from neuroport.backends.loihi.backend import LavaBackend, computes_as_lava
from neuroport.backends.loihi.netx_export import EXPONENT, check_input_decay, netx_layers, write_netx
from neuroport.chip.files import write_network
from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target
from neuroport.errors import DoesNotFitError, ToolchainMissingError, UsageError

NETWORK_FILE = "network.net"
_INT16_MAX = 32767


class NetxBackend(LavaBackend):
    """Runs what lava-dl's netx makes of a file: of the exported network, or of one that is given.

    Spikes are read from every layer's neurons, potentials of readouts by a port of Lava's, both from outside.
    """

    name = "netx"
    summary = "a netx file, loaded by Intel's lava-dl and run on its Lava simulator"
    builder = "netx_network"
    packages = ("lava-nc", "lava-dl", "numpy", "scipy")
    default_recipe = "hard-reset-unclamped"

    def __init__(self, file: Path | None = None) -> None:
        self.file = file

    def check(self, job: Job) -> None:
        """Refuse what netx cannot hold, and inputs that its neurons do not take.

        Raises:
            DoesNotFitError: layer, value and remedy are named. ToolchainMissingError: the target has no lava-dl.
        """
        sheet = job.target.toolchain
        if sheet is None or not any(r.startswith("lava-dl") for r in (*sheet.requires, *sheet.requires_no_deps)):
            raise ToolchainMissingError(
                f"target '{job.target.name}' names no toolchain with lava-dl, which netx is part of; use a Loihi target"
            )
        if self.file is None:
            netx_layers(job.network)
        elif not computes_as_lava(job.network.arithmetic):
            raise DoesNotFitError(f"'{self.file}' was read for an arithmetic that is not Lava's; read it again")
        for name, mantissa in job.inputs.currents.items():
            check_input_decay(job.network.by_name[name])
            exact = mantissa.astype(np.int64) << job.network.by_name[name].bias_exponent
            if (exact % (1 << EXPONENT)).any() or np.abs(exact >> EXPONENT).max(initial=0) > _INT16_MAX:
                raise DoesNotFitError(
                    f"layer '{name}': input currents {exact.min()} to {exact.max()}, netx's input neurons take 16 bits "
                    f"of multiples of 64; deploy with --via netx, which rounds them so"
                )

    def write_program(self, job: Job) -> None:
        """The file, and the integer network, which says what population each layer is."""
        write_network(job.work_dir / "network.h5", job.network)
        if self.file is None:
            write_netx(job.work_dir / NETWORK_FILE, job.network)
        else:
            shutil.copyfile(self.file, job.work_dir / NETWORK_FILE)

    def narrowed(self, target: Target) -> Target:
        """The target with what netx holds of it.

        Biases and input currents in steps of 64, weights without exponents, neurons that start at 0 and reset to zero.
        """
        a = target.arithmetic
        changes = {
            "weights": a.weights.model_copy(update={"exponent_max": 0}),
            "bias": a.bias.model_copy(update={"exponent_min": EXPONENT}),
            "resets": ("zero",),
            "two_compartments": (),
            "v_init": False,
            "gated_max_pool": False,
        }
        return target.model_copy(update={"arithmetic": a.model_copy(update=changes)})

    def refuse_neurons(self, recipe: str, *, reset: str, v_init: float, clamp: float) -> None:
        """netx's CUBA neurons reset to zero, start at 0 and never wait.

        Raises:
            UsageError: the recipe asks for others.
        """
        found = [f"reset '{reset}'"] if reset != "zero" else []
        found += [f"v_init {v_init:g}"] if v_init else []
        found += [f"clamp {clamp:g}"] if clamp else []
        if found:
            raise UsageError(
                f"recipe '{recipe}' needs {', '.join(found)}, netx's neurons reset to zero, start at 0 and have no "
                f"clamp; use --recipe {self.default_recipe}, or --backend lava"
            )

    def write_files(self, folder: Path, network: IntNetwork) -> None:
        """network.net."""
        write_netx(folder / NETWORK_FILE, network)
