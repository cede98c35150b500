"""Exports one torch module to ONNX with either exporter, without traces of the machine it ran on."""

import inspect
import logging
import os
import tempfile
import warnings
from dataclasses import dataclass, field

import onnx
import torch

SCOPE_METADATA = "pkg.torch.onnx.name_scopes"
# Nodes that sites are named after: the scopes of all others would be half of a small file.
NAMING = {"Attention", "CumSum", "Div", "Einsum", "MatMul", "ReduceSum", "Softmax"}


@dataclass(frozen=True)
class Exporter:
    """`legacy` traces with TorchScript, `dynamo` with torch.export; `opset` is the target of both."""

    kind: str
    opset: int

    @property
    def label(self):
        return f"{self.kind}{self.opset}"


LEGACY_11, LEGACY_14, LEGACY_17 = (Exporter("legacy", opset) for opset in (11, 14, 17))
DYNAMO_18, DYNAMO_23 = (Exporter("dynamo", opset) for opset in (18, 23))


@dataclass(frozen=True)
class Input:
    """One model input: a symbolic shape and how tests fill it.

    `dims` mixes symbols and numbers. `fill` is one of
      ids:N      int64 uniform in [0, N)
      padding    int64, one where a token is real, zero on padding
      visible    bool, true where a token is real; `hidden` is its complement
      normal     float standard normal
      arange     int64 position of the column
      or a literal list of values for constant-shape inputs.
    """

    name: str
    dims: tuple
    fill: object
    dtype: str = "int64"


def randomize(module, seed):
    """Replaces initial weights by ones large enough that a wrong scale, mask or bias changes the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                fan_in = parameter[0].numel()
                parameter.copy_(noise * (1.3 / fan_in**0.5 if "embed" not in name else 0.7))
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.3 * noise)
    return module.eval()


def example(inputs, sizes, float_type=torch.float32):
    """Example tensors for tracing, one per input; symbols take their size from `sizes`."""
    generator = torch.Generator().manual_seed(7)
    tensors = []
    for spec in inputs:
        shape = [sizes[d] if isinstance(d, str) else d for d in spec.dims]
        if spec.fill == "normal":
            tensors.append(torch.randn(shape, generator=generator).to(float_type))
        elif spec.fill == "padding":
            mask = torch.ones(shape, dtype=torch.int64)
            mask[0, -1] = 0
            tensors.append(mask)
        elif spec.fill in ("visible", "hidden"):
            mask = torch.full(shape, spec.fill == "visible")
            mask[0, -1] = spec.fill == "hidden"
            tensors.append(mask)
        elif spec.fill == "arange":
            tensors.append(torch.arange(shape[-1]).expand(shape).contiguous())
        elif isinstance(spec.fill, str) and spec.fill.startswith("ids:"):
            tensors.append(torch.randint(0, int(spec.fill[4:]), shape, generator=generator))
        else:
            raise ValueError(f"unknown fill {spec.fill!r}")
    return tuple(tensors)


def export(module, inputs, outputs, exporter, sizes, float_type=torch.float32):
    """The ONNX model of `module`. `outputs` maps output names to symbolic dims, as `Input.dims`."""
    arguments = example(inputs, sizes, float_type)
    names = {"input_names": [spec.name for spec in inputs], "output_names": list(outputs)}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        path = os.path.join(folder, "model.onnx")
        if exporter.kind == "legacy":
            named = [(spec.name, spec.dims) for spec in inputs] + list(outputs.items())
            axes = {n: {i: d for i, d in enumerate(dims) if isinstance(d, str)} for n, dims in named}
            torch.onnx.export(
                module, arguments, path, dynamo=False, opset_version=exporter.opset,
                dynamic_axes={n: a for n, a in axes.items() if a}, **names,
            )
        else:
            symbols = {}
            shapes = tuple(
                {i: symbols.setdefault(d, torch.export.Dim.DYNAMIC) for i, d in enumerate(spec.dims) if isinstance(d, str)}
                for spec in inputs
            )
            parameters = inspect.signature(module.forward).parameters.values()
            if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
                shapes = (shapes,)
            quiet = logging.getLogger("torch.onnx")
            level = quiet.level
            quiet.setLevel(logging.ERROR)
            torch.onnx.export(
                module, arguments, path, dynamo=True, opset_version=exporter.opset, external_data=False,
                verbose=False, dynamic_shapes=shapes, **names,
            )
            quiet.setLevel(level)
        model = onnx.load(path)
    return strip_metadata(model)


def strip_metadata(model):
    """Removes what names the exporting machine (doc strings, stack traces) and what only debugs the exporter.

    Of the dynamo exporter's metadata the module scopes of the nodes stay that sites are named after.
    """

    def strip(node):
        node.doc_string = ""
        kept = [p for p in node.metadata_props if p.key == SCOPE_METADATA and node.op_type in NAMING]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                for inner in graph.node:
                    strip(inner)

    for node in [*model.graph.node, *(n for f in model.functions for n in f.node)]:
        strip(node)
    for holder in [model, model.graph, *model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        holder.doc_string = ""
        del holder.metadata_props[:]
    return model
