"""Attention as single operators (ai.onnx Attention, com.microsoft) and as hand-assembled graphs.

These are the forms that graph optimizers, model builders and other exporters leave behind. Inputs are the
operands themselves, so the files are tiny and a test sees exactly what the operator sees.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from architectures import Site
from exporting import Input

HEADS, KV_HEADS, HEAD_DIM, MODEL_WIDTH = 4, 2, 16, 8
WIDTH, KV_WIDTH = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


@dataclass(frozen=True)
class Built:
    """One hand-built model; `opset` of ai.onnx; `sites` as in `architectures`."""

    name: str
    nodes: list
    inputs: list
    outputs: dict
    sites: tuple
    opset: int = 18
    constants: dict = None
    functions: tuple = ()

    def model(self):
        def value(name, dims, dtype):
            return helper.make_tensor_value_info(name, TYPES[dtype], list(dims))

        graph = helper.make_graph(
            self.nodes, self.name,
            [value(spec.name, spec.dims, spec.dtype) for spec in self.inputs],
            [value(name, dims, "float32") for name, dims in self.outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in (self.constants or {}).items()],
        )
        imports = [helper.make_opsetid("", self.opset)]
        domains = {node.domain for node in self.nodes} | {f.domain for f in self.functions}
        imports += [helper.make_opsetid(domain, 1) for domain in sorted(domains - {""})]
        model = helper.make_model(graph, opset_imports=imports, producer_name="zoo", functions=list(self.functions))
        model.ir_version = 10 if self.opset < 24 else 11
        onnx.checker.check_model(model)
        return model


def node(op, inputs, outputs, name=None, domain="", **attributes):
    return helper.make_node(op, inputs, outputs, name=name or f"{op.lower()}_{outputs[0]}", domain=domain, **attributes)


def packed(name, length, width=WIDTH, dtype="float32"):
    return Input(name, ("batch", length, width), "normal", dtype)


def split_heads(name, heads, length, size=HEAD_DIM, dtype="float32"):
    return Input(name, ("batch", heads, length, size), "normal", dtype)


def site(mask="none", scope="", **more):
    fields = {"query_heads": HEADS, "kv_heads": HEADS, "head_dim": HEAD_DIM, "scale": HEAD_DIM**-0.5}
    return (Site(scope, mask=mask, **{**fields, **more}),)


CROSS = {"kind": "cross"}
CAUSAL = {"causal": True}
KEPT = {"replaceable": False}
OPEN = {"replaceable": None}
GQA = {"kv_heads": KV_HEADS}
Y = {"y": ("batch", "sequence", WIDTH)}
Y4 = {"y": ("batch", HEADS, "sequence", HEAD_DIM)}
SELF_OPERANDS = [packed(n, "sequence") for n in ("query", "key", "value")]
CROSS_OPERANDS = [packed("query", "sequence"), packed("key", "encoder_sequence"), packed("value", "encoder_sequence")]
PAST = [split_heads(f"past_{n}", HEADS, "past_sequence") for n in ("key", "value")]
KV_PAST = [split_heads(f"past_{n}", KV_HEADS, "past_sequence") for n in ("key", "value")]
PRESENT = {f"present_{n}": ("batch", HEADS, "total_sequence", HEAD_DIM) for n in ("key", "value")}
KV_PRESENT = {f"present_{n}": ("batch", KV_HEADS, "total_sequence", HEAD_DIM) for n in ("key", "value")}


def weights(*shape, seed=5):
    return (np.random.default_rng(seed + len(shape)).standard_normal(shape) * 0.4).astype(np.float32)


# --------------------------------------------------------------------------------------------- com.microsoft


def multi_head(name, extra_inputs=(), extra=(), sites=None, operands=SELF_OPERANDS, outputs=Y, constants=None, **attributes):
    """com.microsoft.MultiHeadAttention: `extra_inputs` are the names after query, key, value."""
    built = node(
        "MultiHeadAttention", ["query", "key", "value", *extra_inputs], list(outputs), "attention", "com.microsoft",
        num_heads=HEADS, **attributes,
    )
    return Built(f"ms-multi-head-{name}", [built], [*operands, *extra], outputs, sites or site(), 17, constants)


def ms_attention(name, extra_inputs=(), extra=(), sites=None, constants=None, outputs=Y, **attributes):
    """com.microsoft.Attention over `x [batch, sequence, MODEL_WIDTH]`: the projection is inside the operator.

    To replace it the projection has to be written out, which a rewriter may decline.
    """
    built = node("Attention", ["x", "weights", "bias", *extra_inputs], list(outputs), "attention", "com.microsoft", num_heads=HEADS, **attributes)
    held = {"weights": weights(MODEL_WIDTH, 3 * WIDTH), "bias": weights(3 * WIDTH), **(constants or {})}
    return Built(f"ms-attention-{name}", [built], [packed("x", "sequence", MODEL_WIDTH), *extra], outputs, sites or site(), 17, held)


def grouped(name, extra_inputs, extra, sites, operands=None, outputs=None, constants=None, packed_qkv=False, before=(), **attributes):
    """com.microsoft.GroupQueryAttention: `extra_inputs` are the names after query, key, value."""
    operands = operands or [packed("query", "sequence"), packed("key", "sequence", KV_WIDTH), packed("value", "sequence", KV_WIDTH)]
    names = ["query", "", ""] if packed_qkv else ["query", "key", "value"]
    outputs = outputs or {**Y, **KV_PRESENT}
    built = node(
        "GroupQueryAttention", [*names, *extra_inputs], list(outputs), "attention", "com.microsoft", num_heads=HEADS,
        kv_num_heads=KV_HEADS, **attributes,
    )
    return Built(f"ms-group-query-{name}", [*before, built], [*operands, *extra], outputs, sites, 17, constants)


KEY_MASK_INT = Input("key_mask", ("batch", "sequence"), "padding", "int32")
CROSS_MASK_INT = Input("key_mask", ("batch", "encoder_sequence"), "padding", "int32")
LENGTHS = Input("lengths", ("batch",), "lengths:sequence", "int32")
LAST_INDEX = Input("seqlens_k", ("batch",), "last:total_sequence", "int32")
TOTAL = Input("total_sequence_length", (), "size:total_sequence", "int32")
BIAS = Input("attention_bias", ("batch", 1, "sequence", "sequence"), "normal", "float32")


def rotary_tables():
    angle = np.arange(64)[:, None] * 100.0 ** (-np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    return {"cos": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32)}


def lengths_of_mask():
    """seqlens_k and total_sequence_length of GroupQueryAttention as model builders take them from an attention mask."""
    return [
        node("ReduceSum", ["attention_mask", "one"], ["lengths"]),
        node("Sub", ["lengths", "one"], ["last"]),
        node("Cast", ["last"], ["seqlens_k"], to=TensorProto.INT32),
        node("Shape", ["attention_mask"], ["mask_shape"]),
        node("Gather", ["mask_shape", "one"], ["total"]),
        node("Cast", ["total"], ["total_sequence_length"], to=TensorProto.INT32),
    ]


PADDED = site("key-padding")
MICROSOFT = [
    multi_head("plain"),
    multi_head("cross", operands=CROSS_OPERANDS, sites=site(**CROSS)),
    multi_head("scale", sites=site(scale=0.5), scale=0.5),
    multi_head("projection-bias", ["qkv_bias"], constants={"qkv_bias": weights(3 * WIDTH)}),
    multi_head("key-mask", ["", "key_mask"], [KEY_MASK_INT], PADDED),
    multi_head("cross-key-mask", ["", "key_mask"], [CROSS_MASK_INT], site("key-padding", **CROSS), CROSS_OPERANDS),
    multi_head("lengths", ["", "lengths"], [LENGTHS], site("key-padding")),
    multi_head("additive-bias", ["", "", "attention_bias"], [BIAS], site("additive-bias", **KEPT)),
    multi_head("causal", sites=site("causal", **CAUSAL), unidirectional=1),
    multi_head("causal-key-mask", ["", "key_mask"], [KEY_MASK_INT], site("causal+padding", **CAUSAL), unidirectional=1),
    multi_head("past", ["", "", "", "past_key", "past_value"], PAST, site(kind="cached", past=True, alignment="bottom-right", **KEPT), outputs={**Y, **PRESENT}),
    ms_attention("plain"),
    ms_attention("key-mask", ["key_mask"], [KEY_MASK_INT], site("key-padding")),
    ms_attention("lengths", ["lengths"], [LENGTHS], site("key-padding")),
    ms_attention("causal", sites=site("causal", **CAUSAL), unidirectional=1),
    ms_attention("additive-bias", ["", "", "attention_bias"], [BIAS], site("additive-bias", **KEPT)),
    grouped("prompt", ["", "", "seqlens_k", "total_sequence_length"], [LAST_INDEX, TOTAL], site("causal+padding", **CAUSAL, **GQA)),
    grouped("rotary", ["", "", "seqlens_k", "total_sequence_length", "cos", "sin"], [LAST_INDEX, TOTAL], site("causal+padding", **CAUSAL, **GQA), constants=rotary_tables(), do_rotary=1),
    grouped("past", ["past_key", "past_value", "seqlens_k", "total_sequence_length"], [*KV_PAST, LAST_INDEX, TOTAL], site("causal+padding", **CAUSAL, **GQA, kind="cached", past=True, alignment="bottom-right")),
    grouped(
        "decoder", ["past_key", "past_value", "seqlens_k", "total_sequence_length", "cos", "sin"],
        [*KV_PAST, Input("attention_mask", ("batch", "total_sequence"), "padding", "int64")],
        site("causal+padding", **CAUSAL, **GQA, kind="cached", past=True, alignment="bottom-right"),
        operands=[packed("query", "sequence", WIDTH + 2 * KV_WIDTH)], packed_qkv=True, before=lengths_of_mask(),
        constants={"one": np.array([1]), **rotary_tables()}, do_rotary=1,
    ),
    grouped("window", ["", "", "seqlens_k", "total_sequence_length"], [LAST_INDEX, TOTAL], site("sliding-window", **CAUSAL, **GQA), local_window_size=4),
    grouped("softcap", ["", "", "seqlens_k", "total_sequence_length"], [LAST_INDEX, TOTAL], site("other", **CAUSAL, **GQA, **KEPT), softcap=5.0),
    grouped("packed", ["", "", "seqlens_k", "total_sequence_length"], [LAST_INDEX, TOTAL], site("causal+padding", **CAUSAL, **GQA), operands=[packed("query", "sequence", WIDTH + 2 * KV_WIDTH)], packed_qkv=True),
]


# --------------------------------------------------------------------------------------------------- ai.onnx


SELF_4D = [split_heads(n, HEADS, "sequence") for n in ("query", "key", "value")]
CROSS_4D = [split_heads("query", HEADS, "sequence"), *(split_heads(n, HEADS, "encoder_sequence") for n in ("key", "value"))]
GROUPED_4D = [split_heads("query", HEADS, "sequence"), *(split_heads(n, KV_HEADS, "sequence") for n in ("key", "value"))]
GROUPED_3D = [packed("query", "sequence"), *(packed(n, "sequence", KV_WIDTH) for n in ("key", "value"))]
SQUARE = Input("mask", ("sequence", "sequence"), "triangle", "bool")
VISIBLE_ROWS = Input("mask", ("batch", 1, "sequence", "sequence"), "visible-rows", "bool")
FLOAT_BIAS = Input("mask", ("batch", HEADS, "sequence", "sequence"), "normal", "float32")
NONPAD = Input("nonpad", ("batch",), "lengths:sequence", "int64")


def standard(name, operands, sites=None, extra_inputs=(), extra=(), outputs=Y4, opset=23, before=(), constants=None, output_names=None, **attributes):
    """ai.onnx Attention, preceded by the nodes of `before`; `output_names` where some outputs are absent."""
    built = node("Attention", ["query", "key", "value", *extra_inputs], output_names or list(outputs), "attention", **attributes)
    return Built(f"onnx-attention{opset}-{name}", [*before, built], [*operands, *extra], outputs, sites or site(), opset, constants)


HEADS_3D = {"q_num_heads": HEADS, "kv_num_heads": KV_HEADS}
PADDING_NODES = [
    node("Cast", ["key_mask"], ["real"], to=TensorProto.BOOL),
    node("Unsqueeze", ["real", "axes"], ["real_4d"]),
    node("Shape", ["query"], ["query_shape"]),
    node("Gather", ["query_shape", "two"], ["rows"], axis=0),
    node("Concat", ["one", "one", "rows", "one"], ["row_shape"], axis=0),
    node("Expand", ["real_4d", "row_shape"], ["mask"]),
]
PADDING_CONSTANTS = {"axes": np.array([1, 2]), "two": np.array([2]), "one": np.array([1])}
KEY_MASK = Input("key_mask", ("batch", "sequence"), "padding")
STANDARD = [
    standard("plain", SELF_4D),
    standard("cross", CROSS_4D, site(**CROSS)),
    standard("scale", SELF_4D, site(scale=0.25), scale=0.25),
    standard("grouped", GROUPED_4D, site(**GQA)),
    standard("packed", GROUPED_3D, site("causal", **CAUSAL, **GQA), outputs=Y, is_causal=1, **HEADS_3D),
    standard("causal", SELF_4D, site("causal", **CAUSAL), is_causal=1),
    standard("causal-cross", CROSS_4D, site("causal", **CAUSAL, **CROSS, alignment="upper-left"), is_causal=1),
    standard("padding", SELF_4D, site("key-padding", empty_row="zeros"), ["mask"], [KEY_MASK], before=PADDING_NODES, constants=PADDING_CONSTANTS),
    standard("causal-padding", SELF_4D, site("causal+padding", **CAUSAL, empty_row="zeros"), ["mask"], [KEY_MASK], before=PADDING_NODES, constants=PADDING_CONSTANTS, is_causal=1),
    standard("mask-input", SELF_4D, site("other", **KEPT), ["mask"], [SQUARE]),
    standard("row-mask-input", SELF_4D, site("other", **KEPT), ["mask"], [VISIBLE_ROWS]),
    standard("float-mask", SELF_4D, site("additive-bias", **KEPT), ["mask"], [FLOAT_BIAS]),
    standard("softcap", SELF_4D, site("other", **KEPT), softcap=2.0),
    standard("past", SELF_4D, site("causal", **CAUSAL, kind="cached", past=True, alignment="bottom-right"), ["", "past_key", "past_value"], PAST, {**Y4, **PRESENT}, is_causal=1),
    standard("scores-out", SELF_4D, site(**KEPT), outputs={**Y4, "scores": ("batch", HEADS, "sequence", "sequence")}, output_names=["y", "", "", "scores"]),
    standard("plain", SELF_4D, opset=24),
    standard("lengths", SELF_4D, site("key-padding"), ["", "", "", "nonpad"], [NONPAD], opset=24),
    standard("plain", SELF_4D, opset=25),
    standard("window", SELF_4D, site("sliding-window", **CAUSAL, **KEPT), opset=25, is_causal=1, left_window_size=4, right_window_size=0),
]


# ------------------------------------------------------------------------------------------ assembled graphs


def eager(prefix="", q="query", k="key", v="value", out="y"):
    """Explicit attention over 4-D operands."""
    p = prefix
    return [
        node("Transpose", [k], [p + "kt"], perm=[0, 1, 3, 2]),
        node("MatMul", [q, p + "kt"], [p + "s"]),
        node("Mul", [p + "s", "scale"], [p + "scaled"]),
        node("Softmax", [p + "scaled"], [p + "p"], axis=-1),
        node("MatMul", [p + "p", v], [out], "attention"),
    ]


SCALE = {"scale": np.array(HEAD_DIM**-0.5, np.float32)}


def noise():
    """Nodes that change nothing between the parts: Identity, casts there and back, Dropout at inference."""
    return [
        node("Identity", ["query"], ["q1"]),
        node("Cast", ["q1"], ["q2"], to=TensorProto.FLOAT),
        node("Transpose", ["key"], ["kt"], perm=[0, 1, 3, 2]),
        node("Identity", ["kt"], ["kt1"]),
        node("MatMul", ["q2", "kt1"], ["s"]),
        node("Div", ["s", "root"], ["scaled"]),
        node("Identity", ["scaled"], ["scaled1"]),
        node("Softmax", ["scaled1"], ["p"], axis=3),
        node("Cast", ["p"], ["p1"], to=TensorProto.FLOAT),
        node("Dropout", ["p1", "ratio"], ["p2"]),
        node("MatMul", ["p2", "value"], ["y0"], "attention"),
        node("Identity", ["y0"], ["y"]),
    ]


def split_scale():
    """Both sides scaled by a fourth root that the graph computes from the shape, as sdpa does unfolded."""
    return [
        node("Shape", ["query"], ["shape"]),
        node("Slice", ["shape", "last", "end"], ["size"]),
        node("Cast", ["size"], ["size_float"], to=TensorProto.FLOAT),
        node("Sqrt", ["size_float"], ["root"]),
        node("Div", ["one", "root"], ["inverse"]),
        node("Sqrt", ["inverse"], ["factor"]),
        node("Mul", ["query", "factor"], ["q1"]),
        node("Transpose", ["key"], ["kt"], perm=[0, 1, 3, 2]),
        node("Mul", ["kt", "factor"], ["kt1"]),
        node("MatMul", ["q1", "kt1"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("IsNaN", ["p"], ["nan"]),
        node("Where", ["nan", "zero", "p"], ["p1"]),
        node("MatMul", ["p1", "value"], ["y"], "attention"),
    ]


def guarded():
    """Explicit attention with minus infinity on padding and probabilities of empty rows set to zero."""
    return [
        node("Equal", ["key_mask", "zero_int"], ["hidden"]),
        node("Unsqueeze", ["hidden", "axes"], ["hidden_4d"]),
        node("Where", ["hidden_4d", "minus_infinity", "zero"], ["mask"]),
        node("Transpose", ["key"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["query", "kt"], ["s"]),
        node("Mul", ["s", "scale"], ["scaled"]),
        node("Add", ["mask", "scaled"], ["masked"]),
        node("Softmax", ["masked"], ["p"], axis=-1),
        node("IsNaN", ["p"], ["nan"]),
        node("Where", ["nan", "zero", "p"], ["p1"]),
        node("MatMul", ["p1", "value"], ["y"], "attention"),
    ]


def in_branches():
    """Attention in both branches of an If: the second one is causal."""
    def graph(name, nodes):
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["batch", HEADS, "sequence", HEAD_DIM])])

    free = eager("free_", out="free_y")
    triangle = [
        node("Shape", ["query"], ["shape"]),
        node("Gather", ["shape", "axis_two"], ["length"], axis=0),
        node("Range", ["zero_int", "length", "one_int"], ["position"]),
        node("Unsqueeze", ["position", "last_axis"], ["row"]),
        node("LessOrEqual", ["position", "row"], ["seen"]),
        node("Where", ["seen", "zero", "lowest"], ["mask"]),
        node("Transpose", ["key"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["query", "kt"], ["s"]),
        node("Mul", ["s", "scale"], ["scaled"]),
        node("Add", ["scaled", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["p"], axis=-1),
        node("MatMul", ["p", "value"], ["causal_y"], "attention"),
    ]
    return [node("If", ["is_causal"], ["y"], "branches", then_branch=graph("causal", triangle), else_branch=graph("free", free))]


def in_loop():
    """Attention applied three times by a Loop: its output is the next query."""
    body = helper.make_graph(
        [*eager("step_", "state", out="next"), node("Identity", ["go"], ["go_on"])], "step",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", HEADS, "sequence", HEAD_DIM]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["batch", HEADS, "sequence", HEAD_DIM]),
        ],
    )
    return [node("Loop", ["trips", "", "query"], ["y"], "steps", body=body)]


def function_of_layer():
    """A model-local function that holds the attention, as older dynamo exporters wrote every module."""
    return helper.make_function(
        "pkg.zoo", "SelfAttention", ["query", "key", "value"], ["y"],
        [node("Constant", [], ["scale"], value=numpy_helper.from_array(SCALE["scale"])), *eager()],
        [helper.make_opsetid("", 18)],
    )


INFINITY = {"zero": np.array(0, np.float32), "minus_infinity": np.array(-np.inf, np.float32)}
ASSEMBLED = [
    Built("graph-noise", noise(), SELF_4D, Y4, site(), constants={"root": np.array(HEAD_DIM**0.5, np.float32), "ratio": np.array(0.1, np.float32)}),
    Built("graph-split-scale", split_scale(), SELF_4D, Y4, site(), constants={"last": np.array([-1]), "end": np.array([2**62]), "one": np.array([1], np.float32), "zero": np.array(0, np.float32)}),
    Built("graph-guarded-padding", guarded(), [*SELF_4D, KEY_MASK], Y4, site("key-padding", empty_row="zeros"), constants={**SCALE, **INFINITY, "zero_int": np.array(0), "axes": np.array([1, 2])}),
    Built(
        "graph-branches", in_branches(), [*SELF_4D, Input("is_causal", (), "flag", "bool")], Y4,
        (*site(), *site("causal", **CAUSAL)),
        constants={**SCALE, "zero": np.array(0, np.float32), "lowest": np.array(np.finfo(np.float32).min), "axis_two": np.array(2), "zero_int": np.array(0), "one_int": np.array(1), "last_axis": np.array([-1])},
    ),
    Built("graph-loop", in_loop(), CROSS_4D, Y4, site(**CROSS), constants={**SCALE, "trips": np.array(3)}),
    Built("graph-function", [node("SelfAttention", ["query", "key", "value"], ["y"], "layer", "pkg.zoo")], SELF_4D, Y4, site(**OPEN), functions=(function_of_layer(),)),
]
BUILT = [*MICROSOFT, *STANDARD, *ASSEMBLED]
