"""Writes multi-level attention as PyTorch implementations export it, and forms that only look like it.

  python test/zoo/multi-level/generate.py       # writes *.onnx beside this file

Needs what test/zoo/generate needs (see test/zoo/README.md). Deterministic for given versions.
"""

import os
import sys

import onnx
import torch
from torch import nn

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(FOLDER, "..", "generate"))

from exporting import DYNAMO_18, LEGACY_17, Input, export, randomize  # noqa: E402

WIDTH, HEADS, SIZE = 16, 2, 8
RANKS, BLOCK = (4, 2, 2), 8
LENGTH = 32


def same_block(length, size, device):
    block = torch.arange(length, device=device) // size
    return block[:, None] == block[None, :]


def causal(scores):
    length = scores.shape[-1]
    mask = torch.ones(length, length, dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~mask, float("-inf"))


class Attention(nn.Module):
    """Queries and keys in heads, normalized as in the paper's code; subclasses compute the scores."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.query_norm, self.key_norm = nn.LayerNorm(SIZE), nn.LayerNorm(SIZE)

    def split(self, x):
        return x.unflatten(-1, (HEADS, SIZE)).transpose(1, 2)

    def forward(self, x):
        q = self.query_norm(self.split(self.query(x)))
        k = self.key_norm(self.split(self.key(x)))
        v = self.split(self.value(x))
        y = self.scores(q, k).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))

    def levels(self):
        start = 0
        for level, rank in enumerate(RANKS):
            yield level, slice(start, start + rank), BLOCK << (len(RANKS) - 1 - level)
            start += rank


class MaskedSum(Attention):
    """Every level everywhere, times a block mask; divided by the number of shared levels."""

    def scores(self, q, k):
        total, shared = 0, 1
        for level, part, size in self.levels():
            products = q[..., part] @ k[..., part].transpose(-1, -2)
            if level == 0:
                total = products
                continue
            same = same_block(q.shape[2], size, q.device).to(q.dtype)
            total, shared = total + products * same, shared + same
        return causal(total / shared * SIZE**-0.5)


class WhereAndSplit(Attention):
    """Levels by split and torch.where, scaled per level before they are added; not causal."""

    def scores(self, q, k):
        total = 0
        parts = zip(self.levels(), (q * SIZE**-0.5).split(RANKS, -1), k.split(RANKS, -1))
        for (level, _, size), q_level, k_level in parts:
            products = torch.einsum("bhid,bhjd->bhij", q_level, k_level) * (level + 1.5)
            if level > 0:
                products = torch.where(same_block(q.shape[2], size, q.device), products, 0.0)
            total = total + products
        return total / len(RANKS)


class DiagonalBlocks(Attention):
    """Batched products of blocks, added in place to the diagonal blocks of the scores."""

    def scores(self, q, k):
        batch, heads, length, _ = q.shape
        total = None
        for level, part, size in self.levels():
            if level == 0:
                total = q[..., part] @ k[..., part].transpose(-1, -2)
                continue
            count = length // size
            blocks = lambda x: x.unflatten(2, (count, size))
            products = blocks(q[..., part]) @ blocks(k[..., part]).transpose(-1, -2)
            diagonal = total.view(batch, heads, count, size, count, size).diagonal(dim1=2, dim2=4)
            diagonal += products.permute(0, 1, 3, 4, 2)
        return causal(total * SIZE**-0.5)


class SlicedBlocks(Attention):
    """One product per block, added to a slice of the scores."""

    def scores(self, q, k):
        total = None
        for level, part, size in self.levels():
            if level == 0:
                total = q[..., part] @ k[..., part].transpose(-1, -2)
                continue
            for start in range(0, LENGTH, size):
                rows = slice(start, start + size)
                total[:, :, rows, rows] += q[:, :, rows, part] @ k[:, :, rows, part].transpose(-1, -2)
        return total * SIZE**-0.5


class SpreadBlocks(Attention):
    """Batched products of blocks, spread over the scores by an identity matrix."""

    def scores(self, q, k):
        batch, heads, length, _ = q.shape
        total = 0
        for level, part, size in self.levels():
            if level == 0:
                total = q[..., part] @ k[..., part].transpose(-1, -2)
                continue
            count = length // size
            blocks = lambda x: x[..., part].reshape(batch, heads, count, size, -1)
            products = torch.einsum("bhcid,bhcjd->bhcij", blocks(q), blocks(k))
            spread = products[:, :, :, :, None, :] * torch.eye(count)[:, None, :, None]
            total = total + spread.reshape(batch, heads, length, length)
        return causal(total * SIZE**-0.5)


class MergedBatch(Attention):
    """Batch and heads merged, products by bmm, the causal mask added."""

    def forward(self, x):
        merge = lambda y: self.split(y).flatten(0, 1)
        q, k, v = merge(self.query(x)), merge(self.key(x)), merge(self.value(x))
        length = x.shape[1]
        scores = 0
        for level, part, size in self.levels():
            products = torch.bmm(q[..., part], k[..., part].transpose(1, 2)) / SIZE**0.5
            scores = scores + (products * same_block(length, size, x.device) if level else products)
        scores = scores + torch.full((length, length), float("-inf")).triu(1)
        y = torch.bmm(scores.softmax(-1), v)
        return self.out(y.unflatten(0, (x.shape[0], HEADS)).transpose(1, 2).flatten(2))


class HeadsLast(Attention):
    """Products by einsum with the heads behind the sequence; causal."""

    def forward(self, x):
        split = lambda y: y.unflatten(-1, (HEADS, SIZE))
        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = 0
        for level, part, size in self.levels():
            products = torch.einsum("bihd,bjhd->bhij", q[..., part], k[..., part])
            scores = scores + (products * same_block(x.shape[1], size, x.device) if level else products)
        weights = causal(scores * SIZE**-0.5).softmax(-1)
        return self.out(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


class KeyMask(Attention):
    """Keys hidden by an input."""

    def forward(self, x, mask):
        q, k, v = (self.split(y) for y in (self.query(x), self.key(x), self.value(x)))
        scores = 0
        for level, part, size in self.levels():
            products = q[..., part] @ k[..., part].transpose(-1, -2)
            scores = scores + (products * same_block(x.shape[1], size, x.device) if level else products)
        scores = (scores * SIZE**-0.5).masked_fill(~mask[:, None, None], float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Cached(Attention):
    """Keys and values of earlier steps in front; causal."""

    def forward(self, x, past_key, past_value):
        q, k, v = (self.split(y) for y in (self.query(x), self.key(x), self.value(x)))
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        row = torch.arange(past_key.shape[2], k.shape[2])[:, None]
        key = torch.arange(k.shape[2])[None, :]
        scores = 0
        for level, part, size in self.levels():
            products = q[..., part] @ k[..., part].transpose(-1, -2)
            scores = scores + (products * (row // size == key // size) if level else products)
        scores = (scores * SIZE**-0.5).masked_fill(key > row, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class UnevenBlocks(MaskedSum):
    """Not the operator: blocks of a level are three times as long as those of the next."""

    def levels(self):
        for (level, part, _), size in zip(super().levels(), (72, 24, 8)):
            yield level, part, size


class ShiftedBlocks(MaskedSum):
    """Not the operator: the blocks of the last level start between those of the level before."""

    def scores(self, q, k):
        total = q[..., :4] @ k[..., :4].transpose(-1, -2)
        for part, shift, size in ((slice(4, 6), 0, 16), (slice(6, 8), 4, 8)):
            block = (torch.arange(q.shape[2]) + shift) // size
            products = q[..., part] @ k[..., part].transpose(-1, -2)
            total = total + products * (block[:, None] == block[None, :])
        return causal(total * SIZE**-0.5)


class Windows(MaskedSum):
    """Not the operator: levels count by distance."""

    def scores(self, q, k):
        position = torch.arange(q.shape[2])
        distance = (position[:, None] - position[None, :]).abs()
        total = q[..., :4] @ k[..., :4].transpose(-1, -2)
        for part, reach in ((slice(4, 6), 16), (slice(6, 8), 8)):
            total = total + q[..., part] @ k[..., part].transpose(-1, -2) * (distance < reach)
        return causal(total * SIZE**-0.5)


class LaterKey(MaskedSum):
    """Not the operator: each row sees the key after its own too."""

    def forward(self, x):
        q, k, v = (self.split(y) for y in (self.query(x), self.key(x), self.value(x)))
        products = q[..., :6] @ k[..., :6].transpose(-1, -2)
        near = q[..., 6:] @ k[..., 6:].transpose(-1, -2) * same_block(x.shape[1], 8, x.device)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(2)
        scores = ((products + near) * SIZE**-0.5).masked_fill(later, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class LearnedBias(MaskedSum):
    """Not the operator: a table of biases is added to the scores."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(LENGTH, LENGTH))

    def scores(self, q, k):
        return super().scores(q, k) + self.bias


DYNAMIC = [Input("x", ("batch", "sequence", WIDTH), "normal", "float32")]
MASKED = [*DYNAMIC, Input("mask", ("batch", "sequence"), "visible", "bool")]
PAST = [Input(f"past_{what}", ("batch", HEADS, "past", SIZE), "normal", "float32") for what in ("key", "value")]
FIXED = [Input("x", ("batch", LENGTH, WIDTH), "normal", "float32")]
MODELS = {
    "masked-sum": (MaskedSum, DYNAMIC, (LEGACY_17, DYNAMO_18)),
    "where-and-split": (WhereAndSplit, DYNAMIC, (LEGACY_17, DYNAMO_18)),
    "diagonal-blocks": (DiagonalBlocks, FIXED, (LEGACY_17, DYNAMO_18)),
    "sliced-blocks": (SlicedBlocks, FIXED, (DYNAMO_18,)),
    "spread-blocks": (SpreadBlocks, FIXED, (LEGACY_17, DYNAMO_18)),
    "merged-batch": (MergedBatch, DYNAMIC, (LEGACY_17, DYNAMO_18)),
    "heads-last": (HeadsLast, DYNAMIC, (LEGACY_17, DYNAMO_18)),
    "key-mask": (KeyMask, MASKED, (LEGACY_17, DYNAMO_18)),
    "cached": (Cached, [*DYNAMIC, *PAST], (LEGACY_17,)),
    "not-later-key": (LaterKey, DYNAMIC, (DYNAMO_18,)),
    "not-uneven-blocks": (UnevenBlocks, DYNAMIC, (DYNAMO_18,)),
    "not-shifted-blocks": (ShiftedBlocks, DYNAMIC, (DYNAMO_18,)),
    "not-windows": (Windows, DYNAMIC, (DYNAMO_18,)),
    "not-learned-bias": (LearnedBias, FIXED, (DYNAMO_18,)),
}


def main():
    for name, (build, inputs, exporters) in MODELS.items():
        for exporter in exporters:
            outputs = {"y": ("batch", inputs[0].dims[1], WIDTH)}
            file = os.path.join(FOLDER, f"{name}-{exporter.label}.onnx")
            try:
                model = export(randomize(build(), 3), inputs, outputs, exporter, {"batch": 2, "sequence": LENGTH, "past": 19})
            except Exception as error:  # an exporter's refusal is worth a line, not an end
                print(f"{name}-{exporter.label}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            onnx.save(model, file)


if __name__ == "__main__":
    main()
