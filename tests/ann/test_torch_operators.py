"""Every operator that is converted computes what torch computes: alone, at other batch sizes, decomposed, batch 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neuroport.ann.from_torch import export_module, graph_from_exported
from neuroport.errors import ConversionError
from tests.ann.torch_nets import Net, assert_same, randomize, samples

IMAGE, LINE, ROW = (4, 6, 8), (4, 9), (6,)
C = torch.arange(1.0, 5.0)[:, None, None] / 2  # one number for each of the image's channels


def qcfs(s: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.floor(torch.clamp(x / 1.5, 0, 1) * 4 + 0.5) / 4 * 1.5


def twice(s: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = F.relu(s.conv(x))
    return s.conv(y)


def gathered_sum(s: Any, x: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(x)
    for part in (x, F.relu(x), 2 * x):
        total += part
    return total


def class_token(s: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([s.fc.weight[None, :1].expand(x.size(0), -1, -1), x.flatten(2)], 1)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(4, 6, 3, 2, 1, groups=2), LINE),
    "conv1d same": (nn.Conv1d(4, 2, 3, padding="same", dilation=2), LINE),
    "conv1d same, even": (nn.Conv1d(4, 2, 4, padding="same"), LINE),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 3), 2), IMAGE),
    "conv2d same, even": (nn.Conv2d(4, 3, (2, 3), padding="same", dilation=(3, 1)), IMAGE),
    "conv2d valid": (nn.Conv2d(4, 3, 2, padding="valid"), IMAGE),
    "conv2d depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), IMAGE),
    "conv2d circular": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), IMAGE),
    "conv2d reflect": (nn.Conv2d(4, 3, 3, padding=(2, 1), padding_mode="reflect"), IMAGE),
    "conv2d replicate": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="replicate"), IMAGE),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2), LINE),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, (3, 2), (3, 2), (1, 0), (2, 1), 2, dilation=(2, 1)), IMAGE),
    "linear of images": (nn.Linear(8, 3), IMAGE),
    "linear without bias": (nn.Linear(6, 3, bias=False), ROW),
    "batch_norm1d": (nn.BatchNorm1d(6), ROW),
    "batch_norm1d of lines": (nn.BatchNorm1d(4), LINE),
    "batch_norm2d": (nn.BatchNorm2d(4, affine=False), IMAGE),
    "instance_norm": (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE),
    "relu6": (nn.ReLU6(), ROW),
    "hardtanh": (nn.Hardtanh(-0.5, 0.7), ROW),
    "hardsigmoid": (nn.Hardsigmoid(), ROW),
    "leaky_relu": (nn.LeakyReLU(0.2), IMAGE),
    "leaky_relu in place": (nn.Sequential(nn.Linear(6, 6), nn.LeakyReLU(0.2, inplace=True)), ROW),
    "prelu": (nn.PReLU(), IMAGE),
    "prelu per channel": (nn.PReLU(4), IMAGE),
    "prelu of features": (nn.PReLU(6), ROW),
    "rrelu": (nn.RReLU(0.1, 0.4), ROW),
    "threshold": (nn.Threshold(0.0, 0.0), ROW),
    "avg_pool1d": (nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False), LINE),
    "avg_pool2d": (nn.AvgPool2d((3, 2), (2, 3), (1, 0), ceil_mode=True), IMAGE),
    "avg_pool2d divisor": (nn.AvgPool2d(2, divisor_override=3), IMAGE),
    "adaptive_avg_pool1d": (nn.AdaptiveAvgPool1d(3), LINE),
    "adaptive_avg_pool1d uneven": (nn.AdaptiveAvgPool1d(4), LINE),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d((3, 4)), IMAGE),
    "adaptive_avg_pool2d one": (nn.AdaptiveAvgPool2d(1), IMAGE),
    "adaptive_avg_pool2d uneven": (nn.AdaptiveAvgPool2d((4, None)), IMAGE),
    "adaptive_avg_pool2d larger": (nn.AdaptiveAvgPool2d((7, 5)), IMAGE),
    "max_pool1d": (nn.MaxPool1d(3, 2, 1), LINE),
    "max_pool2d": (nn.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True), IMAGE),
    "adaptive_max_pool1d": (nn.AdaptiveMaxPool1d(3), LINE),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d((2, 4)), IMAGE),
    "upsample nearest": (nn.Upsample(scale_factor=2), IMAGE),
    "upsample nearest to a size": (nn.Upsample((7, 5)), IMAGE),
    "upsample nearest of lines": (nn.Upsample(scale_factor=3), LINE),
    "upsample bilinear": (nn.Upsample(scale_factor=(1.5, 2), mode="bilinear"), IMAGE),
    "upsample bilinear corners": (nn.UpsamplingBilinear2d((9, 5)), IMAGE),
    "upsample bicubic": (nn.Upsample((9, 5), mode="bicubic"), IMAGE),
    "upsample linear": (nn.Upsample(scale_factor=1.7, mode="linear"), LINE),
    "pixel_shuffle": (nn.PixelShuffle(2), IMAGE),
    "pixel_unshuffle": (nn.PixelUnshuffle(2), IMAGE),
    "channel_shuffle": (nn.ChannelShuffle(2), IMAGE),
    "unfold": (nn.Unfold(3, padding=1, stride=2), IMAGE),
    "constant pad": (nn.ConstantPad2d((1, 0, 2, -1), 0.7), IMAGE),
    "zero pad": (nn.ZeroPad2d((1, 0, 2, 1)), IMAGE),
    "reflection pad of lines": (nn.ReflectionPad1d((2, 1)), LINE),
    "flatten": (nn.Flatten(2), IMAGE),
    "unflatten": (nn.Unflatten(1, (2, 3)), ROW),
    "softmax": (nn.Softmax(1), ROW),
    "softmax of lines": (nn.Softmax(-1), LINE),
    "log_softmax": (nn.LogSoftmax(1), ROW),
    "sigmoid": (nn.Sigmoid(), ROW),
    "tanh": (nn.Tanh(), ROW),
    "log_sigmoid": (nn.LogSigmoid(), ROW),
    "softmin": (nn.Softmin(1), ROW),
    "dropouts": (nn.Sequential(nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.ReLU()), IMAGE),
}

FUNCTIONS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "clamp": (lambda s, x: x.clamp(-0.5, 0.7), IMAGE),
    "clamp below": (lambda s, x: x.clamp(min=-0.3), IMAGE),
    "clamp above": (lambda s, x: x.clip(max=0.4), IMAGE),
    "clamp tensors": (lambda s, x: x.clamp(torch.tensor(-0.2), torch.tensor(0.9)), IMAGE),
    "clamp per channel": (lambda s, x: x.clamp(-C, C / 2), IMAGE),
    "clamp by an activation": (lambda s, x: x.clamp(min=2 * x - 1, max=torch.tensor(0.5)), IMAGE),
    "clamp_min": (lambda s, x: x.clamp_min(0.1), IMAGE),
    "clamp_max in place": (lambda s, x: (2 * x).clamp_max_(0.1), IMAGE),
    "qcfs": (qcfs, IMAGE),
    "round": (lambda s, x: torch.round(4 * x), IMAGE),
    "ceil": (lambda s, x: torch.ceil(4 * x), IMAGE),
    "floor divide": (lambda s, x: torch.div(x, 0.3, rounding_mode="floor"), IMAGE),
    "abs": (lambda s, x: x.abs(), IMAGE),
    "maximum": (lambda s, x: torch.maximum(x, 0.3 - 2 * x), IMAGE),
    "maximum of a constant": (lambda s, x: torch.maximum(C, x), IMAGE),
    "maximum with other rank": (lambda s, x: torch.max(x, x.amax((2, 3), keepdim=True) / 2), IMAGE),
    "minimum": (lambda s, x: torch.minimum(x, torch.tensor(0.3)), IMAGE),
    "minimum of two": (lambda s, x: torch.min(x, x.flip(1)), IMAGE),
    "add": (lambda s, x: x + F.relu(x), IMAGE),
    "add alpha": (lambda s, x: torch.add(x, F.relu(x), alpha=0.5), IMAGE),
    "add broadcast": (lambda s, x: x + x.mean((2, 3), keepdim=True), IMAGE),
    "add constant": (lambda s, x: (x + 0.5) + C[None], IMAGE),
    "sub": (lambda s, x: x - F.relu(x.flip(2)), IMAGE),
    "sub alpha": (lambda s, x: torch.sub(x, F.relu(x), alpha=3), IMAGE),
    "rsub": (lambda s, x: 1 - x, IMAGE),
    "constant minus": (lambda s, x: C - x, IMAGE),
    "mul": (lambda s, x: 2 * x * C, IMAGE),
    "mul that broadcasts": (lambda s, x: x[:, :1] * C, IMAGE),
    "div": (lambda s, x: x / 255 / C, IMAGE),
    "neg": (lambda s, x: -x, IMAGE),
    "matmul": (lambda s, x: x @ s.fc.weight.t(), IMAGE),
    "matmul of a vector": (lambda s, x: x @ s.fc.bias[:1].expand(8), IMAGE),
    "matmul from the left": (lambda s, x: s.fc.weight[:, :6] @ x, IMAGE),
    "mv": (lambda s, x: torch.mv(x, s.fc.weight[0, :6])[:, None], ROW),
    "addmm": (lambda s, x: torch.addmm(s.fc.bias, x, s.fc.weight[:, :6].t(), beta=2, alpha=0.5), ROW),
    "addmm with 2 axes": (lambda s, x: torch.addmm(s.fc.bias[None], x, s.fc.weight[:, :6].t()), ROW),
    "mean": (lambda s, x: x.mean((2, 3)), IMAGE),
    "mean of channels": (lambda s, x: x.mean(1, keepdim=True), IMAGE),
    "mean of unlike axes": (lambda s, x: x.mean((1, 3)), IMAGE),
    "sum": (lambda s, x: x.sum((1, 2, 3)).unsqueeze(1), IMAGE),
    "sum of a line": (lambda s, x: x.sum(-1, keepdim=True), LINE),
    "amax": (lambda s, x: x.amax((1, 3), keepdim=True), IMAGE),
    "amin": (lambda s, x: x.amin(2), IMAGE),
    "max over an axis": (lambda s, x: x.max(2)[0], IMAGE),
    "min over an axis": (lambda s, x: x.min(1, keepdim=True).values, IMAGE),
    "max_pool with indices": (lambda s, x: F.max_pool2d(x, 2, return_indices=True)[0], IMAGE),
    "cat": (lambda s, x: torch.cat([x, F.relu(x[:, 1:])], 1), IMAGE),
    "cat of rows": (lambda s, x: torch.cat([x, 2 * x], -1), IMAGE),
    "cat with zeros": (lambda s, x: torch.cat([x, torch.zeros(x.size(0), 2, *x.shape[2:])], 1), IMAGE),
    "cat with new zeros": (lambda s, x: torch.cat([x.new_zeros(x[:, :1].shape), x, torch.ones_like(x)], 1), IMAGE),
    "option A": (lambda s, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)), IMAGE),
    "class token": (class_token, (8, 2, 4)),
    "hstack": (lambda s, x: torch.hstack([x, 2 * x]), ROW),
    "stack": (lambda s, x: torch.stack([x, 2 * x], 2), IMAGE),
    "stack at the end": (lambda s, x: torch.stack([x, F.relu(x)], -1), ROW),
    "split": (lambda s, x: x.split([1, 3], 1)[1] + x.split(2, 1)[0][:, :1], IMAGE),
    "chunk": (lambda s, x: torch.cat(x.chunk(2, 1)[::-1], 1), IMAGE),
    "tensor_split": (lambda s, x: torch.tensor_split(x, 3, 1)[0], IMAGE),
    "unbind": (lambda s, x: x.unbind(1)[2] - x.unbind(1)[0], IMAGE),
    "slice": (lambda s, x: x[:, 1:, ::2, :-1], IMAGE),
    "select": (lambda s, x: x[:, -1, 2], IMAGE),
    "narrow": (lambda s, x: x.narrow(2, 1, 3), IMAGE),
    "index_select": (lambda s, x: x.index_select(1, torch.tensor([3, 0, 0])), IMAGE),
    "index": (lambda s, x: x[:, [2, 0]], IMAGE),
    "index with a mask": (lambda s, x: x[:, torch.tensor([True, False, True, True])], IMAGE),
    "flip": (lambda s, x: x.flip((1, 3)), IMAGE),
    "roll": (lambda s, x: x.roll((1, -2), (2, 3)), IMAGE),
    "pad": (lambda s, x: F.pad(x, (1, 2)), IMAGE),
    "pad with ones": (lambda s, x: F.pad(x, (1, 0, 0, 2), value=1.0), IMAGE),
    "transpose": (lambda s, x: x.transpose(1, 3), IMAGE),
    "permute": (lambda s, x: x.permute(0, 2, 3, 1), IMAGE),
    "swapaxes": (lambda s, x: x.swapaxes(2, 3).mT, IMAGE),
    "movedim": (lambda s, x: x.movedim(1, -1), IMAGE),
    "squeeze": (lambda s, x: x[:, :1].squeeze(1).unsqueeze(2), IMAGE),
    "view": (lambda s, x: x.view(x.size(0), 2, -1), IMAGE),
    "view with -1": (lambda s, x: x.view(-1, 8, 24), IMAGE),
    "reshape with arithmetic": (lambda s, x: x.reshape(x.size(0) * 4 // 4, 2, 2, 48), IMAGE),
    "expand": (lambda s, x: x[:, :1].expand(-1, 3, -1, -1), IMAGE),
    "expand_as": (lambda s, x: x.mean((2, 3), keepdim=True).expand_as(x), IMAGE),
    "repeat": (lambda s, x: x.repeat(1, 2, 1, 3), IMAGE),
    "tile": (lambda s, x: x.tile(2, 1), IMAGE),
    "repeat_interleave": (lambda s, x: x.repeat_interleave(2, 2), IMAGE),
    "casts and copies": (lambda s, x: x.clone().contiguous().detach().double().float() * 2, IMAGE),
    "type_as": (lambda s, x: x.type_as(s.fc.weight) + 1, IMAGE),
    "no_grad": (twice, IMAGE),
    "sum in a loop": (gathered_sum, IMAGE),
    "full_like": (lambda s, x: x + torch.full_like(x, 0.5), IMAGE),
    "weights of a buffer": (lambda s, x: x * torch.linspace(0, 1, 8), IMAGE),
    "functional in place": (lambda s, x: s.conv(x).mul_(2).add_(0.5).clamp_(-1, 2), IMAGE),
}


def module_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    if name in LAYERS:
        module, shape = LAYERS[name]
        return randomize(module), shape
    function, shape = FUNCTIONS[name]
    return randomize(Net(function, conv=nn.Conv2d(4, 4, 3, padding=1), fc=nn.Linear(8, 5))), shape


@pytest.mark.parametrize("name", [*LAYERS, *FUNCTIONS])
def test_an_operator_answers_as_torch_does(name: str) -> None:
    module, shape = module_of(name)
    x = samples(3, *shape)
    graph = graph_from_exported(export_module(module, x))
    assert_same(graph, module, x)
    assert_same(graph, module, samples(5, *shape, seed=1))  # a batch size it was not traced with


# What torch takes apart into comparisons, uninitialized memory, or a view that merges samples and rows.
LOST_WHEN_DECOMPOSED = {
    *("prelu", "prelu per channel", "prelu of features", "threshold", "rrelu", "log_sigmoid", "conv2d circular"),
    *("linear of images", "matmul", "matmul of a vector", "matmul from the left", "instance_norm"),
}


@pytest.mark.parametrize("name", [*LAYERS, *FUNCTIONS])
def test_an_operator_decomposed_into_the_core_set(name: str) -> None:
    module, shape = module_of(name)
    program = export_module(module, samples(3, *shape)).run_decompositions()
    if name in LOST_WHEN_DECOMPOSED:
        with pytest.raises(ConversionError, match=r"operator 'aten\..*(is not converted|moves or merges)"):
            graph_from_exported(program)
        return
    assert_same(graph_from_exported(program), module, samples(3, *shape))


@pytest.mark.parametrize("name", [*LAYERS, *FUNCTIONS])
def test_a_batch_fixed_to_one(name: str) -> None:
    module, shape = module_of(name)
    graph = graph_from_exported(torch.export.export(module, (samples(1, *shape),)))
    assert_same(graph, module, samples(4, *shape))
