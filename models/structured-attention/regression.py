"""
In-context linear regression after Garg et al. 2022: from examples (x_1, w.x_1), ..., predict w.x for the next x.

    python regression.py softmax --dimension 32 --width 256 --steps 5000 --out results/

Sequences hold 2 d examples, 4 d tokens. Writes NAME.json (error at the last example by training step, divided by
d: 1 is what predicting zero scores, 0 is what least squares scores) and NAME.pt (weights).
"""

import argparse
import json
import pathlib

import torch
from torch import nn

import attention
from training import train
from transformer import Transformer

BATCH, LAYERS, HEADS = 64, 6, 8
RATE = 1e-3
#: Share of the training over which examples grow from 4 dimensions and 8 points to all of them.
CURRICULUM = 0.3
EVALUATED = 1024

KINDS = {
    "softmax": lambda width: attention.SoftmaxAttention(width, HEADS, True),
    "bilinear-btt": lambda width: attention.BilinearBlockTensorTrain(width, HEADS, True),
    "bilinear-mlr": lambda width: attention.BilinearMultiLevel(width, HEADS, True, mlr_ranks(width // HEADS)),
}


def mlr_ranks(head_size):
    """Half of a head's dimensions on the first level, a quarter on the second, an eighth on each of two more."""
    return [head_size // 2, head_size // 4, head_size // 8, head_size // 8]


class RegressionModel(nn.Module):
    """xs [B, n, d], ys [B, n] -> predictions [B, n] of every y from the examples before it and its x."""

    def __init__(self, kind, width, dimension, layers=LAYERS):
        super().__init__()
        self.read_in = attention.Projection(dimension, width)
        self.transformer = Transformer(width, layers, lambda: KINDS[kind](width))
        self.read_out = attention.Projection(width, 1, zero=True)

    def forward(self, xs, ys):
        answers = nn.functional.pad(ys[..., None], (0, xs.shape[-1] - 1))
        tokens = torch.stack([xs, answers], dim=2).flatten(1, 2)
        states = self.transformer(self.read_in(tokens))
        return self.read_out(states.unflatten(1, (-1, 2))[:, :, 0])[..., 0]


def loss_of(model, xs, ys, counted):
    """Mean squared error over the points that count."""
    return ((model(xs, ys).float() - ys).square() * counted).sum() / (counted.sum() * xs.shape[0])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    d, points = options.dimension, 2 * options.dimension
    model = RegressionModel(options.kind, options.width, d, options.layers).to(device)
    generator = torch.Generator(device).manual_seed(options.seed)

    def examples(count, dimensions, source):
        xs = torch.randn(count, points, d, device=device, generator=source)
        xs[..., dimensions:] = 0
        w = torch.randn(count, d, 1, device=device, generator=source)
        return xs, (xs @ w)[..., 0]

    def batch(step):
        progress = min(1.0, step / (CURRICULUM * options.steps))
        dimensions = min(d, 4 + int(progress * (d - 4)))
        counted = torch.arange(points, device=device) < 8 + int(progress * (points - 8))
        return [*examples(BATCH, dimensions, generator), counted.float()]

    @torch.no_grad()
    def last_error():
        source = torch.Generator(device).manual_seed(1_000_003)
        errors = []
        for _ in range(EVALUATED // BATCH):
            xs, ys = examples(BATCH, d, source)
            with torch.autocast(device, torch.bfloat16):
                errors.append((model(xs, ys).float()[:, -1] - ys[:, -1]).square().mean())
        return torch.stack(errors).mean().item() / d

    curve = []

    def log(step, _):
        model.eval()
        curve.append([step, last_error()])
        model.train()

    seconds = train(
        model, loss_of, batch, options.steps, options.rate,
        log=log, log_every=max(100, options.steps // 25), compiled=True,
    )
    name = f"regression-{options.kind}-{d}-{options.width}"
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save({key: value.half() for key, value in model.state_dict().items()}, options.out / f"{name}.pt")
    result = {
        "kind": options.kind,
        "dimension": d,
        "width": options.width,
        "layers": options.layers,
        "steps": options.steps,
        "rate": options.rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "ms_per_step": 1000 * seconds,
        "last_error": last_error(),
        "curve": curve,
    }
    (options.out / f"{name}.json").write_text(json.dumps(result))
    print(name, round(result["last_error"], 4), f"{result['ms_per_step']:.1f} ms", flush=True)
    return result


if __name__ == "__main__":
    main()
