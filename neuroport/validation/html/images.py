"""Small pictures as data URIs: input images and spikes. PNG, written with zlib alone."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SPIKE = (47, 124, 196, 255)  # readable on light and dark pages
_MOST_ROWS = 96


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """A PNG of pixels [H, W, 4], red, green, blue and alpha, as a data URI.

    Source: PNG specification, third edition, 5.2 (signature), 5.3 (chunks), 11.2.1 (header), 11.2.3 (image data).
    """
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 4 * width), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def picture(image: NDArray[np.floating]) -> str | None:
    """An input [C, H, W] of one or three channels, its range brought to black and white; None of other shapes."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        return None
    low, high = float(image.min()), float(image.max())
    grey = np.rint(255 * (image - low) / ((high - low) or 1)).astype(np.uint8)
    pixels = np.full((*image.shape[1:], 4), 255, np.uint8)
    pixels[:, :, :3] = np.moveaxis(grey, 0, 2)
    return data_uri(pixels)


def some_neurons(spikes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[T, n] of spikes [T, *shape]: the neurons, or that many evenly chosen from those that fire."""
    flat = spikes.reshape(len(spikes), -1)
    if flat.shape[1] <= _MOST_ROWS:
        return flat
    active = np.flatnonzero(flat.any(0))
    active = active if len(active) >= _MOST_ROWS else np.arange(flat.shape[1])
    chosen = active[np.linspace(0, len(active) - 1, _MOST_ROWS).astype(np.int64)]
    found: NDArray[np.uint8] = flat[:, chosen]
    return found


def spikes_picture(spikes: NDArray[np.uint8]) -> str:
    """Spikes [T, n] as a PNG, steps to the right; without a spike transparent."""
    pixels = np.zeros((spikes.shape[1], len(spikes), 4), np.uint8)
    pixels[spikes.T > 0] = _SPIKE
    return data_uri(pixels)
