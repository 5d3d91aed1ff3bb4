"""One tree of named errors: what neuroport says when it refuses.

Every message names the object, what was found, what is allowed, by whom, and what to do. The exit code of the
command line follows from the branch of the tree: wrong use, a network that cannot be converted or does not fit,
or a toolchain that is missing or failed.
"""

from __future__ import annotations

from typing import ClassVar


class NeuroportError(Exception):
    """The root: anything neuroport refuses to do, in one sentence."""

    exit_code: ClassVar[int] = 2


class UsageError(NeuroportError):
    """The command, a file or an argument is wrong; nothing was run."""

    exit_code = 2


class DataError(UsageError):
    """A data file is unreadable, of the wrong shape, or lacks labels."""


class ModelFileError(UsageError):
    """A model file is missing, damaged, or of a kind that is not read (a pickle may run code)."""


class DatasheetError(UsageError):
    """A target datasheet or a recipe has an unknown key, a key twice, or a value out of range."""


class BundleError(UsageError):
    """A deployment directory is missing, truncated, edited, or not ours to overwrite."""


class GoldenError(UsageError):
    """A golden recording is missing, damaged, edited, of another format, or not to be overwritten."""


class ConversionError(NeuroportError):
    """The network cannot be converted or does not fit the chip."""

    exit_code = 3


class UnsupportedOperatorError(ConversionError):
    """The network uses an operator that is not converted; silently skipping it would change its meaning."""


class InvalidNetworkError(ConversionError):
    """The network itself is broken: NaN weights, a silent layer, shapes that do not meet."""


class DoesNotFitError(ConversionError):
    """A value is outside a range of the chip and no scale brings it inside."""


class ToolchainError(NeuroportError):
    """A vendor toolchain is missing, cannot be made, or failed while it ran."""

    exit_code = 4


class ToolchainMissingError(ToolchainError):
    """No interpreter, no package index, or no room for the toolchain's environment."""


class WorkerError(ToolchainError):
    """The toolchain's process crashed, hung or was killed; its log says where."""


class SelfTestError(ToolchainError):
    """Compiled code of the core does not give the reference's spikes on this machine."""


class EngineError(ToolchainError):
    """A cluster's scheduler does not answer, is gone, or has nobody who works. `partial`: what was done before."""

    partial: object = None
