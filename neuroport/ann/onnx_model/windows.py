"""Where the windows of ONNX convolutions and pools lie: explicit pads, automatic pads, and rounding up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroport.ann.onnx_model.call import Array, Call


@dataclass(frozen=True)
class WindowAxis:
    """Windows along one axis: `n_out` of `kernel` numbers each, the first one beginning at -begin."""

    n_in: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    n_out: int

    @property
    def span(self) -> int:
        """Numbers from the first to the last of one window."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def reach(self) -> int:
        """Numbers from the first one of the first window to the last one of the last."""
        return (self.n_out - 1) * self.stride + self.span


def window_axes(call: Call, kernel: Sequence[int], sizes: Sequence[int]) -> list[WindowAxis]:
    """The windows along each spatial axis of a convolution or a pool.

    Raises:
        UnsupportedOperatorError: the numbers do not belong together, or a window does not fit.
    """
    n = len(kernel)
    strides, dilations = call.ints("strides", (1,) * n), call.ints("dilations", (1,) * n)
    pads, auto = call.ints("pads", (0,) * (2 * n)), call.attr("auto_pad", "NOTSET")
    if len(sizes) != n or len(strides) != n or len(dilations) != n or len(pads) != 2 * n:
        raise call.writer.refuse(
            f"kernel {list(kernel)}, strides {strides}, dilations {dilations} and pads {pads} do not fit a sample with "
            f"spatial axes {list(sizes)}"
        )
    if min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
        raise call.writer.refuse(f"kernel {list(kernel)}, strides {strides} and pads {pads} must not be negative")
    axes = [
        _axis(call, auto, *numbers)
        for numbers in zip(sizes, kernel, strides, dilations, pads[:n], pads[n:], strict=True)
    ]
    if min(axis.n_out for axis in axes) < 1:
        raise call.writer.refuse(f"the kernel {list(kernel)} does not fit into the input {list(sizes)}")
    return axes


def _axis(
    call: Call, auto: str, n_in: int, kernel: int, stride: int, dilation: int, begin: int, end: int
) -> WindowAxis:
    span = (kernel - 1) * dilation + 1
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        n_out = -(-n_in // stride)
        if call.node.op_type != "Conv" and (dilation != 1 or (n_out - 1) * stride + span < n_in):
            # Pools of onnxruntime reckon without the dilation, and with pads below 0.
            raise call.writer.refuse(
                "automatic pads of a pool with dilations, or with a window below its stride, are not clear; export "
                "with explicit pads"
            )
        total = max((n_out - 1) * stride + span - n_in, 0)
        begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        return WindowAxis(n_in, kernel, stride, dilation, begin, total - begin, n_out)
    if auto == "VALID":
        begin = end = 0
    elif auto != "NOTSET":
        raise call.writer.refuse(f"auto_pad '{auto}' is not known; NOTSET, SAME_UPPER, SAME_LOWER and VALID are")
    free = n_in + begin + end - span
    n_out = free // stride + 1
    if call.attr("ceil_mode", 0):
        n_out = -(-free // stride) + 1
        if (n_out - 1) * stride >= n_in + begin:  # a window that would begin in the padding at the end is left out
            n_out -= 1
    return WindowAxis(n_in, kernel, stride, dilation, begin, end, n_out)


def zero_padded(call: Call, x: str, axes: Sequence[WindowAxis]) -> str:
    """x [C, ...] with exactly the zeros that the windows reach, and without the numbers behind the last one."""
    index = np.arange(call.writer.nodes[x].size).reshape(call.writer.shape(x))
    cut = index[(slice(None), *(slice(0, max(a.reach - a.begin, 0)) for a in axes))]
    widths = [(a.begin, max(a.reach - a.begin - a.n_in, 0)) for a in axes]
    return call.writer.gather(x, np.pad(cut, [(0, 0), *widths], constant_values=-1))


def repeat_padded(call: Call, x: str, axes: Sequence[WindowAxis]) -> str:
    """x [C, ...] padded with numbers of the same windows, which changes no maximum.

    A position outside the image takes the nearest number a whole count of dilations away: every window that covers
    the position and any number of the image covers that one.
    """
    index = np.arange(call.writer.nodes[x].size).reshape(call.writer.shape(x))
    for number, axis in enumerate(axes, start=1):
        index = index.take(_nearest_in_window(axis), number)
    return call.writer.gather(x, index)


def _nearest_in_window(axis: WindowAxis) -> Array:
    position = np.arange(-axis.begin, axis.reach - axis.begin)
    phase = position % axis.dilation
    last = phase + (axis.n_in - 1 - phase) // axis.dilation * axis.dilation
    inside: Array = np.clip(np.clip(position, phase, last), 0, axis.n_in - 1)  # at last: what no window covers
    return inside


def check_windows(call: Call, axes: Sequence[WindowAxis]) -> None:
    """Refuse a pool that asks for the maximum or the mean of no numbers."""
    if any((count_inside(axis, with_padding=False) == 0).any() for axis in axes):
        raise call.writer.refuse("a window lies in the padding alone, so that its result is not a number; pad less")


def count_inside(axis: WindowAxis, *, with_padding: bool) -> Array:
    """[n_out]: numbers of each window that count for its mean, those of the declared padding among them or not."""
    starts = np.arange(axis.n_out) * axis.stride - axis.begin
    covers = starts[:, None] + np.arange(axis.kernel) * axis.dilation
    low, high = (-axis.begin, axis.n_in + axis.end) if with_padding else (0, axis.n_in)
    counts: Array = ((covers >= low) & (covers < high)).sum(1)
    return counts
