"""Pre-norm transformer around any attention of `attention.py`."""

import torch
from torch import nn
from torch.nn import functional

from attention import Norm, Projection


def positions(length, width, device):
    """Sinusoidal position encodings [length, width], computed in the graph: any length works."""
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half, device=device).float() / half)
    angle = torch.arange(length, device=device).float()[:, None] * frequency
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = Projection(width, 4 * width), Projection(4 * width, width, zero=True)

    def forward(self, x):
        return self.down(functional.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, width, attention):
        super().__init__()
        self.attention_norm, self.attention = Norm(width), attention
        self.feed_forward_norm, self.feed_forward = Norm(width), FeedForward(width)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x).to(x.dtype))
        return x + self.feed_forward(self.feed_forward_norm(x).to(x.dtype))


def run_block(block, x):
    return block(x)


class Transformer(nn.Module):
    """Tokens [B, T, X] to tokens. `attention()` makes the attention of one layer."""

    def __init__(self, width, layers, attention):
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(Block(width, attention()) for _ in range(layers))
        self.norm = Norm(width)
        #: What runs a block; `training.py` puts a compiled form here.
        self.run_block = run_block

    def forward(self, x):
        x = x + positions(x.shape[1], self.width, x.device).to(x.dtype)
        for block in self.blocks:
            x = self.run_block(block, x)
        return self.norm(x)
