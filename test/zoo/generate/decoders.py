"""Decoders with a cache: keys and values of earlier steps are inputs, all of them are outputs."""

import onnx
import torch
import transformers as hf
from onnx import TensorProto, helper

from architectures import GROUPED_HEADS, HEAD_DIM, HEADS, KV_HEADS, LLAMA_SIZES, POSITIONS, VOCAB, WIDTH, Site
from exporting import Input, randomize

IDS = Input("input_ids", ("batch", "sequence"), f"ids:{VOCAB}")
PADDING = Input("attention_mask", ("batch", "total_sequence"), "padding")
PROMPT_PADDING = Input("attention_mask", ("batch", "sequence"), "padding")
SWITCH = Input("use_cache_branch", (1,), "flag", "bool")


class Cached(torch.nn.Module):
    """A transformers decoder over one layer of cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, past_key, past_value):
        cache = hf.DynamicCache([(past_key, past_value)])
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        layer = result.past_key_values.layers[0]
        return result.last_hidden_state, layer.keys, layer.values


class Prompt(torch.nn.Module):
    """The same decoder at its first step: no cache yet, the new one comes out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=True)
        layer = result.past_key_values.layers[0]
        return result.last_hidden_state, layer.keys, layer.values


def llama(attention):
    return randomize(hf.LlamaModel(hf.LlamaConfig(**LLAMA_SIZES, attn_implementation=attention)), 31)


def gpt2(attention):
    config = hf.GPT2Config(
        vocab_size=VOCAB, n_embd=WIDTH, n_layer=1, n_head=HEADS, n_inner=16, n_positions=POSITIONS, bos_token_id=1,
        eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation=attention,
    )
    return randomize(hf.GPT2Model(config), 31)


def cache_inputs(heads, size=HEAD_DIM):
    return [Input(f"past_key_values.0.{n}", ("batch", heads, "past_sequence", size), "normal", "float32") for n in ("key", "value")]


def outputs(heads, length, size=HEAD_DIM):
    cache = {f"present.0.{n}": ("batch", heads, length, size) for n in ("key", "value")}
    return {"last_hidden_state": ("batch", "sequence", WIDTH), **cache}


def cached_site(scope, heads, kv_heads):
    return (Site(scope, heads, kv_heads, HEAD_DIM, HEAD_DIM**-0.5, "causal+padding", causal=True, kind="cached", past=True, alignment="bottom-right", replaceable=None),)


def prompt_site(scope, heads, kv_heads):
    return (Site(scope, heads, kv_heads, HEAD_DIM, HEAD_DIM**-0.5, "causal+padding", causal=True),)


# name: (model of an attention implementation, scope, query heads, key/value heads)
DECODERS = {"llama": (llama, "layers.0.self_attn", GROUPED_HEADS, KV_HEADS), "gpt2": (gpt2, "h.0.attn", HEADS, HEADS)}


def merge(prompt, cached):
    """One model that holds both in the branches of an If, weights once, as Optimum merges decoders.

    `use_cache_branch` chooses; the prompt branch ignores the cache inputs.
    """
    graphs = []
    shared = {}
    for model, prefix in ((cached, "cached"), (prompt, "prompt")):
        graph = onnx.GraphProto()
        graph.CopyFrom(model.graph)
        kept = {value.name for value in graph.input}
        renamed = {}
        for tensor in graph.initializer:
            key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
            renamed[tensor.name] = shared.setdefault(key, (f"weight_{len(shared)}_{tensor.name}", tensor))[0]

        def rename(name):
            return name if not name or name in kept else renamed.setdefault(name, f"{prefix}/{name}")

        for n in graph.node:
            n.name = f"{prefix}/{n.name}"
            n.input[:] = [rename(name) for name in n.input]
            n.output[:] = [rename(name) for name in n.output]
        for value in graph.output:
            value.name = rename(value.name)
        graph.name = prefix
        for emptied in (graph.initializer, graph.input, graph.value_info):
            del emptied[:]
        graphs.append(graph)
    names = [value.name for value in cached.graph.output]
    branches = helper.make_node("If", ["use_cache_branch"], names, name="optimum::if", then_branch=graphs[0], else_branch=graphs[1])
    initializers = []
    for name, tensor in shared.values():
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = name
        initializers.append(copy)
    switch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    graph = helper.make_graph([branches], "merged", [*cached.graph.input, switch], list(prompt.graph.output), initializers)
    model = helper.make_model(graph, opset_imports=cached.opset_import, producer_name="zoo")
    model.ir_version = cached.ir_version
    onnx.checker.check_model(model)
    return model
