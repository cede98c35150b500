"""Writes bilinear attention as PyTorch implementations export it, and forms that only look like it.

  python test/zoo/bilinear/generate.py           # writes *.onnx beside this file
  python test/zoo/bilinear/generate.py FOLDER [WIDTH]    # writes what test/bench/bilinear-attention.ts times

Needs what test/zoo/generate needs (see test/zoo/README.md). Deterministic for given versions.
"""

import os
import sys

import onnx
import torch
from torch import nn
from torch.nn import functional

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(FOLDER, "..", "generate"))

from exporting import DYNAMO_18, LEGACY_17, Input, export, randomize  # noqa: E402

WIDTH, HEADS = 24, 3
INNER, OUTER = 4, 6
RANKS = (4, 2, 1)


def weight(*shape):
    return nn.Parameter(torch.randn(*shape) * shape[1] ** -0.5)


class Gain(nn.Module):
    """Layer normalization without bias."""

    def __init__(self, size):
        super().__init__()
        self.size, self.weight = size, nn.Parameter(torch.ones(size))

    def forward(self, x):
        return functional.layer_norm(x, (self.size,), self.weight)


class Attention(nn.Module):
    """Values by a projection; subclasses compute the scores from the tokens."""

    causal = False

    def __init__(self):
        super().__init__()
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        v = self.value(x).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
        scores = self.scores(x)
        if self.causal:
            length = x.shape[1]
            seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
            scores = scores.masked_fill(~seen, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class TensorTrain(Attention):
    """Keys by a Block Tensor Train of rank 1 per head, in two batched products."""

    causal = True
    scale = WIDTH**-0.5

    def __init__(self):
        super().__init__()
        self.right, self.left = weight(INNER, OUTER, HEADS * OUTER), weight(HEADS * OUTER, INNER, INNER)
        self.norm = Gain(WIDTH)

    def scores(self, x):
        batch, length, _ = x.shape
        pieces = x.reshape(batch * length, INNER, OUTER).transpose(0, 1)
        middle = torch.bmm(pieces, self.right)
        keys = torch.bmm(middle.permute(2, 1, 0), self.left)
        keys = keys.reshape(HEADS, OUTER, batch, length, INNER)
        keys = keys.permute(2, 0, 3, 4, 1).reshape(batch, HEADS, length, WIDTH)
        return (x[:, None] @ self.norm(keys).transpose(-1, -2)) * self.scale


class PlainTensorTrain(TensorTrain):
    """Of rank 2, without normalization, with a scale of its own; not causal."""

    causal = False
    scale = 0.05

    def __init__(self):
        super().__init__()
        self.right, self.left = weight(INNER, OUTER, HEADS * OUTER * 2), weight(HEADS * OUTER, INNER * 2, INNER)
        self.norm = None

    def scores(self, x):
        batch, length, _ = x.shape
        middle = torch.matmul(x.reshape(-1, INNER, OUTER).transpose(0, 1), self.right)
        middle = middle.reshape(INNER, batch * length, HEADS * OUTER, 2).permute(2, 1, 0, 3)
        keys = torch.matmul(middle.reshape(HEADS * OUTER, batch * length, INNER * 2), self.left)
        keys = keys.reshape(HEADS, OUTER, batch, length, INNER).permute(2, 0, 3, 4, 1)
        keys = keys.reshape(batch, HEADS, length, WIDTH)
        return x[:, None] @ (keys * self.scale).transpose(-1, -2)


class Levels(Attention):
    """Low-rank queries and keys of 1, 2 and 4 pieces of the tokens; causal."""

    causal = True

    def __init__(self):
        super().__init__()
        shapes = [(1 << level, WIDTH >> level, HEADS * rank) for level, rank in enumerate(RANKS)]
        self.query, self.key = (nn.ParameterList(weight(*shape) for shape in shapes) for _ in range(2))
        sizes = [rank << level for level, rank in enumerate(RANKS)]
        self.query_norm, self.key_norm = (nn.ModuleList(Gain(size) for size in sizes) for _ in range(2))

    def image(self, x, weights, norm, rank):
        batch, length, _ = x.shape
        pieces = weights.shape[0]
        split = x.reshape(batch * length, pieces, WIDTH // pieces).transpose(0, 1)
        images = torch.bmm(split, weights).reshape(pieces, batch, length, HEADS, rank)
        return norm(images.permute(1, 3, 2, 0, 4).reshape(batch, HEADS, length, pieces * rank))

    def scores(self, x):
        total = 0
        for level, rank in enumerate(RANKS):
            q = self.image(x, self.query[level], self.query_norm[level], rank)
            k = self.image(x, self.key[level], self.key_norm[level], rank)
            total = total + (q @ k.transpose(-1, -2)) * (rank << level) ** -0.5
        return total


class PlainLevels(Levels):
    """Without normalization; not causal."""

    causal = False

    def __init__(self):
        super().__init__()
        self.query_norm, self.key_norm = (nn.ModuleList(nn.Identity() for _ in RANKS) for _ in range(2))


class WrittenOut(nn.Module):
    """Layer normalization of the last axis in single steps, with a gain."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        return centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class RankedWeights(Attention):
    """A Block Tensor Train of rank 2 with an axis of the weights for each index, normalized step by step; causal."""

    causal = True
    norm = WrittenOut

    def __init__(self):
        super().__init__()
        self.right, self.left = weight(HEADS, INNER, OUTER, OUTER, 2), weight(HEADS, OUTER, INNER, 2, INNER)
        self.normalize = self.norm(WIDTH)

    def scores(self, x):
        pieces = x.unflatten(-1, (INNER, OUTER))
        middle = torch.einsum("btpd,hpdqs->bhtpqs", pieces, self.right)
        keys = self.normalize(torch.einsum("bhtpqs,hqpsa->bhtaq", middle, self.left).flatten(3))
        return (x * WIDTH**-0.5).unsqueeze(1) @ keys.transpose(2, 3)


class KeyMask(RankedWeights):
    """Without normalization; keys hidden by an input."""

    causal = False
    norm = nn.Identity

    def forward(self, x, mask):
        v = self.value(x).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
        scores = self.scores(x).masked_fill(~mask[:, None, None], float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class JoinedLevels(Attention):
    """Levels side by side in one product, weights by head, values by einsum; causal."""

    causal = True

    def __init__(self):
        super().__init__()
        shapes = [(HEADS, 1 << level, WIDTH >> level, rank) for level, rank in enumerate(RANKS)]
        self.query, self.key = (nn.ParameterList(weight(*shape) for shape in shapes) for _ in range(2))

    def image(self, x, weights):
        pieces = x.unflatten(-1, (weights.shape[1], -1))
        return torch.einsum("btpd,hpdr->bhtpr", pieces, weights).flatten(3)

    def scores(self, x):
        queries = [self.image(x, each) * each.shape[-1] ** -0.5 for each in self.query]
        keys = [self.image(x, each) for each in self.key]
        return torch.cat(queries, -1) @ torch.cat(keys, -1).transpose(2, 3)


class HeadsApart(Attention):
    """One head after the other, levels of 1, 2 and 4 pieces of the same tokens; causal by a bias of minus infinity."""

    def __init__(self):
        super().__init__()
        shapes = [(1 << level, WIDTH >> level, rank) for level, rank in enumerate(RANKS)]
        self.weights = nn.ParameterList(weight(*shape) for shape in shapes * (2 * HEADS))

    def forward(self, x):
        batch, length, _ = x.shape
        hidden = torch.full((length, length), float("-inf"), device=x.device).triu(1)
        pieces = [x.view(batch, length, 1 << level, -1) for level in range(len(RANKS))]
        images = [
            torch.einsum("bipc,pcr->bipr", pieces[n % len(RANKS)], each).flatten(2) for n, each in enumerate(self.weights)
        ]
        heads = []
        for head, values in enumerate(self.value(x).chunk(HEADS, -1)):
            mine = images[2 * head * len(RANKS) : 2 * (head + 1) * len(RANKS)]
            scores = sum(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 for q, k in zip(mine[: len(RANKS)], mine[len(RANKS) :]))
            heads.append((scores + hidden).softmax(-1) @ values)
        return self.out(torch.cat(heads, -1))


class RootMeanSquare(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class ByRootMeanSquare(RankedWeights):
    """Keys are divided by their root mean square."""

    norm = RootMeanSquare


class OtherPermutation(TensorTrain):
    """Not the operator: output pieces lie one after the other."""

    def scores(self, x):
        batch, length, _ = x.shape
        pieces = x.reshape(batch * length, INNER, OUTER).transpose(0, 1)
        keys = torch.bmm(torch.bmm(pieces, self.right).permute(2, 1, 0), self.left)
        keys = keys.reshape(HEADS, OUTER, batch, length, INNER).permute(2, 0, 3, 1, 4)
        keys = self.norm(keys.reshape(batch, HEADS, length, WIDTH))
        return (x[:, None] @ keys.transpose(-1, -2)) * self.scale


class BiasedNorm(TensorTrain):
    """Not the operator: the normalization has a bias."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)


class Distance(TensorTrain):
    """Not the operator: scores fall with the distance."""

    def scores(self, x):
        position = torch.arange(x.shape[1])
        return super().scores(x) - (position[:, None] - position[None, :]).abs()


MODELS = {
    "tensor-train": (TensorTrain, (LEGACY_17, DYNAMO_18)),
    "plain-tensor-train": (PlainTensorTrain, (LEGACY_17, DYNAMO_18)),
    "levels": (Levels, (LEGACY_17, DYNAMO_18)),
    "plain-levels": (PlainLevels, (DYNAMO_18,)),
    "ranked-weights": (RankedWeights, (LEGACY_17, DYNAMO_18)),
    "key-mask": (KeyMask, (LEGACY_17, DYNAMO_18)),
    "joined-levels": (JoinedLevels, (LEGACY_17, DYNAMO_18)),
    "heads-apart": (HeadsApart, (DYNAMO_18,)),
    "root-mean-square": (ByRootMeanSquare, (DYNAMO_18,)),
    "not-other-permutation": (OtherPermutation, (DYNAMO_18,)),
    "not-biased-norm": (BiasedNorm, (DYNAMO_18,)),
    "not-distance": (Distance, (DYNAMO_18,)),
}


def write(file, build, exporter):
    inputs = [Input("x", ("batch", "sequence", WIDTH), "normal", "float32")]
    if build is KeyMask:
        inputs.append(Input("mask", ("batch", "sequence"), "visible", "bool"))
    outputs = {"y": ("batch", "sequence", WIDTH)}
    onnx.save(export(randomize(build(), 3), inputs, outputs, exporter, {"batch": 2, "sequence": 7}), file)


def main():
    for name, (build, exporters) in MODELS.items():
        for exporter in exporters:
            write(os.path.join(FOLDER, f"{name}-{exporter.label}.onnx"), build, exporter)


def write_large(folder, width):
    """One layer of `width` channels in heads of 32, with and without causality."""
    global WIDTH, HEADS, INNER, OUTER, RANKS
    WIDTH, HEADS, INNER, OUTER, RANKS = width, width // 32, 8, width // 8, (16, 8, 4, 4)
    TensorTrain.scale = WIDTH**-0.5
    for name, build in (("tensor-train", TensorTrain), ("levels", Levels)):
        for causal in (True, False):
            form = type(build.__name__, (build,), {"causal": causal})
            write(os.path.join(folder, f"{name}-{width}{'-causal' if causal else ''}.onnx"), form, LEGACY_17)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write_large(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 256)
    else:
        main()
