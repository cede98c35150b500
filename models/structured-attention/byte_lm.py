"""
Byte-level causal language models that differ in their attention only, trained with one budget.

    python byte_lm.py softmax --corpus corpus.bin --held-out held_out.bin --steps 2000 --out results/

Writes NAME.json (losses in bits per byte, training curve, how peaked the attention is) and NAME.pt (weights).
The corpus is one stream of bytes; held-out loss is over its first windows of `LENGTH` bytes, evenly spaced.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import attention
from training import train
from transformer import Transformer, positions

LENGTH, BATCH, LAYERS, HEAD_SIZE, BYTES = 1024, 16, 6, 64, 256
WINDOW = 128
RANKS = [8] * 8
BLOCK = LENGTH >> (len(RANKS) - 1)
RATE = 2e-3
HELD_OUT_WINDOWS = 256

KINDS = {
    "softmax": lambda width, heads: attention.SoftmaxAttention(width, heads, True),
    "multi-level": lambda width, heads: attention.MultiLevelAttention(width, heads, True, RANKS, BLOCK),
    "multi-level-uneven": lambda width, heads: attention.MultiLevelAttention(
        width, heads, True, [32, 8, 6, 4, 4, 4, 4, 2], BLOCK
    ),
    "window": lambda width, heads: attention.WindowAttention(width, heads, True, WINDOW),
    "global-and-window": lambda width, heads: attention.GlobalAndWindowAttention(width, heads, True, WINDOW),
    "elementwise-2": lambda width, heads: attention.ElementwiseAttention(width, heads, True, 2),
    "elementwise-6": lambda width, heads: attention.ElementwiseAttention(width, heads, True, 6),
    "linear": lambda width, heads: attention.LinearAttention(width, heads, True),
}


class ByteModel(nn.Module):
    """input_ids [B, T] -> logits [B, T, 256]."""

    def __init__(self, kind, width, layers=LAYERS):
        super().__init__()
        self.embedding = nn.Embedding(BYTES, width)
        nn.init.normal_(self.embedding.weight, std=0.7)
        self.transformer = Transformer(width, layers, lambda: KINDS[kind](width, width // HEAD_SIZE))
        self.head = attention.Projection(width, BYTES, zero=True)

    def forward(self, input_ids):
        return self.head(self.transformer(self.embedding(input_ids)))


def loss_of(model, window):
    """Mean cross-entropy in nats of bytes 1..T given those before; window [B, T + 1]."""
    logits = model(window[:, :-1])
    return functional.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model, text):
    starts = np.linspace(0, len(text) - LENGTH - 1, HELD_OUT_WINDOWS).astype(int)
    device = next(model.parameters()).device
    losses = []
    for group in np.split(starts, HELD_OUT_WINDOWS // 16):
        window = torch.stack([text[start : start + LENGTH + 1] for start in group]).to(device).long()
        losses.append(loss_of(model, window).item())
    return float(np.mean(losses)) / math.log(2)


@torch.no_grad()
def peakedness(model, text):
    """
    Over rows that see at least half of the context: mean largest weight, and the mean effective number of keys,
    exp(entropy), by layer.
    """
    device = next(model.parameters()).device
    x = model.embedding(text[None, :LENGTH].to(device).long())
    x = x + positions(LENGTH, x.shape[-1], device)
    layers = []
    for block in model.transformer.blocks:
        weights = block.attention.weights(block.attention_norm(x))[..., LENGTH // 2 :, :].float()
        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1)
        layers.append(
            {
                "largest_weight": weights.amax(-1).mean().item(),
                "effective_keys": entropy.exp().mean().item(),
            }
        )
        x = block(x)
    return layers


def attention_flops(kind, width, length=LENGTH):
    """Multiply-adds of scores and weighted sums per token and layer at full context, without projections."""
    heads = width // HEAD_SIZE
    seen = {"window": WINDOW + 1}.get(kind, length)
    if kind.startswith("elementwise"):
        return width * (int(kind[-1]) + 1) * 6
    if kind == "linear":
        return 2 * HEAD_SIZE * HEAD_SIZE * heads
    if kind.startswith("multi-level"):
        ranks = RANKS if kind == "multi-level" else [32, 8, 6, 4, 4, 4, 4, 2]
        score = sum(rank / (1 << level) for level, rank in enumerate(ranks))
        return int(heads * length * (score + HEAD_SIZE))
    if kind == "global-and-window":
        return heads * (length + WINDOW + 1) * (HEAD_SIZE // 2 + HEAD_SIZE)
    return heads * seen * 2 * HEAD_SIZE


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--held-out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    text = torch.from_numpy(np.memmap(options.corpus, np.uint8, "c")).to(device)
    held_out = torch.from_numpy(np.fromfile(options.held_out, np.uint8))
    model = ByteModel(options.kind, options.width, options.layers).to(device)
    generator = torch.Generator(device).manual_seed(options.seed)
    offsets = torch.arange(LENGTH + 1, device=device)

    def batch(_):
        starts = torch.randint(len(text) - LENGTH - 1, (BATCH, 1), device=device, generator=generator)
        return [text[starts + offsets].long()]

    curve = []
    seconds = train(
        model, loss_of, batch, options.steps, options.rate,
        log=lambda step, loss: curve.append([step, loss / math.log(2)]),
        compiled=True,
    )
    name = f"byte-lm-{options.kind}-{options.width}"
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save({key: value.half() for key, value in model.state_dict().items()}, options.out / f"{name}.pt")
    result = {
        "kind": options.kind,
        "width": options.width,
        "layers": options.layers,
        "steps": options.steps,
        "bytes_per_step": BATCH * LENGTH,
        "rate": options.rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "attention_multiply_adds": attention_flops(options.kind, options.width),
        "other_multiply_adds": 12 * options.width**2,
        "ms_per_step": 1000 * seconds,
        "held_out_bits_per_byte": held_out_loss(model, held_out),
        "peakedness": peakedness(model, held_out),
        "curve": curve,
    }
    (options.out / f"{name}.json").write_text(json.dumps(result))
    print(name, round(result["held_out_bits_per_byte"], 4), f"{result['ms_per_step']:.1f} ms", flush=True)
    return result


if __name__ == "__main__":
    main()
