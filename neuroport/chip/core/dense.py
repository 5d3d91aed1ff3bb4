"""Weight sums as matrix products, exact: for spikes so dense that a product is cheaper than their sum, and for devices.

A float32 product of integers is exact while no sum of one neuron's weights reaches 2^24, in any order of addition, if
nothing on the way rounds to fewer bits: no TF32, no bfloat16, no NNPACK, no Winograd transform. `exact_products` sees
to that, and `is_exact_in_floats` and `is_exact_in_bytes` try it on this machine before it is relied on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.chip.network import IntProjection
from neuroport.chip.oracle import weigh
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntWindow
from neuroport.snn.operators import Conv2d, ConvTranspose2d, Dense, Linear, Sparse, conv_geometry, prepared

_EXACT_FLOAT32 = 1 << 24


_SETTINGS = threading.Lock()
_N_INSIDE = [0]
_OUTER = ExitStack()


class Products:
    """What arrives at a population, from the spikes of all its inputs.

    is_split: excitatory and inhibitory weights are added up on their own.
    """

    def __init__(
        self,
        incoming: Sequence[IntProjection],
        sizes: Mapping[str, int],
        bound: int,
        *,
        is_split: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dtype = torch.float32 if bound < _EXACT_FLOAT32 else torch.float64
        self.functions: list[list[tuple[str, Linear]]] = []
        for sign in (1, -1) if is_split else (0,):
            operators = [(j.pre, operator_of(j, sizes[j.pre], sign)) for j in incoming]
            self.functions.append([(pre, prepared(op, self.dtype, device)) for pre, op in operators])

    def sums(self, spikes: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """[rows, N] for spikes [rows, N_in] of each input: one sum, or those of the two accumulators."""
        found = []
        for functions in self.functions:
            parts = [function(spikes[pre].to(self.dtype)).flatten(1) for pre, function in functions]
            found.append(torch.stack(parts).sum(0) if len(parts) > 1 else parts[0])
        return found


def operator_of(j: IntProjection, n_in: int, sign: int = 0) -> Dense | Conv2d | ConvTranspose2d | Sparse:
    """The synapses with weights in floats, which hold every int32; of one sign their magnitudes, where it is given."""
    if isinstance(j.synapse, IntWindow):
        raise TypeError(f"gate '{j.post}' adds no weights")
    weight = np.ldexp(j.synapse.mantissa.astype(np.float64), j.exponent)
    if sign:
        weight = np.maximum(sign * weight, 0)
    match j.synapse:
        case IntDense():
            return Dense(weight, (n_in,), (len(weight),))
        case IntConv2d(_, geometry):
            return Conv2d(weight, geometry)
        case IntConvTranspose2d(_, geometry):
            return ConvTranspose2d(weight, geometry)
        case IntSparse(_, columns, row_start):
            shape = (len(row_start) - 1, n_in)
            return Sparse(csr_array((weight, columns, row_start), shape), shape[1:], shape[:1])


@contextmanager
def exact_products() -> Iterator[None]:
    """Torch without what rounds to fewer bits, and on one thread: the core's own threads share the samples.

    The settings are the process's; they come back when the last one inside leaves, the number of threads, which is each
    thread's own, when this one does.
    """
    n_threads = torch.get_num_threads()
    with _SETTINGS:
        if not _N_INSIDE[0]:
            _OUTER.enter_context(_exact_settings())
        _N_INSIDE[0] += 1
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(n_threads)
        with _SETTINGS:
            _N_INSIDE[0] -= 1
            if not _N_INSIDE[0]:
                _OUTER.close()


@contextmanager
def _exact_settings() -> Iterator[None]:
    """Full float32 in products and convolutions, by the settings this torch has: older ones know one for all."""
    backends = (
        torch.backends.cuda.matmul,
        *(getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv")),
    )
    found = [b for b in backends if b is not None and hasattr(b, "fp32_precision")]
    held = [b.fp32_precision for b in found]
    precision = "" if found else torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.enabled
    try:
        for b in found:
            b.fp32_precision = "ieee"
        if not found:
            torch.set_float32_matmul_precision("highest")
        # without cuDNN a convolution on a GPU is a product of matrices: no TF32, no Winograd transform
        torch.backends.cudnn.enabled = False
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for b, before in zip(found, held, strict=True):
            b.fp32_precision = before
        if not found:
            torch.set_float32_matmul_precision(precision)


@cache
def is_exact_in_bytes() -> bool:
    """Whether products of bytes give the right integers here, with weights at both ends of their range.

    On CPUs without such instructions torch's pairs of products saturate at 16 bits.
    """
    weight, spikes = _extreme_weights(), _extreme_spikes()
    try:
        found = torch._int_mm(torch.from_numpy(spikes.astype(np.int8)), torch.from_numpy(weight.astype(np.int8)))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return bool((found.numpy() == spikes.astype(np.int64) @ weight).all())


@cache
def is_exact_in_floats(device: str = "cpu") -> bool:
    """Whether matrix products and convolutions in float32 give the right integers on a device, up to 2^24."""
    weight, spikes = _extreme_weights(), _extreme_spikes()
    weight *= (_EXACT_FLOAT32 - 1) // int(np.abs(weight).sum(0).max())
    as_image = spikes.reshape(16, 8, 8, 16)
    with exact_products():
        x, w = (torch.as_tensor(a, dtype=torch.float32, device=device) for a in (spikes, weight))
        image = torch.as_tensor(as_image, dtype=torch.float32, device=device)
        kernel = w[: 8 * 9].T.reshape(-1, 8, 3, 3).contiguous()
        found = [(x @ w).cpu(), torch.nn.functional.conv2d(image, kernel, padding=1).cpu()]
    taps = kernel.cpu().numpy().astype(np.int32)
    by_oracle = weigh(IntConv2d(taps, conv_geometry((8, 8, 16), taps.shape, (1, 1), (1, 1), (1, 1), 1)), as_image[None])
    expected = [spikes.astype(np.int64) @ weight, by_oracle[0]]
    return all(bool((a.double().numpy() == b).all()) for a, b in zip(found, expected, strict=True))


def _extreme_weights() -> NDArray[np.int64]:
    """[1024, 64] of -128, -127 and 127, some columns of one sign."""
    weight = np.random.default_rng(0).choice([-128, -127, 127], (1024, 64))
    weight[:, 0], weight[:, 1] = 127, -128
    return weight.astype(np.int64)


def _extreme_spikes() -> NDArray[np.uint8]:
    """[16, 1024] of 0 and 1, the first row all ones."""
    spikes = (np.random.default_rng(1).random((16, 1024)) < 0.5).astype(np.uint8)
    spikes[0] = 1
    return spikes
