"""One training loop for all recipes: AdamW with learning rates scaled by fan-in, replayed as a CUDA graph."""

import math
import time

import torch

from transformer import run_block

#: Fan-in at which a matrix is trained with the learning rate as given (maximal update parametrization).
BASE_FAN_IN = 256
WARM_UP = 0.04
GRADIENT_NORM = 1.0
#: Steps taken before a graph is captured.
EAGER_STEPS = 3


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


class Replayed:
    """
    Calls `update()` on a copy of its tensors: eagerly, and after a few calls with tensors of one shape as a
    CUDA graph. Returns what `update` returned.
    """

    def __init__(self, update):
        self.update, self.inputs, self.graph = update, None, None
        self.side = torch.cuda.Stream()

    def __call__(self, tensors):
        if self.inputs is None or any(kept.shape != new.shape for kept, new in zip(self.inputs, tensors)):
            torch.cuda.synchronize()
            self.graph, self.inputs, self.calls = None, [torch.empty_like(tensor) for tensor in tensors], 0
        for kept, new in zip(self.inputs, tensors):
            kept.copy_(new)
        self.calls += 1
        if self.calls <= EAGER_STEPS:
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                result = self.update(*self.inputs)
            torch.cuda.current_stream().wait_stream(self.side)
            return result
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = self.update(*self.inputs)
        self.graph.replay()
        return self.result


def train(model, loss_of, batch, steps, rate, log=None, log_every=100, compiled=False, varying=False, until=math.inf):
    """
    Trains in place for `steps` steps, or until time.time() is `until`. `batch(step)` gives tensors, of constant
    shapes or, with `varying`, of a few shapes in turn; `loss_of(model, *tensors)` gives a scalar. `log(step, loss)`
    is called every `log_every` steps. With `compiled`, the blocks of `model.transformer` are compiled where the
    compiler can. Returns seconds per step, logging left out.
    """
    model.train()
    device = next(model.parameters()).device
    graphs = device.type == "cuda"
    groups = parameter_groups(model, rate)
    optimizer = torch.optim.AdamW(
        groups, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, capturable=graphs, fused=graphs
    )

    def update(*inputs):
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

    running = run_block
    if compiled and graphs:
        torch.compiler.reset()
        running = torch.compile(run_block, dynamic=varying)
        model.transformer.run_block = running
        try:
            set_rates(0)
            update(*batch(0))
        except RuntimeError as error:
            print("not compiled:", str(error).strip().splitlines()[0], flush=True)
            running = model.transformer.run_block = run_block

    replayed = Replayed(update) if graphs else lambda tensors: update(*tensors)
    start, logging, step = time.perf_counter(), 0.0, 0
    for step in range(steps):
        set_rates(step)
        value = replayed(batch(step))
        last = step == steps - 1 or time.time() >= until
        if log is not None and (last or step % log_every == 0):
            loss, before = value.item(), time.perf_counter()
            model.transformer.run_block = run_block
            log(step, loss)
            model.transformer.run_block = running
            logging += time.perf_counter() - before
        if last:
            break
    if graphs:
        torch.cuda.synchronize()
    model.transformer.run_block = run_block
    model.eval()
    return (time.perf_counter() - start - logging) / (step + 1)
