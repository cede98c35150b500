"""Exports a trained byte-level transformer to ONNX, with its large weights stored as float16 or int8.

    python export.py encoder weights.safetensors encoder.onnx
    python export.py causal weights.safetensors causal.onnx --dynamo --opset 18 --int8-feed-forward

Weights are named as `ByteTransformer.state_dict()` names them. The exported model takes `input_ids`, int64
[batch, sequence], with 0..255 for bytes and 256 for a masked byte, and gives `logits`, float32
[batch, sequence, 256]; both axes are dynamic, and any sequence length works, since the rotary angles are
computed in the graph.

Tested with torch 2.13.0, onnx 1.23.1, onnxscript 0.7.2, safetensors 0.8.0.
"""

import argparse

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

WIDTH = 256
HEADS = 4
HEAD_SIZE = WIDTH // HEADS
LAYERS = 6
FEED_FORWARD = 704
BYTES = 256
MASKED = 256
ROTARY_BASE = 50000.0


class RootMeanSquareNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        power = x.square().mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(power + torch.finfo(torch.float32).eps) * self.weight


def rotary(sequence):
    """Cosines and sines of [sequence] positions by [HEAD_SIZE / 2] frequencies."""
    half = HEAD_SIZE // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half).float() / half)
    angles = torch.outer(torch.arange(sequence).float(), frequencies)
    return torch.cos(angles), torch.sin(angles)


def turn(x, cosines, sines):
    """Rotates the two halves of each head, as pairs, by the angles of their positions."""
    first, second = x.split(HEAD_SIZE // 2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


class SelfAttention(nn.Module):
    def __init__(self, causal):
        super().__init__()
        self.causal = causal
        self.q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x, angles):
        batch, sequence, _ = x.shape
        heads = [
            project(x).view(batch, sequence, HEADS, HEAD_SIZE).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        ]
        query, key, value = turn(heads[0], *angles), turn(heads[1], *angles), heads[2]
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.o(mixed.transpose(1, 2).reshape(batch, sequence, WIDTH))


class GatedFeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.up = nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.down = nn.Linear(FEED_FORWARD, WIDTH, bias=False)

    def forward(self, x):
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self, causal):
        super().__init__()
        self.norm1 = RootMeanSquareNorm()
        self.attn = SelfAttention(causal)
        self.norm2 = RootMeanSquareNorm()
        self.mlp = GatedFeedForward()

    def forward(self, x, angles):
        x = x + self.attn(self.norm1(x), angles)
        return x + self.mlp(self.norm2(x))


class ByteTransformer(nn.Module):
    def __init__(self, causal):
        super().__init__()
        self.embed = nn.Embedding(BYTES + 1, WIDTH)
        self.blocks = nn.ModuleList([Layer(causal) for _ in range(LAYERS)])
        self.norm = RootMeanSquareNorm()
        self.head = nn.Linear(WIDTH, BYTES, bias=False)

    def forward(self, input_ids):
        angles = rotary(input_ids.shape[1])
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x, angles)
        return self.head(self.norm(x))


def store_large_weights_as_float16(model, smallest=1024):
    """Puts a Cast behind every large float32 initializer. The trained weights are float16 numbers, so the
    model computes what it did."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < smallest:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.float16"))
        casts.append(helper.make_node("Cast", [f"{name}.float16"], [name], f"{name}.cast", to=TensorProto.FLOAT))
    prepend(model, casts)


def store_feed_forward_as_int8(model):
    """Puts a DequantizeLinear behind the weights of the feed-forward layers, [inputs, outputs] each, with one
    scale per output. Rounds them: attention, embedding and head stay what they were."""
    dequantizers = []
    for tensor in model.graph.initializer:
        if len(tensor.dims) != 2 or FEED_FORWARD not in tensor.dims:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        scale = np.abs(values).max(axis=0) / np.float32(127)
        tensor.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.int8"))
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        dequantizers.append(
            helper.make_node("DequantizeLinear", [f"{name}.int8", f"{name}.scale"], [name], f"{name}.dequantize", axis=1)
        )
    prepend(model, dequantizers)


def prepend(model, nodes):
    nodes = nodes + list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def remove_source_locations(model):
    """Exporters note the Python lines that made each node; the scopes of the modules stay."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        kept = [entry for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        node.ClearField("metadata_props")
        node.metadata_props.extend(kept)
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        value.ClearField("metadata_props")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["encoder", "causal"])
    parser.add_argument("weights")
    parser.add_argument("output")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--dynamo", action="store_true", help="the exporter of torch.export instead of tracing")
    parser.add_argument("--int8-feed-forward", action="store_true", help="store feed-forward weights as int8")
    arguments = parser.parse_args()

    transformer = ByteTransformer(causal=arguments.kind == "causal").eval()
    transformer.load_state_dict({name: value.float() for name, value in load_file(arguments.weights).items()})
    example = (torch.zeros(2, 64, dtype=torch.int64),)
    axes = {0: "batch", 1: "sequence"}
    names = {"input_names": ["input_ids"], "output_names": ["logits"], "opset_version": arguments.opset}
    if arguments.dynamo:
        dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
        torch.onnx.export(
            transformer, example, arguments.output, dynamo=True, external_data=False, dynamic_shapes=(dims,), **names
        )
    else:
        dynamic = {"input_ids": axes, "logits": axes}
        torch.onnx.export(transformer, example, arguments.output, dynamo=False, dynamic_axes=dynamic, **names)

    model = onnx.load(arguments.output)
    remove_source_locations(model)
    if arguments.int8_feed_forward:
        store_feed_forward_as_int8(model)
    store_large_weights_as_float16(model)
    onnx.checker.check_model(model)
    onnx.save(model, arguments.output)


if __name__ == "__main__":
    main()
