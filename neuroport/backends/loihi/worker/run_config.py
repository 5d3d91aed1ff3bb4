"""Lava's run configuration: what chooses the processors that the processes run on."""

from __future__ import annotations

import os

from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg, RunConfig

VARIABLE = "NEUROPORT_LAVA_RUN_CONFIG"  # what the backend asks for; the simulator if it asks for nothing


def run_config() -> RunConfig:
    """Loihi2SimCfg, or Loihi2HwCfg where the backend of a board asked for it.

    Raises:
        ValueError: it asked for another one.

    Source: lava-nc 0.10.0, lava/magma/core/run_configs.py l.420-486. Without Intel's extension a Loihi2HwCfg can be
    made, but not run: the classes that it compares models with are not there (l.16-24).
    """
    known = {"Loihi2SimCfg": Loihi2SimCfg, "Loihi2HwCfg": Loihi2HwCfg}
    name = os.environ.get(VARIABLE, "Loihi2SimCfg")
    if name not in known:
        raise ValueError(f"{VARIABLE} is '{name}', one of {', '.join(known)} is possible")
    return known[name](select_tag="fixed_pt")
