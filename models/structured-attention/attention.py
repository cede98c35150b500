"""Attention with structured scores, and what it is compared with, in plain PyTorch operations.

Every module maps x [B, T, X] to [B, T, X]. Sources: structured scores, Kuang et al. 2025 (ICML, PMLR 267);
element-wise attention, Feng 2025 (arXiv 2501.05730); linear attention, Katharopoulos et al. 2020.

Weights carry `fan_in` where it is not their number of columns: `training.py` scales learning rates by it.
"""

import math

import torch
from torch import nn
from torch.nn import functional


def weight(*shape, fan_in):
    """A parameter with entries of variance 1 / fan_in."""
    parameter = nn.Parameter(torch.randn(*shape) * fan_in**-0.5)
    parameter.fan_in = fan_in
    return parameter


class Projection(nn.Module):
    """x W^T without bias. Outputs of residual branches start at zero."""

    def __init__(self, inputs, outputs, zero=False):
        super().__init__()
        self.weight = weight(outputs, inputs, fan_in=inputs)
        if zero:
            nn.init.zeros_(self.weight)

    def forward(self, x):
        return functional.linear(x, self.weight)


class Norm(nn.Module):
    """Layer normalization with a gain and no bias."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return functional.layer_norm(x, (self.size,), self.weight)


def causal_mask(length, device):
    position = torch.arange(length, device=device)
    return position[None, :] <= position[:, None]


class ProjectedAttention(nn.Module):
    """Queries, keys and values by projection, in heads; subclasses say how they attend."""

    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.head_size, self.causal = heads, width // heads, causal
        self.query, self.key, self.value = (Projection(width, width) for _ in range(3))
        self.output = Projection(width, width, zero=True)
        self.query_norm, self.key_norm = Norm(self.head_size), Norm(self.head_size)

    def split(self, x):
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)

    def operands(self, x):
        """q, k, v [B, H, T, D]."""
        q = self.query_norm(self.split(self.query(x)))
        k = self.key_norm(self.split(self.key(x)))
        v = self.split(self.value(x))
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(self, x):
        return self.output(self.attend(*self.operands(x)).transpose(1, 2).flatten(2))

    def weights(self, x):
        """Attention weights [B, H, T, T], for inspection."""
        raise NotImplementedError


class SoftmaxAttention(ProjectedAttention):
    def mask(self, length, device):
        return causal_mask(length, device) if self.causal else None

    def attend(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)

    def weights(self, x):
        q, k, _ = self.operands(x)
        scores = (q @ k.transpose(-1, -2)).float() * self.head_size**-0.5
        mask = self.mask(x.shape[1], x.device)
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


class WindowAttention(SoftmaxAttention):
    """Each token sees itself and the `window` tokens before it."""

    def __init__(self, width, heads, causal, window):
        super().__init__(width, heads, causal)
        assert causal
        self.window = window

    def mask(self, length, device):
        position = torch.arange(length, device=device)
        return causal_mask(length, device) & (position[None, :] >= position[:, None] - self.window)

    def attend(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(q.shape[2], q.device))


class GlobalAndWindowAttention(WindowAttention):
    """One half of every head attends everywhere, the other in a window; their weights add up (to two)."""

    def attend(self, q, k, v):
        half = self.head_size // 2
        far = functional.scaled_dot_product_attention(q[..., :half], k[..., :half], v, is_causal=True)
        mask = self.mask(q.shape[2], q.device)
        near = functional.scaled_dot_product_attention(q[..., half:], k[..., half:], v, attn_mask=mask)
        return far + near

    def weights(self, x):
        q, k, _ = self.operands(x)
        half, masks = self.head_size // 2, (causal_mask(x.shape[1], x.device), self.mask(x.shape[1], x.device))
        parts = [
            ((q[..., part] @ k[..., part].transpose(-1, -2)).float() * half**-0.5)
            .masked_fill(~mask, -torch.inf)
            .softmax(-1)
            for part, mask in zip((slice(0, half), slice(half, None)), masks)
        ]
        return (parts[0] + parts[1]) / 2


class MultiLevelAttention(SoftmaxAttention):
    """
    Distance-dependent multi-level low-rank scores: level l of L takes ranks[l] dimensions of a head and counts
    where query and key lie in the same of its blocks of block * 2^(L - l) tokens; level 1 counts everywhere.
    Scores are divided by the number of levels that count.
    """

    def __init__(self, width, heads, causal, ranks, block):
        super().__init__(width, heads, causal)
        assert sum(ranks) == self.head_size
        self.ranks, self.block = ranks, block

    def levels(self, q, k):
        """Per level: the dimensions of q and k, and the size of a block (None: everything is one block)."""
        start = 0
        for level, rank in enumerate(self.ranks):
            part = slice(start, start + rank)
            size = None if level == 0 else self.block << (len(self.ranks) - 1 - level)
            yield q[..., part], k[..., part], size
            start += rank

    def scores(self, q, k):
        """Scores [B, H, T, T] before scaling, for any T."""
        position = torch.arange(q.shape[2], device=q.device)
        total, shared = 0, 0
        for q_level, k_level, size in self.levels(q, k):
            products = q_level @ k_level.transpose(-1, -2)
            if size is None:
                total, shared = products, torch.ones_like(products[0, 0])
            else:
                block = position // size
                same = (block[:, None] == block[None, :]).to(products.dtype)
                total, shared = total + products * same, shared + same
        return total / shared

    def block_scores(self, q, k):
        """The same where the largest block divides T: each level computes its own blocks only."""
        batch, heads, length, _ = q.shape
        total = None
        position = torch.arange(length, device=q.device)
        shared = torch.ones(length, length, device=q.device, dtype=q.dtype)
        for q_level, k_level, size in self.levels(q, k):
            if size is None:
                total = q_level @ k_level.transpose(-1, -2)
                continue
            count = length // size
            blocks = lambda x: x.unflatten(2, (count, size))
            products = blocks(q_level) @ blocks(k_level).transpose(-1, -2)
            diagonal = total.view(batch, heads, count, size, count, size).diagonal(dim1=2, dim2=4)
            diagonal += products.permute(0, 1, 3, 4, 2)
            shared += ((position // size)[:, None] == (position // size)[None, :]).to(shared.dtype)
        return total / shared

    def probabilities(self, q, k, scores):
        scores = scores(q, k).float() * self.head_size**-0.5
        mask = self.mask(q.shape[2], q.device)
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)

    def attend(self, q, k, v):
        scores = self.block_scores if self.training else self.scores
        return self.probabilities(q, k, scores).to(v.dtype) @ v

    def weights(self, x):
        q, k, _ = self.operands(x)
        return self.probabilities(q, k, self.scores)


class LinearAttention(ProjectedAttention):
    """Weights proportional to phi(q) . phi(k), phi(x) = elu(x) + 1."""

    def weights(self, x):
        q, k, _ = self.operands(x)
        return self.normalized(q, k)

    def normalized(self, q, k):
        products = (functional.elu(q) + 1) @ (functional.elu(k) + 1).transpose(-1, -2)
        if self.causal:
            products = products.masked_fill(~causal_mask(q.shape[2], q.device), 0)
        return products / products.float().sum(-1, keepdim=True)

    def attend(self, q, k, v):
        return self.normalized(q, k).to(v.dtype) @ v


#: Keys and queries are clipped to this size: exp(-k^2) of a first token must not vanish.
BOUND = 6.0
#: Length of the chunks within which sums are taken by a triangular matrix.
CHUNK = 32


def prefix_sums(moments):
    return [torch.cumsum(moment, 1) for moment in moments]


def prefix_sums_by_chunks(moments):
    """The same in training, where T is a multiple of `CHUNK`: products with triangular matrices, which compile."""
    x = torch.cat(moments, -1)
    batch, length, channels = x.shape
    count = length // CHUNK
    with torch.autocast(x.device.type, enabled=False):
        within = torch.ones(CHUNK, CHUNK, device=x.device).tril() @ x.view(batch, count, CHUNK, channels)
        before = torch.ones(count, count, device=x.device).tril(-1) @ within[:, :, -1]
    sums = (within + before[:, :, None]).view(batch, length, channels)
    return sums.chunk(len(moments), -1)


class ElementwiseAttention(nn.Module):
    """
    Element-wise attention by its Taylor series of even order: every channel attends alone, with weights
    exp(-k^2) * (sum over n <= order of (2 q k)^n / n!).
    """

    def __init__(self, width, heads, causal, order):
        super().__init__()
        assert order % 2 == 0
        self.order, self.causal = order, causal
        self.query, self.key, self.value = (Projection(width, width) for _ in range(3))
        self.output = Projection(width, width, zero=True)
        self.query_norm, self.key_norm = Norm(width), Norm(width)
        for norm in (self.query_norm, self.key_norm):
            nn.init.constant_(norm.weight, 0.7)

    def operands(self, x):
        q, k = self.query_norm(self.query(x)).float(), self.key_norm(self.key(x)).float()
        return q.clamp(-BOUND, BOUND), k.clamp(-BOUND, BOUND), self.value(x)

    def forward(self, x):
        q, k, v = self.operands(x)
        decay = torch.exp(-k * k)
        moments = [k**n * decay for n in range(self.order + 1)]
        moments += [moment * v for moment in moments]
        if not self.causal:
            sums = [moment.sum(1, keepdim=True) for moment in moments]
        else:
            sums = (prefix_sums_by_chunks if self.training else prefix_sums)(moments)
        numerator, denominator = 0, 0
        for n in range(self.order + 1):
            factor = q**n * (2**n / math.factorial(n))
            numerator, denominator = numerator + factor * sums[self.order + 1 + n], denominator + factor * sums[n]
        return self.output((numerator / denominator).to(v.dtype))

    def weights(self, x, channels=8):
        """Weights [B, channels, T, T] of evenly spaced channels."""
        q, k, _ = self.operands(x)
        chosen = torch.linspace(0, q.shape[2] - 1, channels, device=q.device).long()
        q, k = q[..., chosen].transpose(1, 2)[..., :, None], k[..., chosen].transpose(1, 2)[..., None, :]
        series = sum((2 * q * k) ** n / math.factorial(n) for n in range(self.order + 1))
        products = series * torch.exp(-k * k)
        if self.causal:
            products = products.masked_fill(~causal_mask(q.shape[2], q.device), 0)
        return products / products.sum(-1, keepdim=True)


def attend_with_wide_scores(q, k, v, causal):
    """
    Attention whose queries and keys [B, H, T, D] have more dimensions than its values; scores are not scaled.
    Values are padded, since fast kernels take one size only.
    """
    padded = functional.pad(v, (0, q.shape[-1] - v.shape[-1]))
    mixed = functional.scaled_dot_product_attention(q, k, padded, is_causal=causal, scale=1.0)
    return mixed[..., : v.shape[-1]]


class BilinearAttention(nn.Module):
    """
    Scores x_i . f_h(x_j) on the tokens themselves; subclasses say what stands for f_h. In training the structured
    matrices are multiplied out, which costs more operations and less time than many small products.
    """

    def __init__(self, width, heads, causal):
        super().__init__()
        self.width, self.heads, self.causal = width, heads, causal
        self.value, self.output = Projection(width, width), Projection(width, width, zero=True)

    def operands(self, x):
        """Queries and keys [B, H, T, D] whose products are the scores."""
        raise NotImplementedError

    def forward(self, x):
        v = self.value(x).unflatten(-1, (self.heads, self.width // self.heads)).transpose(1, 2)
        if self.training:
            mixed = attend_with_wide_scores(*self.operands(x), v, self.causal)
        else:
            scores = self.scores(x)
            if self.causal:
                scores = scores.masked_fill(~causal_mask(x.shape[1], x.device), -torch.inf)
            mixed = scores.float().softmax(-1).to(v.dtype) @ v
        return self.output(mixed.transpose(1, 2).flatten(2))


class BilinearBlockTensorTrain(BilinearAttention):
    """
    f_h(x) = norm(M_h x) with M_h a Block Tensor Train of rank 1, scores scaled by X^-1/2. The matrix has
    X = a b = c d; entry [(alpha, beta), (gamma, delta)] is left[beta][gamma, alpha] * right[gamma][delta, beta].
    """

    def __init__(self, width, heads, causal):
        super().__init__(width, heads, causal)
        self.outer = next(d for d in range(1, width + 1) if width % d == 0 and d * d > width)
        self.inner = width // self.outer
        self.right = weight(self.inner, self.outer, heads * self.outer, fan_in=self.outer)
        self.left = weight(heads * self.outer, self.inner, self.inner, fan_in=self.inner)
        self.norm = Norm(width)

    def keys(self, x):
        batch, length, _ = x.shape
        pieces = x.reshape(batch * length, self.inner, self.outer).transpose(0, 1)
        middle = torch.bmm(pieces, self.right.to(x.dtype))
        keys = torch.bmm(middle.permute(2, 1, 0), self.left.to(x.dtype))
        keys = keys.reshape(self.heads, self.outer, batch, length, self.inner)
        keys = keys.permute(2, 0, 3, 4, 1).reshape(batch, self.heads, length, self.width)
        return self.norm(keys).to(x.dtype)

    def matrix(self):
        """All M_h, transposed, side by side [X, H X]."""
        right = self.right.view(self.inner, self.outer, self.heads, 1, self.outer)
        left = self.left.view(self.heads, self.outer, self.inner, self.inner).permute(2, 0, 3, 1)
        return (right * left[:, None]).reshape(self.width, -1)

    def operands(self, x):
        queries = (x * self.width**-0.5)[:, None].expand(-1, self.heads, -1, -1)
        keys = (x @ self.matrix().to(x.dtype)).unflatten(-1, (self.heads, self.width))
        return queries, self.norm(keys).to(x.dtype).transpose(1, 2)

    def scores(self, x):
        return (x[:, None] @ self.keys(x).transpose(-1, -2)) * self.width**-0.5


class BilinearMultiLevel(BilinearAttention):
    """
    The sum over levels l of norm(q_l) . norm(k_l) (r_l p_l)^-1/2, with q_l and k_l low-rank images of the
    p_l = 2^(l-1) pieces of a token, ranks[l] dimensions each.
    """

    def __init__(self, width, heads, causal, ranks):
        super().__init__(width, heads, causal)
        self.ranks = ranks
        shapes = [(1 << level, width >> level, heads * rank) for level, rank in enumerate(ranks)]
        self.query = nn.ParameterList(weight(*shape, fan_in=shape[1]) for shape in shapes)
        self.key = nn.ParameterList(weight(*shape, fan_in=shape[1]) for shape in shapes)
        sizes = [rank << level for level, rank in enumerate(ranks)]
        self.query_norm, self.key_norm = (nn.ModuleList(Norm(size) for size in sizes) for _ in range(2))

    def level(self, x, weights, norm, rank):
        """[B, H, T, p r]."""
        batch, length, _ = x.shape
        pieces = weights.shape[0]
        split = x.reshape(batch * length, pieces, self.width // pieces).transpose(0, 1)
        images = torch.bmm(split, weights.to(x.dtype)).reshape(pieces, batch, length, self.heads, rank)
        images = images.permute(1, 3, 2, 0, 4).reshape(batch, self.heads, length, pieces * rank)
        return norm(images).to(x.dtype)

    def levels(self, x):
        """Per level: q_l, k_l and what their products are scaled by."""
        for level, rank in enumerate(self.ranks):
            q = self.level(x, self.query[level], self.query_norm[level], rank)
            k = self.level(x, self.key[level], self.key_norm[level], rank)
            yield q, k, (rank << level) ** -0.5

    def matrix(self, levels):
        """The maps of all levels side by side, pieces on the diagonal: [X, H * sum of p_l r_l], ordered by head."""
        dense = []
        for weights in levels:
            pieces = weights.shape[0]
            by_head = weights.view(pieces, -1, self.heads, 1, weights.shape[2] // self.heads)
            diagonal = torch.eye(pieces, device=weights.device)[:, None, None, :, None]
            dense.append((by_head * diagonal).flatten(3).flatten(0, 1))
        return torch.cat(dense, -1).flatten(1)

    def operands(self, x):
        sides = []
        for weights, norms, exponent in (self.query, self.query_norm, -0.5), (self.key, self.key_norm, 0.0):
            images = (x @ self.matrix(weights).to(x.dtype)).unflatten(-1, (self.heads, -1))
            parts = images.split([norm.size for norm in norms], -1)
            scaled = [norm(part) * norm.size**exponent for norm, part in zip(norms, parts)]
            sides.append(torch.cat(scaled, -1).to(x.dtype).transpose(1, 2))
        return sides

    def scores(self, x):
        total = 0
        for q, k, scale in self.levels(x):
            total = total + (q @ k.transpose(-1, -2)) * scale
        return total
