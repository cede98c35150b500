"""
In-context linear regression after Garg et al. 2022: from examples (x_1, w.x_1), ..., predict w.x for the next x.

    python regression.py softmax --dimension 32 --width 256 --steps 5000 --out results/

Sequences hold 2 d examples, 4 d tokens. Training starts with few dimensions and short sequences, as theirs does.
Writes NAME.json (error at the last example by training step, divided by d: 1 is what predicting zero scores, 0 is
what least squares scores), anew whenever it has measured, and NAME.pt (weights).
"""

import argparse
import json
import math
import pathlib
import time

import torch
from torch import nn

import attention
from training import train
from transformer import Transformer

LAYERS, HEADS = 6, 8
#: Tokens of a step, and sequences at least.
TOKENS, LEAST_BATCH = 8192, 32
RATE = 3e-4
#: Dimensions at first, and between which shares of the training they grow to all of them.
FIRST_DIMENSIONS, GROWTH = 4, (0.05, 0.6)
#: Sequences grow in so many steps of equal size.
LENGTHS = 8
EVALUATED, EVALUATED_ON_THE_WAY = 2048, 256

KINDS = {
    "softmax": lambda width: attention.SoftmaxAttention(width, HEADS, True),
    "bilinear-btt": lambda width: attention.BilinearBlockTensorTrain(width, HEADS, True),
    "bilinear-mlr": lambda width: attention.BilinearMultiLevel(width, HEADS, True, mlr_ranks(width // HEADS)),
}


def mlr_ranks(head_size):
    """Half of a head's dimensions on the first level, a quarter on the second, an eighth on each of two more."""
    return [head_size // 2, head_size // 4, head_size // 8, head_size // 8]


class RegressionModel(nn.Module):
    """
    xs [B, n, d], ys [B, n] -> predictions [B, n] of every y from the examples before it and its x. `roles` tells
    tokens of xs from those of ys.
    """

    def __init__(self, kind, width, dimension, layers=LAYERS):
        super().__init__()
        self.read_in = attention.Projection(dimension, width)
        self.roles = nn.Parameter(torch.randn(2, width) * 0.5)
        self.transformer = Transformer(width, layers, lambda: KINDS[kind](width))
        self.read_out = attention.Projection(width, 1, zero=True)

    def forward(self, xs, ys):
        answers = nn.functional.pad(ys[..., None], (0, xs.shape[-1] - 1))
        tokens = self.read_in(torch.stack([xs, answers], dim=2))
        tokens = (tokens + self.roles.to(tokens.dtype)).flatten(1, 2)
        states = self.transformer(tokens).unflatten(1, (-1, 2))[:, :, 0]
        return self.read_out(states)[..., 0] * xs.shape[-1] ** 0.5


def loss_of(model, xs, ys):
    """Mean squared error of all points, divided by the dimension."""
    return (model(xs, ys).float() - ys).square().mean() / xs.shape[-1]


def dimensions_at(progress, d):
    """Dimensions of the examples after this share of the training."""
    start, end = GROWTH
    grown = min(1.0, max(0.0, (progress - start) / (end - start)))
    return min(d, FIRST_DIMENSIONS + int(grown * (d - FIRST_DIMENSIONS)))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many, wherever it is")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args(arguments)
    until = time.time() + options.seconds

    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    d = options.dimension
    model = RegressionModel(options.kind, options.width, d, options.layers).to(device)
    generator = torch.Generator(device).manual_seed(options.seed)

    def examples(dimensions, source):
        """A batch of so many dimensions, scaled so that tokens and answers are as large as with all of them."""
        unit = d // (LENGTHS // 2)
        points = -(-2 * dimensions // unit) * unit
        count = max(LEAST_BATCH, TOKENS // (2 * points))
        xs = torch.randn(count, points, d, device=device, generator=source)
        xs *= (torch.arange(d, device=device) < dimensions) * math.sqrt(d / dimensions)
        w = torch.randn(count, d, 1, device=device, generator=source)
        return xs, (xs @ w)[..., 0]

    @torch.no_grad()
    def last_error(count):
        """Of the whole task. The model stays in training mode, which has the faster kernels and no dropout."""
        source = torch.Generator(device).manual_seed(1_000_003)
        errors = []
        while sum(map(len, errors)) < count:
            xs, ys = examples(d, source)
            with torch.autocast(device, torch.bfloat16):
                errors.append((model(xs, ys).float()[:, -1] - ys[:, -1]).square())
        return torch.cat(errors).mean().item() / d

    name = f"regression-{options.kind}-{d}-{options.width}"
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "kind": options.kind,
        "dimension": d,
        "width": options.width,
        "layers": options.layers,
        "steps": 0,
        "rate": options.rate,
        "seed": options.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": [],
        "losses": [],
    }

    def write():
        (options.out / f"{name}.json").write_text(json.dumps(result))

    def log(step, loss):
        result["steps"] = step + 1
        result["curve"].append([step, last_error(EVALUATED_ON_THE_WAY)])
        result["losses"].append([step, dimensions_at(step / options.steps, d), loss])
        write()

    def batch(step):
        return examples(dimensions_at(step / options.steps, d), generator)

    seconds = train(
        model, loss_of, batch, options.steps, options.rate,
        log=log, log_every=max(100, options.steps // 25), compiled=True, varying=True, until=until,
    )  # fmt: skip
    model.train()
    result |= {"last_error": last_error(EVALUATED), "ms_per_step": 1000 * seconds}
    write()
    torch.save({key: value.half() for key, value in model.state_dict().items()}, options.out / f"{name}.pt")
    print(name, result["steps"], round(result["last_error"], 4), f"{result['ms_per_step']:.1f} ms", flush=True)
    return result


if __name__ == "__main__":
    main()
