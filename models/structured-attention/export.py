"""
Exports a trained model of this folder to ONNX, in plain operators, by torch.export, with its large weights stored
as float16 or, with --small, in 4 and 8 bits.

    python export.py trained/byte-lm-multi-level-128 multi-level.onnx --small
    python export.py trained/regression-bilinear-btt-16-128 bilinear-tensor-train.onnx --opset 18

The argument is the path of NAME.json and NAME.pt without the ending. Byte models take `input_ids` [batch,
sequence] int64 and give `logits` [batch, sequence, 256]; regressions take `xs` [batch, points, d] and `ys`
[batch, points] and give `predictions` [batch, points]. Axes called by name here are dynamic.

Tested with torch 2.13.0, onnx 1.23.1, onnxscript 0.7.2.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "byte-lm"))
from export import prepend, remove_source_locations, store_large_weights_as_float16  # noqa: E402

import byte_lm  # noqa: E402
import regression  # noqa: E402


def trained(path):
    """The model, examples of its inputs by name, and the names of its output and dynamic axes."""
    facts = json.loads(pathlib.Path(f"{path}.json").read_text())
    if "dimension" in facts:
        model = regression.RegressionModel(facts["kind"], facts["width"], facts["dimension"], facts["layers"])
        points = 2 * facts["dimension"]
        inputs = {"xs": torch.randn(2, points, facts["dimension"]), "ys": torch.randn(2, points)}
        output, axes = "predictions", {0: "batch", 1: "points"}
    else:
        model = byte_lm.ByteModel(facts["kind"], facts["width"], facts["layers"])
        inputs = {"input_ids": torch.randint(256, (2, 160))}
        output, axes = "logits", {0: "batch", 1: "sequence"}
    weights = torch.load(f"{path}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model.eval(), inputs, output, axes


#: Numbers that share a scale in 4 bits, along the inputs of a matrix.
QUANTIZED_RUN = 32


def rounded(values, largest, axis):
    """Whole numbers up to `largest` in size, and the float16 scale that each run along `axis` is a multiple of."""
    scale = (np.abs(values).max(axis=axis, keepdims=True) / largest).astype(np.float16)
    quotients = values / np.maximum(scale.astype(np.float32), np.finfo(np.float16).tiny)
    return np.clip(np.rint(quotients), -largest, largest).astype(np.int8), scale


def store_in_few_bits(model, feed_forward, smallest=1024):
    """
    Puts a DequantizeLinear behind every large matrix: 4 bits for those of feed-forward layers, told by their size
    `feed_forward`, with a scale for each run of inputs; 8 bits for the others, with a scale for each column, and for
    each row of the embedding. Rounds them. Scales are stored as float16 and widened when a model is loaded, so that
    no device needs float16 arithmetic. Runs are an axis of their own, which a Flatten removes: where products with
    float32 follow at once, some runtimes take them in 8 bits.
    """
    nodes = []
    gathered = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or np.prod(tensor.dims) < smallest:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        inputs, outputs = values.shape
        levels, run = (7, QUANTIZED_RUN) if feed_forward in values.shape else (127, inputs)
        packed, scale, half, runs = (f"{name}.{part}" for part in ("packed", "scale", "half", "runs"))
        nodes.append(helper.make_node("Cast", [half], [scale], to=TensorProto.FLOAT))
        if name in gathered:
            whole, scales = rounded(values, levels, 1)
            scales = scales.flatten()
            nodes.append(helper.make_node("DequantizeLinear", [packed, scale], [name], axis=0))
        else:
            whole, scales = rounded(values.reshape(-1, run, outputs), levels, 1)
            nodes.append(helper.make_node("DequantizeLinear", [packed, scale], [runs], axis=1, block_size=run))
            nodes.append(helper.make_node("Flatten", [runs], [name], axis=2))
        if levels == 7:
            pairs = whole.reshape(-1, 2) & 15
            in_bytes = (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
            tensor.CopyFrom(helper.make_tensor(packed, TensorProto.INT4, whole.shape, in_bytes, raw=True))
        else:
            tensor.CopyFrom(numpy_helper.from_array(whole, packed))
        model.graph.initializer.append(numpy_helper.from_array(scales, half))
    prepend(model, nodes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=pathlib.Path)
    parser.add_argument("output")
    parser.add_argument("--opset", type=int, default=21, help="18 or later; 4 bits need 21")
    parser.add_argument("--small", action="store_true", help="store large weights in 4 and 8 bits")
    options = parser.parse_args()

    module, inputs, output, axes = trained(options.trained)
    dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
    example = tuple(inputs.values())
    torch.onnx.export(
        module, example, options.output, dynamo=True, external_data=False, dynamic_shapes=(dims,) * len(example),
        input_names=list(inputs), output_names=[output], opset_version=options.opset,
    )  # fmt: skip
    model = onnx.load(options.output)
    remove_source_locations(model)
    model.graph.ClearField("value_info")
    if options.small:
        store_in_few_bits(model, 4 * module.transformer.width)
    store_large_weights_as_float16(model)
    onnx.checker.check_model(model)
    onnx.save(model, options.output)


if __name__ == "__main__":
    main()
