"""Linear nodes of the ANN graph as operators of projections."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array, eye_array, hstack

from neuroport.ann import graph as ann
from neuroport.ann.graph import FloatArray, Node
from neuroport.snn.operators import (
    Conv2d,
    ConvGeometry,
    ConvTranspose2d,
    Dense,
    Gather,
    Part,
    Resample,
    Scale,
    Shape,
    Sparse,
    as_image,
    conv_geometry,
)


def of_node(node: Node, in_shape: Shape) -> tuple[Part, FloatArray | None, bool]:
    """(operator, what it adds, whether it is plain: no trained weights, nothing negative) of a linear node."""
    match node.op:
        case ann.Conv2d(weight, bias, stride, padding, dilation, groups):
            geometry = conv_geometry(in_shape, weight.shape, stride, padding, dilation, groups)
            return Conv2d(weight, geometry), bias[:, None, None], False
        case ann.ConvTranspose2d(weight, bias, stride, padding, dilation, groups):
            kernel = (weight.shape[2], weight.shape[3])
            sides = (as_image(in_shape), as_image(node.shape))
            geometry = ConvGeometry(*sides, kernel, stride, padding, dilation, groups)
            return ConvTranspose2d(weight, geometry), bias[:, None, None], False
        case ann.Linear(weight, bias):
            return Dense(weight, in_shape, node.shape), bias, False
        case ann.Affine(gain, offset):
            return Scale(gain, node.shape), offset, False
        case ann.AvgPool2d():
            return _average(node.op, in_shape, node.shape), None, True
        case ann.Resample(rows, cols):
            return Resample(rows, cols, in_shape), None, bool((rows >= 0).all() and (cols >= 0).all())
        case ann.Gather(index):
            return Gather(index, in_shape, node.shape), None, True
    raise TypeError(f"node '{node.name}' is not linear")


def placed(shape: Shape, whole: Shape, axis: int, begin: int) -> Gather:
    """The operator that puts a signal of `shape` into a larger one at a position of an axis, zeros elsewhere."""
    index = np.full(whole, -1, np.int64)
    inside = tuple(slice(begin, begin + n) if a == axis else slice(None) for a, n in enumerate(shape))
    index[inside] = np.arange(math.prod(shape)).reshape(shape)
    return Gather(index.reshape(-1), shape, whole)


def joined_signs(shape: Shape, n_signs: int, scale: FloatArray) -> Part:
    """The input's values from the rates of its channels: scale * rate, or scale * (rate on - rate off)."""
    if n_signs == 1:
        return Scale(scale.reshape(shape if scale.size > 1 else (1,) * len(shape)), shape)
    if len(shape) == 1:
        eye = eye_array(shape[0], format="csr") * (scale if scale.size > 1 else scale[0])
        return Sparse(csr_array(hstack([eye, -eye])), (n_signs * shape[0],), shape)
    image = as_image(shape)
    doubled = (n_signs * image[0], image[1], image[2])
    weight = np.concatenate([np.eye(image[0]), -np.eye(image[0])], 1)[:, :, None, None] * scale[0]
    return Conv2d(weight, ConvGeometry(doubled, image, (1, 1)))


def _average(op: ann.AvgPool2d, in_shape: Shape, out_shape: Shape) -> Part:
    """The pool as a depthwise convolution, or as a resampling where its divisor changes at the border."""
    c, h, w = as_image(in_shape)
    image = as_image(out_shape)
    geometry = ConvGeometry((c, h, w), image, op.kernel, op.stride, op.padding, groups=c)
    is_padded = op.padding != (0, 0)
    is_regular = all(far <= p for far, p in zip(geometry.far_padding, op.padding, strict=True))
    if is_regular and (op.divisor or not is_padded or op.count_include_pad):
        weight = np.full((c, 1, *op.kernel), 1.0 / (op.divisor or math.prod(op.kernel)))
        return Conv2d(weight, geometry)
    rows, cols = _average_matrix(op, 0, h, image[1]), _average_matrix(op, 1, w, image[2])
    return Resample(rows, cols, (c, h, w))


def _average_matrix(op: ann.AvgPool2d, axis: int, n_in: int, n_out: int) -> FloatArray:
    """[n_out, n_in] of the pool along one axis: its divisor is the product of those of both axes."""
    eye = torch.eye(n_in, dtype=torch.float64)[None]
    k, s, p = op.kernel[axis], op.stride[axis], op.padding[axis]
    made = F.avg_pool1d(eye, k, s, p, op.ceil_mode, op.count_include_pad)[0].numpy().T
    if op.divisor:
        made = (made > 0) * op.divisor**-0.5
    return np.ascontiguousarray(made[:n_out])
