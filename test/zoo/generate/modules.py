"""Attention written by hand in torch: the forms that model code outside transformers uses, and look-alikes.

Each case is one layer over `x [batch, sequence, 12]`: 3 heads of 4. `NEGATIVES` compute something that is not
plain softmax attention; no tool may replace them.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures import HEAD_DIM, HEADS, WIDTH, WINDOW, Site
from exporting import DYNAMO_18, DYNAMO_23, LEGACY_17, Input, randomize

LONGEST = 40
X = Input("x", ("batch", "sequence", WIDTH), "normal", "float32")
MEMORY = Input("memory", ("batch", "encoder_sequence", WIDTH), "normal", "float32")
MASK = Input("attention_mask", ("batch", "sequence"), "padding")
MEMORY_MASK = Input("memory_mask", ("batch", "encoder_sequence"), "padding")
VISIBLE = Input("visible", ("batch", "sequence"), "visible", "bool")
HIDDEN = Input("key_padding_mask", ("batch", "sequence"), "hidden", "bool")
BIAS = Input("bias", ("batch", 1, "sequence", "sequence"), "normal", "float32")
OUTPUT = {"y": ("batch", "sequence", WIDTH)}
EXPORTERS = (LEGACY_17, DYNAMO_18, DYNAMO_23)


@dataclass(frozen=True)
class Case:
    """One module, its inputs, its attention (empty for what is none) and the exporters worth trying."""

    name: str
    module: type
    inputs: tuple
    sites: tuple
    exporters: tuple = (LEGACY_17, DYNAMO_18)
    outputs: dict = None

    def build(self, seed=23):
        return randomize(self.module(), seed)


class Layer(nn.Module):
    """Projections around `attend(q, k, v, *masks)`, which sees and returns `[batch, heads, length, size]`."""

    value_dim = HEAD_DIM

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, HEADS * self.value_dim)
        self.out = nn.Linear(HEADS * self.value_dim, WIDTH)

    def heads(self, x, size=HEAD_DIM):
        return x.view(x.shape[0], x.shape[1], HEADS, size).transpose(1, 2)

    def run(self, x, memory, *masks):
        q, k = self.heads(self.query(x)), self.heads(self.key(memory))
        v = self.heads(self.value(memory), self.value_dim)
        y = self.attend(q, k, v, *masks)
        return self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], HEADS * self.value_dim))


class SelfLayer(Layer):
    def forward(self, x):
        return self.run(x, x)


class MaskedLayer(Layer):
    def forward(self, x, mask):
        return self.run(x, x, mask)


class CrossLayer(Layer):
    def forward(self, x, memory, mask):
        return self.run(x, memory, mask)


def scores(q, k, scale=HEAD_DIM**-0.5):
    return q @ k.transpose(-1, -2) * scale


# ------------------------------------------------------------------------------------------ scale and layout


class PackedUnbind(nn.Module):
    """One projection for queries, keys and values, taken apart by a permutation and unbind (timm)."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * HEAD_DIM**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class PackedChunk(nn.Module):
    """The packed projection cut by chunk before the heads are split (nanoGPT), causal in sdpa."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = (t.view(b, n, HEADS, HEAD_DIM).transpose(1, 2) for t in self.qkv(x).split(WIDTH, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).contiguous().view(b, n, c))


class RootOfShape(SelfLayer):
    """The scale computed in the graph from the size of the last axis."""

    def attend(self, q, k, v):
        size = torch.tensor(q.shape[-1], dtype=q.dtype) if not torch.jit.is_tracing() else torch._shape_as_tensor(q)[-1].to(q.dtype)
        return (q @ k.transpose(-1, -2) / torch.sqrt(size)).softmax(-1) @ v


class DividedQuery(SelfLayer):
    def attend(self, q, k, v):
        return F.softmax(torch.matmul(q / math.sqrt(HEAD_DIM), k.transpose(2, 3)), dim=-1, dtype=torch.float32) @ v


class Unscaled(SelfLayer):
    def attend(self, q, k, v):
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v


class NarrowValue(SelfLayer):
    """Value heads of another size than query and key heads."""

    value_dim = 5

    def attend(self, q, k, v):
        return scores(q, k).softmax(-1) @ v


class Einsum(nn.Module):
    """Scores and output as einsum over `[batch, length, heads, size]`, without head transposes."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        q, k, v = (p(x).view(x.shape[0], x.shape[1], HEADS, HEAD_DIM) for p in (self.query, self.key, self.value))
        weights = torch.einsum("bnhd,bshd->bhns", q, k * HEAD_DIM**-0.5).softmax(-1)
        return self.out(torch.einsum("bhns,bshd->bnhd", weights, v).reshape(x.shape[0], x.shape[1], WIDTH))


class BatchedHeads(SelfLayer):
    """Heads folded into the batch, so that scores have three axes (Bart, OPT)."""

    def attend(self, q, k, v):
        b, h, n, d = q.shape
        q, k, v = (t.reshape(b * h, -1, d) for t in (q * HEAD_DIM**-0.5, k, v))
        return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(b, h, n, d)


class OneHead(nn.Module):
    """A single head over image positions, channels first, no head axis at all (diffusion autoencoders)."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = torch.bmm(q, k.transpose(1, 2)) * WIDTH**-0.5
        return self.out(torch.bmm(weights.softmax(-1), v))


# -------------------------------------------------------------------------------------------------- masks


class Minus10000(MaskedLayer):
    """The first BERT convention: minus 10000 on padding, after the scale."""

    def attend(self, q, k, v, mask):
        extended = (1.0 - mask[:, None, None, :].to(q.dtype)) * -10000.0
        return (q @ k.transpose(-1, -2) / math.sqrt(HEAD_DIM) + extended).softmax(-1) @ v


class FilledPadding(MaskedLayer):
    """masked_fill by minus infinity where the bool mask says hidden."""

    def attend(self, q, k, v, hidden):
        return scores(q, k).masked_fill(hidden[:, None, None, :], float("-inf")).softmax(-1) @ v


class SdpaVisible(MaskedLayer):
    def attend(self, q, k, v, visible):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None, :])


class SdpaCross(CrossLayer):
    def attend(self, q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].to(torch.bool))


class AdditiveInput(MaskedLayer):
    """A bias that the caller computes."""

    def attend(self, q, k, v, bias):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class StoredTriangle(SelfLayer):
    """A stored lower triangle, cut to the length of the run (nanoGPT without sdpa)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("triangle", torch.tril(torch.ones(1, 1, LONGEST, LONGEST, dtype=torch.bool)))

    def attend(self, q, k, v):
        n = q.shape[2]
        return scores(q, k).masked_fill(~self.triangle[:, :, :n, :n], float("-inf")).softmax(-1) @ v


class TriuInfinity(SelfLayer):
    """An upper triangle of minus infinity, added (the first Llama code)."""

    def attend(self, q, k, v):
        n = q.shape[2]
        mask = torch.triu(torch.full((n, n), float("-inf"), dtype=q.dtype), diagonal=1)
        return (scores(q, k) + mask).softmax(-1) @ v


class TriangleAndPadding(MaskedLayer):
    """The first GPT-2 convention: minus 10000 by a stored triangle, then minus 10000 on padding."""

    def __init__(self):
        super().__init__()
        self.register_buffer("triangle", torch.tril(torch.ones(1, 1, LONGEST, LONGEST, dtype=torch.uint8)))

    def attend(self, q, k, v, mask):
        n = q.shape[2]
        s = torch.where(self.triangle[:, :, :n, :n].bool(), scores(q, k), torch.tensor(-1e4))
        return (s + (1.0 - mask[:, None, None, :].to(q.dtype)) * -10000.0).softmax(-1) @ v


class BandedWindow(SelfLayer):
    """Causal and at most WINDOW keys back."""

    def attend(self, q, k, v):
        position = torch.arange(q.shape[2])
        distance = position[:, None] - position[None, :]
        seen = (distance >= 0) & (distance < WINDOW)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class SymmetricWindow(SelfLayer):
    def attend(self, q, k, v):
        position = torch.arange(q.shape[2])
        seen = (position[:, None] - position[None, :]).abs() <= WINDOW
        return scores(q, k).masked_fill(~seen, float("-inf")).softmax(-1) @ v


class UpperLeft(Layer):
    """sdpa's is_causal with other lengths of queries and keys: the diagonal starts at the upper left corner."""

    def forward(self, x, memory):
        return self.run(x, memory)

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class PrefixVisible(SelfLayer):
    """Causal, but the first WINDOW keys are visible to all (prefix language model)."""

    def attend(self, q, k, v):
        position = torch.arange(q.shape[2])
        seen = (position[None, :] <= position[:, None]) | (position[None, :] < WINDOW)
        return scores(q, k).masked_fill(~seen, float("-inf")).softmax(-1) @ v


class Alibi(SelfLayer):
    def attend(self, q, k, v):
        position = torch.arange(q.shape[2])
        distance = position[None, :] - position[:, None]
        slopes = torch.tensor([0.5, 0.25, 0.125])
        bias = slopes[:, None, None] * distance[None].to(q.dtype)
        return (scores(q, k) + bias.masked_fill(distance > 0, float("-inf"))).softmax(-1) @ v


class SwinWindow(nn.Module):
    """Attention in windows of 4 x 4 positions with a table of relative position biases."""

    side = 4

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.zeros((2 * self.side - 1) ** 2, HEADS))
        grid = torch.stack(torch.meshgrid(torch.arange(self.side), torch.arange(self.side), indexing="ij")).flatten(1)
        offset = grid[:, :, None] - grid[:, None, :] + self.side - 1
        self.register_buffer("index", offset[0] * (2 * self.side - 1) + offset[1])

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(n, n, HEADS).permute(2, 0, 1)
        weights = (q * HEAD_DIM**-0.5 @ k.transpose(-2, -1) + bias[None]).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


# ------------------------------------------------------------------------------------------ torch's layers


class TorchAttention(nn.Module):
    """nn.MultiheadAttention; its weights are an output as well when `need_weights`."""

    need_weights = False

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x, hidden):
        y, weights = self.attention(x, x, x, key_padding_mask=hidden, need_weights=self.need_weights)
        return (y, weights) if self.need_weights else y


class TorchAttentionWeights(TorchAttention):
    need_weights = True


class TorchEncoderLayer(nn.Module):
    """nn.TransformerEncoderLayer before inference fuses it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x, hidden):
        return self.layer(x, src_key_padding_mask=hidden)


class WeightsOut(SelfLayer):
    """The probabilities are an output of the model."""

    def forward(self, x):
        q, k, v = (self.heads(p(x)) for p in (self.query, self.key, self.value))
        weights = scores(q, k).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(x.shape)), weights


# --------------------------------------------------------------------------------------- what is no plain attention


class LinearAttention(SelfLayer):
    """Softmax on queries and on keys apart: the product of keys and values comes first."""

    def attend(self, q, k, v):
        return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)


class SigmoidAttention(SelfLayer):
    def attend(self, q, k, v):
        return torch.sigmoid(scores(q, k)) @ v


class QueryAxis(SelfLayer):
    """Softmax over the queries (slot attention) instead of the keys."""

    def attend(self, q, k, v):
        return scores(q, k).softmax(-2) @ v


class TalkingHeads(SelfLayer):
    """Heads are mixed before and after the softmax."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def attend(self, q, k, v):
        mixed = self.before(scores(q, k).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.after(mixed.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v


class SinkColumn(SelfLayer):
    """A learned logit per head takes part in the softmax and is dropped afterwards."""

    def __init__(self):
        super().__init__()
        self.sink = nn.Parameter(torch.zeros(HEADS))

    def attend(self, q, k, v):
        sink = self.sink.view(1, HEADS, 1, 1).expand(q.shape[0], -1, q.shape[2], -1)
        return torch.cat([scores(q, k), sink], -1).softmax(-1)[..., :-1] @ v


class ScaledProbabilities(SelfLayer):
    """Probabilities are renormalized by something else after the softmax."""

    def attend(self, q, k, v):
        weights = scores(q, k).softmax(-1) ** 2
        return weights @ v


class AdditiveScores(nn.Module):
    """Bahdanau's scores: a small network of query plus key, no product of the two."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.score = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, WIDTH), nn.Linear(8, 1)

    def forward(self, x):
        s = self.score(torch.tanh(self.query(x)[:, :, None] + self.key(x)[:, None])).squeeze(-1)
        return s.softmax(-1) @ self.value(x)


class Codebook(nn.Module):
    """A soft choice of stored vectors: softmax between two weight matrices, no keys of the sequence."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(WIDTH, 32, bias=False)
        self.codes = nn.Parameter(torch.zeros(32, WIDTH))

    def forward(self, x):
        return self.score(x).softmax(-1) @ self.codes


class OutputSoftmax(nn.Module):
    """A classifier whose probabilities are mapped to scores by a matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)).softmax(-1))


class LearnedTemperature(SelfLayer):
    """Cosine scores with a temperature per head (Swin v2): no single scale."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.zeros(HEADS, 1, 1))

    def attend(self, q, k, v):
        s = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
        return (s * self.temperature.clamp(max=4.6).exp()).softmax(-1) @ v


# ------------------------------------------------------------------------------------------------ the cases


def site(mask="none", **more):
    fields = {"scope": "", "query_heads": HEADS, "kv_heads": HEADS, "head_dim": HEAD_DIM, "scale": HEAD_DIM**-0.5}
    return (Site(**{**fields, "mask": mask, **more}),)


KEPT = {"replaceable": False}
CASES = [
    Case("packed-unbind", PackedUnbind, (X,), site(), EXPORTERS),
    Case("packed-chunk", PackedChunk, (X,), site("causal", causal=True), EXPORTERS),
    Case("root-of-shape", RootOfShape, (X,), site(), (LEGACY_17,)),
    Case("divided-query", DividedQuery, (X,), site()),
    Case("unscaled", Unscaled, (X,), site(scale=1.0)),
    Case("narrow-value", NarrowValue, (X,), site()),
    Case("einsum", Einsum, (X,), site(), EXPORTERS),
    Case("batched-heads", BatchedHeads, (X,), site()),
    Case("one-head", OneHead, (X,), site(query_heads=1, kv_heads=1, head_dim=WIDTH, scale=WIDTH**-0.5), EXPORTERS),
    Case("minus-10000", Minus10000, (X, MASK), site("key-padding"), EXPORTERS),
    Case("filled-padding", FilledPadding, (X, HIDDEN), site("key-padding", empty_row="nan"), EXPORTERS),
    Case("sdpa-visible", SdpaVisible, (X, VISIBLE), site("key-padding"), EXPORTERS),
    Case("sdpa-cross", SdpaCross, (X, MEMORY, MEMORY_MASK), site("key-padding", kind="cross"), EXPORTERS),
    Case("additive-input", AdditiveInput, (X, BIAS), site("additive-bias", **KEPT), EXPORTERS),
    Case("stored-triangle", StoredTriangle, (X,), site("causal", causal=True), EXPORTERS),
    Case("triu-infinity", TriuInfinity, (X,), site("causal", causal=True), EXPORTERS),
    Case("triangle-and-padding", TriangleAndPadding, (X, MASK), site("causal+padding", causal=True), EXPORTERS),
    Case("banded-window", BandedWindow, (X,), site("sliding-window", causal=True, **KEPT), EXPORTERS),
    Case("symmetric-window", SymmetricWindow, (X,), site("sliding-window", **KEPT)),
    Case("upper-left", UpperLeft, (X, MEMORY), site("causal", causal=True, kind="cross", alignment="upper-left"), EXPORTERS),
    Case("prefix-visible", PrefixVisible, (X,), site("other", **KEPT)),
    Case("alibi", Alibi, (X,), site("relative-bias", causal=True, **KEPT), EXPORTERS),
    Case("swin-window", SwinWindow, (Input("x", ("batch", 16, WIDTH), "normal", "float32"),), site("relative-bias", **KEPT), EXPORTERS, {"y": ("batch", 16, WIDTH)}),
    Case("torch-attention", TorchAttention, (X, HIDDEN), site("key-padding"), EXPORTERS),
    Case("torch-attention-weights", TorchAttentionWeights, (X, HIDDEN), site("key-padding", **KEPT), EXPORTERS, {**OUTPUT, "weights": ("batch", "sequence", "sequence")}),
    Case("torch-encoder-layer", TorchEncoderLayer, (X, HIDDEN), site("key-padding"), EXPORTERS),
    Case("weights-out", WeightsOut, (X,), site(**KEPT), (LEGACY_17, DYNAMO_18), {**OUTPUT, "weights": ("batch", HEADS, "sequence", "sequence")}),
    Case("sink-column", SinkColumn, (X,), site()),
    Case("learned-temperature", LearnedTemperature, (X,), site("none", scale=None, **KEPT)),
]
NEGATIVES = [
    Case(name, module, (X,), ())
    for name, module in [
        ("linear-attention", LinearAttention), ("sigmoid-attention", SigmoidAttention), ("query-axis", QueryAxis),
        ("talking-heads", TalkingHeads), ("scaled-probabilities", ScaledProbabilities),
        ("additive-scores", AdditiveScores), ("codebook", Codebook), ("output-softmax", OutputSoftmax),
    ]
]
