"""The one place where onnxruntime is opened."""

from __future__ import annotations

import importlib
from typing import Any

_THREADS = 2
_QUIET = 4  # fatal messages only: what matters comes as one error


def open_session(model: bytes) -> Any:
    """An onnxruntime InferenceSession of a serialized model, on the CPU.

    Raises:
        Exception: whatever onnxruntime says about a model that it does not run.
    """
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
