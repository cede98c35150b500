"""
Exports a trained model of this folder to ONNX, in plain operators, with its large weights stored as float16.

    python export.py results/byte-lm-multi-level-128 multi-level.onnx
    python export.py results/regression-bilinear-btt-16-128 bilinear-btt.onnx --dynamo --opset 18

The argument is the path of NAME.json and NAME.pt without the ending. Byte models take `input_ids` [batch,
sequence] int64 and give `logits` [batch, sequence, 256]; regressions take `xs` [batch, points, d] and `ys`
[batch, points] and give `predictions` [batch, points]. Axes called by name here are dynamic.

Tested with torch 2.13.0, onnx 1.23.1, onnxscript 0.7.2.
"""

import argparse
import json
import pathlib
import sys

import onnx
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "byte-lm"))
from export import remove_source_locations, store_large_weights_as_float16  # noqa: E402

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=pathlib.Path)
    parser.add_argument("output")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--dynamo", action="store_true", help="the exporter of torch.export instead of tracing")
    options = parser.parse_args()

    module, inputs, output, axes = trained(options.trained)
    names = {"input_names": list(inputs), "output_names": [output], "opset_version": options.opset}
    example = tuple(inputs.values())
    if options.dynamo:
        dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
        shapes = (dims,) * len(example)
        torch.onnx.export(module, example, options.output, dynamo=True, external_data=False, dynamic_shapes=shapes, **names)
    else:
        dynamic = {name: axes for name in [*inputs, output]}
        torch.onnx.export(module, example, options.output, dynamo=False, dynamic_axes=dynamic, **names)
    model = onnx.load(options.output)
    remove_source_locations(model)
    store_large_weights_as_float16(model)
    onnx.checker.check_model(model)
    onnx.save(model, options.output)


if __name__ == "__main__":
    main()
