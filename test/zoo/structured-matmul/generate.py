"""Writes products with structured matrices as PyTorch implementations export them, and ones that only look like it.

  python test/zoo/structured-matmul/generate.py       # writes *.onnx beside this file

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

from exporting import DYNAMO_18, LEGACY_14, LEGACY_17, Exporter, Input, export, randomize  # noqa: E402

DYNAMO_20 = Exporter("dynamo", 20)
INPUTS, OUTPUTS = 24, 36
PIECES, OUTPUT_PIECES = 4, 6
#: Of butterflies.
SIZE = 8


def weight(*shape):
    return nn.Parameter(torch.randn(*shape))


class Layer(nn.Module):
    """A structured product between two dense layers and nonlinearities."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, INPUTS), nn.Linear(OUTPUTS, INPUTS)
        self.build()

    def forward(self, x):
        return self.last(functional.gelu(self.product(functional.gelu(self.first(x)))))


class LowRank(Layer):
    """Two linear layers in place of one, the second with a bias."""

    def build(self):
        self.down, self.up = nn.Linear(INPUTS, 4, bias=False), nn.Linear(4, OUTPUTS)

    def product(self, x):
        return self.up(self.down(x))


class LowRankTransposed(Layer):
    """U V^T with both factors tall."""

    def build(self):
        self.u, self.v = weight(OUTPUTS, 4), weight(INPUTS, 4)

    def product(self, x):
        return (x @ self.v) @ self.u.T


class Kronecker(Layer):
    """A X B^T of every row."""

    def build(self):
        self.a, self.b = weight(6, PIECES), weight(OUTPUT_PIECES, 6)

    def product(self, x):
        return (self.a @ (x.unflatten(-1, (PIECES, 6)) @ self.b.T)).flatten(-2)


class KroneckerJoint(Kronecker):
    """The same in one einsum."""

    def product(self, x):
        return torch.einsum("ap,btpd,qd->btaq", self.a, x.unflatten(-1, (PIECES, 6)), self.b).flatten(-2)


class Monarch(Layer):
    """Batched products with a transposition in between."""

    def build(self):
        self.right, self.left = weight(PIECES, 6, OUTPUT_PIECES), weight(OUTPUT_PIECES, PIECES, 6)

    def product(self, x):
        batch, length, _ = x.shape
        middle = torch.bmm(x.reshape(-1, PIECES, 6).transpose(0, 1), self.right)
        return torch.bmm(middle.permute(2, 1, 0), self.left).permute(1, 2, 0).reshape(batch, length, OUTPUTS)


class MonarchEllipsis(Layer):
    """Einsum for any leading axes, weights with the summed axis last."""

    def build(self):
        self.right, self.left = weight(PIECES, OUTPUT_PIECES, 6), weight(OUTPUT_PIECES, 6, PIECES)

    def product(self, x):
        middle = torch.einsum("...pd,pqd->...pq", x.unflatten(-1, (PIECES, 6)), self.right)
        return torch.einsum("...pq,qap->...aq", middle, self.left).flatten(-2)


class TensorTrain(Layer):
    """Weights of four axes, scaled, with a bias."""

    def build(self):
        self.right, self.left = weight(PIECES, 6, OUTPUT_PIECES, 2), weight(OUTPUT_PIECES, PIECES, 2, 6)
        self.bias = nn.Parameter(torch.zeros(OUTPUTS))

    def product(self, x):
        middle = torch.einsum("btpd,pdqs->btpqs", x.unflatten(-1, (PIECES, 6)), self.right)
        return torch.einsum("btpqs,qpsa->btaq", middle, self.left).flatten(-2) * 0.25 + self.bias


class Levels(Layer):
    """A low-rank matrix and block-diagonal ones of 2 and 4 blocks, added up."""

    def build(self):
        ranks = (4, 2, 1)
        self.right = nn.ParameterList(weight(1 << n, INPUTS >> n, rank) for n, rank in enumerate(ranks))
        self.left = nn.ParameterList(weight(1 << n, rank, OUTPUTS >> n) for n, rank in enumerate(ranks))

    def product(self, x):
        batch, length, _ = x.shape
        total = 0
        for right, left in zip(self.right, self.left):
            pieces = x.reshape(batch * length, right.shape[0], -1).transpose(0, 1)
            total = total + torch.bmm(torch.bmm(pieces, right), left).transpose(0, 1).reshape(batch, length, OUTPUTS)
        return total


class PiecesApart(TensorTrain):
    """Output pieces one after the other: every block of a grid has a low rank."""

    def product(self, x):
        middle = torch.einsum("btpd,pdqs->btpqs", x.unflatten(-1, (PIECES, 6)), self.right)
        return torch.einsum("btpqs,qpsa->btqa", middle, self.left).flatten(-2)


class OtherPermutation(TensorTrain):
    """Not the operator: the results for input and output pieces change places."""

    def product(self, x):
        middle = torch.einsum("btpd,pdqs->btpqs", x.unflatten(-1, (PIECES, 6)), self.right)
        middle = middle.transpose(2, 3).flatten(2, 3).unflatten(2, (PIECES, OUTPUT_PIECES))
        return torch.einsum("btpqs,qpsa->btaq", middle, self.left).flatten(-2)


class Butterfly(Layer):
    """Stages by Einsum, their blocks in one tensor."""

    strides = (1, 2, 4)

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, SIZE), nn.Linear(SIZE, INPUTS)

    def build(self):
        self.blocks = weight(len(self.strides), SIZE // 2, 2, 2)

    def product(self, x):
        for blocks, stride in zip(self.blocks, self.strides):
            pairs = x.unflatten(-1, (-1, 2, stride))
            blocks = blocks.view(-1, stride, 2, 2)
            x = torch.einsum("btnjd,ndij->btnid", pairs, blocks).flatten(-3)
        return x


class ButterflySums(Butterfly):
    """Stages by sums of products, their blocks number by number."""

    def product(self, x):
        for blocks, stride in zip(self.blocks, self.strides):
            low, high = x.unflatten(-1, (-1, 2, stride)).unbind(-2)
            blocks = blocks.view(-1, stride, 2, 2)
            mixed = [blocks[..., i, 0] * low + blocks[..., i, 1] * high for i in (0, 1)]
            x = torch.stack(mixed, -2).flatten(-3)
        return x


class FarPairsFirst(Butterfly):
    """Not the operator: the first stage pairs entries half the size apart."""

    strides = (4, 2, 1)


class Thick(Layer):
    """Not the operator: two layers that need more than their product."""

    def build(self):
        self.down, self.up = nn.Linear(INPUTS, 20, bias=False), nn.Linear(20, OUTPUTS, bias=False)

    def product(self, x):
        return self.up(self.down(x))


class Nonlinear(LowRank):
    """Not the operator: a bottleneck with something in between."""

    def product(self, x):
        return self.up(torch.tanh(self.down(x)))


class InnerBias(LowRank):
    """Not the operator: the thin middle has a bias."""

    def build(self):
        self.down, self.up = nn.Linear(INPUTS, 4), nn.Linear(4, OUTPUTS)


class UsedMiddle(LowRank):
    """Not replaceable: something else reads the thin middle."""

    def build(self):
        super().build()
        self.gate = nn.Linear(4, OUTPUTS, bias=False)

    def product(self, x):
        middle = self.down(x)
        return self.up(middle) * torch.sigmoid(self.gate(middle))


BOTH = (LEGACY_17, DYNAMO_18)
MODELS = {
    "low-rank": (LowRank, (LEGACY_14, DYNAMO_18)),
    "low-rank-transposed": (LowRankTransposed, BOTH),
    "kronecker": (Kronecker, (DYNAMO_18,)),
    "kronecker-joint": (KroneckerJoint, (DYNAMO_20,)),
    "monarch": (Monarch, BOTH),
    "monarch-ellipsis": (MonarchEllipsis, (DYNAMO_18,)),
    "tensor-train": (TensorTrain, (LEGACY_14, DYNAMO_20)),
    "levels": (Levels, BOTH),
    "pieces-apart": (PiecesApart, (DYNAMO_18,)),
    "butterfly": (Butterfly, (DYNAMO_18,)),
    "butterfly-sums": (ButterflySums, (DYNAMO_20,)),
    "not-other-permutation": (OtherPermutation, (DYNAMO_18,)),
    "not-far-pairs-first": (FarPairsFirst, (DYNAMO_18,)),
    "not-thick": (Thick, (DYNAMO_18,)),
    "not-nonlinear": (Nonlinear, (DYNAMO_18,)),
    "not-inner-bias": (InnerBias, (DYNAMO_18,)),
    "not-used-middle": (UsedMiddle, (LEGACY_17,)),
}


def main():
    inputs = [Input("x", ("batch", "sequence", INPUTS), "normal", "float32")]
    outputs = {"y": ("batch", "sequence", INPUTS)}
    for name, (build, exporters) in MODELS.items():
        for exporter in exporters:
            model = export(randomize(build(), 3), inputs, outputs, exporter, {"batch": 2, "sequence": 7})
            onnx.save(model, os.path.join(FOLDER, f"{name}-{exporter.label}.onnx"))


if __name__ == "__main__":
    main()
