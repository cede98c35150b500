"""
Forecasting of ETTh1 (Zhou et al. 2021): the next 96, 192 or 336 hours of seven series from the last 512.

    python time_series.py softmax --data ETTh1.csv --horizon 96 --out results/

Twelve months train, four validate (the epoch with the least error is kept), four test; all standardized by the
training months. Writes NAME.json with the test errors. The data is licensed for use, not for redistribution.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from torch import nn

import attention
from training import train
from transformer import Transformer

HISTORY, SERIES, WIDTH, HEADS, LAYERS = 512, 7, 512, 8, 2
BATCH, EPOCHS, RATE = 32, 4, 3e-4
HOURS_PER_MONTH = 30 * 24

KINDS = {
    "softmax": lambda: attention.SoftmaxAttention(WIDTH, HEADS, False),
    "multi-level-48-16": lambda: attention.MultiLevelAttention(WIDTH, HEADS, False, [48, 16], HISTORY // 2),
    "multi-level-40-16-4-4": lambda: attention.MultiLevelAttention(
        WIDTH, HEADS, False, [40, 16, 4, 4], HISTORY // 8
    ),
    "elementwise-2": lambda: attention.ElementwiseAttention(WIDTH, HEADS, False, 2),
    "elementwise-6": lambda: attention.ElementwiseAttention(WIDTH, HEADS, False, 6),
}


class Forecaster(nn.Module):
    """history [B, 512, 7] -> forecast [B, horizon, 7], each window centered and scaled by itself."""

    def __init__(self, kind, horizon):
        super().__init__()
        self.horizon = horizon
        self.read_in = attention.Projection(SERIES, WIDTH)
        self.transformer = Transformer(WIDTH, LAYERS, KINDS[kind])
        self.read_out = attention.Projection(WIDTH, SERIES)
        self.extend = attention.Projection(HISTORY, horizon)

    def forward(self, history):
        mean = history.mean(1, keepdim=True)
        scale = history.std(1, keepdim=True) + 1e-5
        states = self.transformer(self.read_in((history - mean) / scale))
        forecast = self.extend(self.read_out(states).transpose(1, 2)).transpose(1, 2)
        return forecast.float() * scale + mean


def loss_of(model, history, future):
    return (model(history) - future).square().mean()


@torch.no_grad()
def errors(model, windows, starts):
    """Mean squared and mean absolute error over all windows."""
    squared, absolute = [], []
    for group in torch.split(starts, 256):
        history, future = windows(group)
        difference = model(history) - future
        squared.append(difference.square().mean((1, 2)))
        absolute.append(difference.abs().mean((1, 2)))
    return torch.cat(squared).mean().item(), torch.cat(absolute).mean().item()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--horizon", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = np.loadtxt(options.data, delimiter=",", skiprows=1, usecols=range(1, 1 + SERIES), dtype=np.float32)
    borders = [0, 12 * HOURS_PER_MONTH, 16 * HOURS_PER_MONTH, 20 * HOURS_PER_MONTH]
    trained_on = table[: borders[1]]
    series = torch.from_numpy((table - trained_on.mean(0)) / trained_on.std(0)).to(device)
    offsets = torch.arange(HISTORY + options.horizon, device=device)

    def windows(starts):
        window = series[starts[:, None] + offsets]
        return window[:, :HISTORY], window[:, HISTORY:]

    def starts(part):
        first = max(0, borders[part] - HISTORY)
        return torch.arange(first, borders[part + 1] - HISTORY - options.horizon + 1, device=device)

    generator = torch.Generator(device).manual_seed(options.seed)
    training = starts(0)

    def batch(_):
        chosen = torch.randint(len(training), (BATCH,), device=device, generator=generator)
        return windows(training[chosen])

    model = Forecaster(options.kind, options.horizon).to(device)
    epoch = len(training) // BATCH
    best = {"validation": float("inf")}
    curve = []

    def log(step, loss):
        model.eval()
        validation, _ = errors(model, windows, starts(1))
        curve.append([step, loss, validation])
        if validation < best["validation"]:
            squared, absolute = errors(model, windows, starts(2))
            best.update(validation=validation, mse=squared, mae=absolute, step=step)
        model.train()

    seconds = train(
        model, loss_of, batch, options.epochs * epoch, RATE, log=log, log_every=epoch // 2, compiled=True
    )
    name = f"time-series-{options.kind}-{options.horizon}"
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "kind": options.kind,
        "horizon": options.horizon,
        "seed": options.seed,
        "epochs": options.epochs,
        "ms_per_step": 1000 * seconds,
        **best,
        "curve": curve,
    }
    (options.out / f"{name}-{options.seed}.json").write_text(json.dumps(result))
    print(name, f"MSE {best['mse']:.4f} MAE {best['mae']:.4f} {result['ms_per_step']:.1f} ms", flush=True)
    return result


if __name__ == "__main__":
    main()
