"""One training loop for all recipes: AdamW with learning rates scaled by fan-in, replayed as a CUDA graph."""

import math
import time

import torch

from transformer import run_block

#: Fan-in at which a matrix is trained with the learning rate as given (maximal update parametrization).
BASE_FAN_IN = 256
WARM_UP = 0.04
GRADIENT_NORM = 1.0


def parameter_groups(model, rate):
    """Groups by learning rate: a matrix by its fan-in, everything else (embeddings, gains) as given."""
    groups = {}
    for parameter in model.parameters():
        scale = BASE_FAN_IN / parameter.fan_in if hasattr(parameter, "fan_in") else 1.0
        groups.setdefault(scale, []).append(parameter)
    device = next(model.parameters()).device
    return [
        {"params": group, "lr": torch.tensor(rate * scale, device=device), "peak": rate * scale}
        for scale, group in groups.items()
    ]


def schedule(step, steps):
    """Share of the peak learning rate: a linear rise, then half a cosine down to a tenth."""
    rise = max(1, int(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def train(model, loss_of, batch, steps, rate, log=None, log_every=100, compiled=False):
    """
    Trains in place for `steps` steps. `batch(step)` gives tensors of constant shapes, `loss_of(model, *tensors)`
    a scalar. `log(step, loss)` is called every `log_every` steps. With `compiled`, the blocks of
    `model.transformer` are compiled where the compiler can. Returns seconds per step, logging left out.
    """
    model.train()
    device = next(model.parameters()).device
    graphs = device.type == "cuda"
    groups = parameter_groups(model, rate)
    optimizer = torch.optim.AdamW(
        groups, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, capturable=graphs, fused=graphs
    )
    inputs = [tensor.clone() for tensor in batch(0)]

    def update():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            loss = loss_of(model, *inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM, foreach=True)
        optimizer.step()
        return loss.detach()

    def set_rates(step):
        for group in optimizer.param_groups:
            group["lr"].fill_(group["peak"] * schedule(step, steps))

    if compiled and graphs:
        torch.compiler.reset()
        model.transformer.run_block = torch.compile(run_block)
        try:
            set_rates(0)
            update()
        except RuntimeError as error:
            print("not compiled:", str(error).strip().splitlines()[0], flush=True)
            model.transformer.run_block = run_block

    step, replay = 0, update
    if graphs:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for step in range(3):
                set_rates(step)
                for kept, new in zip(inputs, batch(step)):
                    kept.copy_(new)
                update()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            graph_loss = update()

        def replay():
            graph.replay()
            return graph_loss

        step = 3
    first, start, logging = step, time.perf_counter(), 0.0
    for step in range(first, steps):
        set_rates(step)
        for kept, new in zip(inputs, batch(step)):
            kept.copy_(new)
        value = replay()
        if log is not None and (step % log_every == 0 or step == steps - 1):
            loss, before = value.item(), time.perf_counter()
            log(step, loss)
            logging += time.perf_counter() - before
    if graphs:
        torch.cuda.synchronize()
    model.transformer.run_block = run_block
    model.eval()
    return (time.perf_counter() - start - logging) / max(1, steps - first)
