"""Writes element-wise attention as PyTorch implementations export it, and forms that only look like it.

  python test/zoo/elementwise/generate.py       # writes *.onnx beside this file

Needs what test/zoo/generate needs (see test/zoo/README.md). Deterministic for given versions.
"""

import math
import os
import sys

import onnx
import torch
from torch import nn

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(FOLDER, "..", "generate"))

from exporting import DYNAMO_18, LEGACY_17, Input, export, randomize  # noqa: E402

WIDTH = 12
SIZES = {"batch": 2, "sequence": 9}
X = Input("x", ("batch", "sequence", WIDTH), "normal", "float32")
MASK = Input("mask", ("batch", "sequence"), "visible", "bool")
TOKEN = Input("x", ("batch", 1, WIDTH), "normal", "float32")


def state(name, *dims):
    """Sums of earlier tokens, which come out as `new_` and the name."""
    return Input(name, ("batch", *dims), "normal", "float32")


class Layer(nn.Module):
    """Projections around `attend(q, k, v)`, which sees and returns `[batch, sequence, channels]`."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, *inputs):
        x, *masks = inputs
        return self.out(self.attend(self.query(x), self.key(x), self.value(x), *masks))


class SeriesSum(Layer):
    """Powers by **, one sum over the keys for each."""

    order = 2

    def attend(self, q, k, v):
        weight = torch.exp(-(k**2))
        numerator = denominator = 0
        for n in range(self.order + 1):
            factor = 2**n / math.factorial(n) * q**n
            term = k**n * weight
            numerator = numerator + factor * (term * v).sum(1, keepdim=True)
            denominator = denominator + factor * term.sum(1, keepdim=True)
        return numerator / denominator


class SeriesCumsum(Layer):
    """Causal, powers as running products."""

    order = 6

    def attend(self, q, k, v):
        term, factor = torch.exp(-k * k), torch.ones_like(q)
        numerator, denominator = torch.zeros_like(q), torch.zeros_like(q)
        for n in range(self.order + 1):
            numerator = numerator + factor * torch.cumsum(term * v, dim=1)
            denominator = denominator + factor * torch.cumsum(term, dim=1)
            term, factor = term * k, factor * q * (2 / (n + 1))
        return numerator / denominator


class SeriesStacked(Layer):
    """Causal, all orders in one tensor."""

    order = 4

    def attend(self, q, k, v):
        orders = torch.arange(self.order + 1)
        factors = torch.tensor([2.0**n / math.factorial(n) for n in range(self.order + 1)])
        terms = torch.stack([k**n for n in range(self.order + 1)], -1) * torch.exp(-k.square()).unsqueeze(-1)
        queries = q.unsqueeze(-1) ** orders * factors
        numerator = (queries * (terms * v.unsqueeze(-1)).cumsum(1)).sum(-1)
        return numerator / (queries * terms.cumsum(1)).sum(-1)


class SeriesHorner(Layer):
    """Sums first, the polynomial in q by Horner's rule; packed projections, scaled queries, stable weights."""

    order = 4

    def __init__(self):
        super().__init__()
        self.packed = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = self.packed(x).chunk(3, -1)
        return self.out(self.attend(torch.tanh(q) * 0.8, k, v))

    def attend(self, q, k, v):
        squares = k * k
        weight = torch.exp(squares.amin(1, keepdim=True) - squares)
        terms = [weight * k**n for n in range(self.order + 1)]
        numerator = denominator = 0
        for n in reversed(range(self.order + 1)):
            factor = 2**n / math.factorial(n)
            numerator = numerator * q + factor * (terms[n] * v).sum(dim=1, keepdim=True)
            denominator = denominator * q + factor * terms[n].sum(dim=1, keepdim=True)
        return numerator / denominator


class SeriesPadded(Layer):
    """Padding takes no part in the sums."""

    order = 2

    def attend(self, q, k, v, mask):
        weight = torch.exp(-(k**2)) * mask.unsqueeze(-1).to(k.dtype)
        numerator = denominator = 0
        for n in range(self.order + 1):
            factor = 2**n / math.factorial(n) * q**n
            numerator = numerator + factor * (k**n * weight * v).sum(1, keepdim=True)
            denominator = denominator + factor * (k**n * weight).sum(1, keepdim=True)
        return numerator / denominator


class SeriesFirst(SeriesSum):
    """The sequence before the batch."""

    def forward(self, x):
        return super().forward(x.transpose(0, 1)).transpose(0, 1)

    def attend(self, q, k, v):
        weight = torch.exp(-(k**2))
        numerator = denominator = 0
        for n in range(self.order + 1):
            factor = 2**n / math.factorial(n) * q**n
            numerator = numerator + factor * (k**n * weight * v).cumsum(0)
            denominator = denominator + factor * (k**n * weight).cumsum(0)
        return numerator / denominator


class ExactSoftmax(Layer):
    """The softmax of squared distances, channel by channel."""

    def attend(self, q, k, v):
        distance = (q.unsqueeze(2) - k.unsqueeze(1)) ** 2
        return ((-distance).softmax(2) * v.unsqueeze(1)).sum(2)


class ExactCausal(Layer):
    def attend(self, q, k, v):
        scores = -(q[:, :, None] - k[:, None]).square()
        visible = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril()
        weights = scores.masked_fill(~visible[None, :, :, None], float("-inf")).softmax(dim=2)
        return (weights * v[:, None]).sum(dim=2)


class ExactPadded(Layer):
    def attend(self, q, k, v, mask):
        scores = -(q[:, :, None] - k[:, None]).square()
        weights = scores.masked_fill(~mask[:, None, :, None], float("-inf")).softmax(dim=2)
        return (weights * v[:, None]).sum(dim=2)


class ExactExp(Layer):
    """The factor exp(-q^2) left out, numerator and denominator apart."""

    def attend(self, q, k, v):
        weights = torch.exp(2 * q.unsqueeze(2) * k.unsqueeze(1) - k.unsqueeze(1) ** 2)
        return (weights * v.unsqueeze(1)).sum(2) / weights.sum(2)


class SeriesHeads(Layer):
    """Causal, channels in heads."""

    def attend(self, q, k, v):
        q, k, v = (x.unflatten(-1, (3, 4)).transpose(1, 2) for x in (q, k, v))
        weight = torch.exp(-k.square())
        numerator = denominator = 0
        for n in range(3):
            factor = 2**n / math.factorial(n) * q**n
            numerator = numerator + factor * (k**n * weight * v).cumsum(2)
            denominator = denominator + factor * (k**n * weight).cumsum(2)
        return (numerator / denominator).transpose(1, 2).flatten(2)


class SeriesTriangle(Layer):
    """Causal sums by a product with a triangle, the quotient by a reciprocal."""

    def attend(self, q, k, v):
        triangle = torch.ones(q.shape[1], q.shape[1]).tril()
        weight = torch.exp(-(k**2))
        numerator = denominator = 0
        for n in range(3):
            factor = 2**n / math.factorial(n) * q**n
            numerator = numerator + factor * (triangle @ (k**n * weight * v))
            denominator = denominator + factor * (triangle @ (k**n * weight))
        return numerator * denominator.reciprocal()


class ExactEinsum(Layer):
    """Pairs by einsum."""

    def attend(self, q, k, v):
        weights = torch.exp(-((q[:, :, None] - k[:, None]) ** 2))
        return torch.einsum("bijx,bjx->bix", weights, v) / weights.sum(2)


class ExactChannelFirst(Layer):
    """Causal, a matrix of weights for each channel."""

    def attend(self, q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        scores = -((q.unsqueeze(-1) - k.unsqueeze(-2)) ** 2)
        later = torch.ones(q.shape[-1], q.shape[-1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        return (weights @ v.unsqueeze(-1)).squeeze(-1).transpose(1, 2)


class ExactBias(Layer):
    """Hidden keys by the most negative number, added."""

    def attend(self, q, k, v, mask):
        bias = (1 - mask.to(q.dtype)) * torch.finfo(q.dtype).min
        weights = (bias[:, None, :, None] - (q[:, :, None] - k[:, None]) ** 2).softmax(2)
        return (weights * v[:, None]).sum(2)


class ExactDivided(Layer):
    """The softmax written out, weights divided before they are used."""

    def attend(self, q, k, v):
        scores = -((q[:, :, None] - k[:, None]) ** 2)
        weights = torch.exp(scores - scores.amax(2, keepdim=True))
        return torch.einsum("bijc,bjc->bic", weights / weights.sum(2, keepdim=True), v)


class HeadLoop(Layer):
    """Causal, head by head."""

    def attend(self, q, k, v):
        heads = []
        for q_head, k_head, v_head in zip(*(x.chunk(2, -1) for x in (q, k, v))):
            weight = torch.exp(-(k_head**2))
            numerator = denominator = 0
            for n in range(3):
                factor = 2**n / math.factorial(n) * q_head**n
                numerator = numerator + factor * (k_head**n * weight * v_head).cumsum(1)
                denominator = denominator + factor * (k_head**n * weight).cumsum(1)
            heads.append(numerator / denominator)
        return torch.cat(heads, -1)


class Step(Layer):
    """A decoding step: sums of earlier tokens in one tensor, the new ones beside the output."""

    factors = (1.0, 2.0, 2.0)

    def forward(self, x, state):
        q, k, v = (project(x).squeeze(1) for project in (self.query, self.key, self.value))
        terms = torch.stack([k**n * torch.exp(-k * k) for n in range(3)], 1)
        state = state + torch.stack([terms * v.unsqueeze(1), terms], 1)
        powers = torch.stack([c * q**n for n, c in enumerate(self.factors)], 1)
        numerator, denominator = (powers.unsqueeze(1) * state).sum(2).unbind(1)
        return self.out(numerator / denominator).unsqueeze(1), state


class StepWrongFactor(Step):
    """The coefficient of the second order is twice the series'."""

    factors = (1.0, 2.0, 4.0)


class StepFeatures(Layer):
    """A decoding step of feature maps: the roots of the factors on both sides, numerators and denominators apart."""

    def forward(self, x, numerators, denominators):
        roots = torch.tensor([math.sqrt(2**n / math.factorial(n)) for n in range(5)])
        q, k, v = (project(x.squeeze(1)).unsqueeze(-1) for project in (self.query, self.key, self.value))
        powers = lambda y: torch.cat([y**n for n in range(5)], -1) * roots
        terms = powers(k) * torch.exp(-k * k)
        numerators, denominators = numerators + terms * v, denominators + terms
        y = (powers(q) * numerators).sum(-1) / (powers(q) * denominators).sum(-1)
        return self.out(y).unsqueeze(1), numerators, denominators


class StepList(Layer):
    """Any number of tokens, a value for each sum; causal."""

    def forward(self, x, s0, s1, s2, z0, z1, z2):
        q, k, v = self.query(x), self.key(x), self.value(x)
        weight = torch.exp(-(k**2))
        after, totals = [], []
        for before, values in (((s0, s1, s2), v), ((z0, z1, z2), 1)):
            sums = [b + (k**n * weight * values).cumsum(1) for n, b in enumerate(before)]
            totals.append(sum(2**n / math.factorial(n) * q**n * s for n, s in enumerate(sums)))
            after += [s[:, -1:] for s in sums]
        return self.out(totals[0] / totals[1]), *after


class OddOrder(SeriesSum):
    order = 3


class Epsilon(Layer):
    """What keeps the denominator from zero is no part of the definition."""

    def attend(self, q, k, v):
        weight = torch.exp(-(k**2))
        numerator = (weight * v).sum(1, True) + 2 * q * (k * weight * v).sum(1, True)
        numerator = numerator + 2 * q**2 * (k**2 * weight * v).sum(1, True)
        denominator = weight.sum(1, True) + 2 * q * (k * weight).sum(1, True)
        denominator = denominator + 2 * q**2 * (k**2 * weight).sum(1, True)
        return numerator / (denominator + 1e-2)


class WrongFactor(Layer):
    """The coefficient of the second order is twice the series'."""

    def attend(self, q, k, v):
        weight = torch.exp(-(k**2))
        numerator = denominator = 0
        for n in range(3):
            numerator = numerator + (2 * q) ** n * (k**n * weight * v).sum(1, True)
            denominator = denominator + (2 * q) ** n * (k**n * weight).sum(1, True)
        return numerator / denominator


class LaterKey(Layer):
    """Each row sees the key after its own too."""

    def attend(self, q, k, v):
        scores = -(q[:, :, None] - k[:, None]).square()
        later = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(2)
        weights = scores.masked_fill(later[None, :, :, None], float("-inf")).softmax(dim=2)
        return (weights * v[:, None]).sum(dim=2)


class Window(Layer):
    """Causal, but only the last 20 keys."""

    def attend(self, q, k, v):
        scores = -(q[:, :, None] - k[:, None]).square()
        position = torch.arange(q.shape[1])
        distance = position[:, None] - position[None, :]
        visible = (distance >= 0) & (distance < 20)
        weights = scores.masked_fill(~visible[None, :, :, None], float("-inf")).softmax(dim=2)
        return (weights * v[:, None]).sum(dim=2)


CASES = {
    "series-sum": (SeriesSum, [X]),
    "series-cumsum": (SeriesCumsum, [X]),
    "series-stacked": (SeriesStacked, [X]),
    "series-horner": (SeriesHorner, [X]),
    "series-padded": (SeriesPadded, [X, MASK]),
    "series-sequence-first": (SeriesFirst, [X]),
    "exact-softmax": (ExactSoftmax, [X]),
    "exact-causal": (ExactCausal, [X]),
    "exact-padded": (ExactPadded, [X, MASK]),
    "exact-exp": (ExactExp, [X]),
    "series-heads": (SeriesHeads, [X]),
    "series-triangle": (SeriesTriangle, [X]),
    "exact-einsum": (ExactEinsum, [X]),
    "exact-channel-first": (ExactChannelFirst, [X]),
    "exact-bias": (ExactBias, [X, MASK]),
    "exact-divided": (ExactDivided, [X], LEGACY_17),
    "series-head-loop": (HeadLoop, [X], LEGACY_17),
    "step-stacked": (Step, [TOKEN, state("state", 2, 3, WIDTH)], DYNAMO_18),
    "step-features": (
        StepFeatures,
        [TOKEN, state("numerators", WIDTH, 5), state("denominators", WIDTH, 5)],
        LEGACY_17,
    ),
    "step-list": (StepList, [X, *(state(f"{of}{n}", 1, WIDTH) for of in "sz" for n in range(3))], LEGACY_17),
    "step-wrong-factor": (StepWrongFactor, [TOKEN, state("state", 2, 3, WIDTH)], LEGACY_17),
    "odd-order": (OddOrder, [X], LEGACY_17),
    "epsilon": (Epsilon, [X], LEGACY_17),
    "wrong-factor": (WrongFactor, [X], LEGACY_17),
    "later-key": (LaterKey, [X], LEGACY_17),
    "window": (Window, [X], LEGACY_17),
}


def main():
    for name, (module, inputs, *exporters) in CASES.items():
        outputs = {"y": inputs[0].dims, **{f"new_{given.name}": given.dims for given in inputs if given.name not in ("x", "mask")}}
        for exporter in exporters or (LEGACY_17, DYNAMO_18):
            built = randomize(module(), 5)
            model = export(built, inputs, outputs, exporter, SIZES)
            onnx.save(model, os.path.join(FOLDER, f"{name}-{exporter.label}.onnx"))


if __name__ == "__main__":
    main()
