"""neuroport takes a trained neural network to a neuromorphic chip and proves, spike for spike, what arrived there."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from neuroport.version import __version__

if TYPE_CHECKING:
    from neuroport.ann.load import load_ann
    from neuroport.ann.simplify import simplify
    from neuroport.backends.loihi.netx_read import read_netx
    from neuroport.backends.nir.verbs import export_nir, read_nir
    from neuroport.chip.core import run_core
    from neuroport.chip.core.record import Record
    from neuroport.chip.digest import network_hash
    from neuroport.chip.inputs import EncodedInputs, encode_inputs
    from neuroport.chip.oracle import run_oracle
    from neuroport.chip.quantize import quantize
    from neuroport.chip.target import load_target
    from neuroport.engine import evaluate_samples, open_engine
    from neuroport.errors import NeuroportError
    from neuroport.mapping.activity import measure
    from neuroport.mapping.mapped import map_to_cores
    from neuroport.normalize.convert import convert
    from neuroport.normalize.predict import predict_relu1
    from neuroport.normalize.recipe import load_recipe
    from neuroport.normalize.search import choose_percentile
    from neuroport.snn.over_time import accuracy_over_time
    from neuroport.snn.simulate import simulate
    from neuroport.validation.diagnosis import diagnose
    from neuroport.validation.divergence import compare
    from neuroport.validation.golden import check_golden, record_golden
    from neuroport.verbs.bundle_diff import diff_bundles
    from neuroport.verbs.deployment import Deployment, deploy
    from neuroport.verbs.evaluate import EvaluateOptions, evaluate
    from neuroport.verbs.exchange import export_netx, verify_netx
    from neuroport.verbs.fitting import MapOptions, fit, map_model
    from neuroport.verbs.options import DeployOptions
    from neuroport.verbs.recheck import validate
    from neuroport.verbs.search.options import SearchOptions
    from neuroport.verbs.search.run import search

__all__ = [
    "DeployOptions",
    "Deployment",
    "EncodedInputs",
    "EvaluateOptions",
    "MapOptions",
    "NeuroportError",
    "Record",
    "SearchOptions",
    "__version__",
    "accuracy_over_time",
    "check_golden",
    "choose_percentile",
    "compare",
    "convert",
    "deploy",
    "diagnose",
    "diff_bundles",
    "encode_inputs",
    "evaluate",
    "evaluate_samples",
    "export_netx",
    "export_nir",
    "fit",
    "load_ann",
    "load_recipe",
    "load_target",
    "map_model",
    "map_to_cores",
    "measure",
    "network_hash",
    "open_engine",
    "predict_relu1",
    "quantize",
    "read_netx",
    "read_nir",
    "record_golden",
    "run_core",
    "run_oracle",
    "search",
    "simplify",
    "simulate",
    "validate",
    "verify_netx",
]

# Imported at first use: `neuroport --help` must not wait for torch.
_HOME = {
    "DeployOptions": "neuroport.verbs.options",
    "Deployment": "neuroport.verbs.deployment",
    "EncodedInputs": "neuroport.chip.inputs",
    "EvaluateOptions": "neuroport.verbs.evaluate",
    "MapOptions": "neuroport.verbs.fitting",
    "NeuroportError": "neuroport.errors",
    "Record": "neuroport.chip.core.record",
    "SearchOptions": "neuroport.verbs.search.options",
    "accuracy_over_time": "neuroport.snn.over_time",
    "check_golden": "neuroport.validation.golden",
    "choose_percentile": "neuroport.normalize.search",
    "compare": "neuroport.validation.divergence",
    "convert": "neuroport.normalize.convert",
    "deploy": "neuroport.verbs.deployment",
    "diagnose": "neuroport.validation.diagnosis",
    "diff_bundles": "neuroport.verbs.bundle_diff",
    "encode_inputs": "neuroport.chip.inputs",
    "evaluate": "neuroport.verbs.evaluate",
    "evaluate_samples": "neuroport.engine",
    "export_netx": "neuroport.verbs.exchange",
    "export_nir": "neuroport.backends.nir.verbs",
    "fit": "neuroport.verbs.fitting",
    "load_ann": "neuroport.ann.load",
    "load_recipe": "neuroport.normalize.recipe",
    "load_target": "neuroport.chip.target",
    "map_model": "neuroport.verbs.fitting",
    "map_to_cores": "neuroport.mapping.mapped",
    "measure": "neuroport.mapping.activity",
    "network_hash": "neuroport.chip.digest",
    "open_engine": "neuroport.engine",
    "predict_relu1": "neuroport.normalize.predict",
    "quantize": "neuroport.chip.quantize",
    "read_netx": "neuroport.backends.loihi.netx_read",
    "read_nir": "neuroport.backends.nir.verbs",
    "record_golden": "neuroport.validation.golden",
    "run_core": "neuroport.chip.core",
    "run_oracle": "neuroport.chip.oracle",
    "search": "neuroport.verbs.search.run",
    "simplify": "neuroport.ann.simplify",
    "simulate": "neuroport.snn.simulate",
    "validate": "neuroport.verbs.recheck",
    "verify_netx": "neuroport.verbs.exchange",
}


def __getattr__(name: str) -> Any:
    """The public verb of that name."""
    if name not in _HOME:
        raise AttributeError(f"module 'neuroport' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Names for completion."""
    return sorted(__all__)
