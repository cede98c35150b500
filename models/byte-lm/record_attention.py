"""Records what the attention of a trained model is given: queries and keys after the rotation, and values.

    python record_attention.py encoder.safetensors causal.safetensors mansfield-park.txt trained-attention

writes trained-attention.bin, float16, little-endian: of each model one head of one layer, on the first bytes
of the text, each as query, key, value; and trained-attention.json, which says where they are. Tests of kernels
use them, since random queries and keys attend to nothing in particular. The heads are ones that look far away.
"""

import argparse
import json

import export
import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

TOKENS = 512
RECORDED = {"encoder": {"layer": 4, "head": 0}, "causal": {"layer": 4, "head": 1}}
SPAN, SPAN_PROBABILITY = 6, 0.035


def hide_spans(ids):
    """Masks spans as in training."""
    starts = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < SPAN_PROBABILITY
    hidden = torch.zeros_like(starts)
    for shift in range(SPAN):
        hidden |= torch.roll(starts, shift, 1)
    return torch.where(hidden, torch.full_like(ids, export.MASKED), ids)


@torch.no_grad()
def record(kind, weights, ids):
    """Query, key and value of every layer, [heads, tokens, size] each."""
    transformer = export.ByteTransformer(causal=kind == "causal").eval()
    transformer.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    layers = []
    attend = functional.scaled_dot_product_attention

    def listen(query, key, value, **options):
        layers.append({"query": query[0], "key": key[0], "value": value[0]})
        return attend(query, key, value, **options)

    functional.scaled_dot_product_attention = listen
    try:
        transformer(hide_spans(ids) if kind == "encoder" else ids)
    finally:
        functional.scaled_dot_product_attention = attend
    return layers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("causal")
    parser.add_argument("text")
    parser.add_argument("output")
    arguments = parser.parse_args()

    ids = torch.from_numpy(np.fromfile(arguments.text, np.uint8)[:TOKENS].astype(np.int64))[None]
    heads, data = {}, b""
    for kind, place in RECORDED.items():
        recorded = record(kind, getattr(arguments, kind), ids)[place["layer"]]
        heads[kind] = {**place, "offset": len(data)}
        for value in recorded.values():
            data += value[place["head"]].numpy().astype("<f2").tobytes()
    with open(arguments.output + ".bin", "wb") as file:
        file.write(data)
    shape = {"tokens": TOKENS, "size": export.HEAD_SIZE, "scale": export.HEAD_SIZE**-0.5}
    with open(arguments.output + ".json", "w") as file:
        json.dump({**shape, "heads": heads}, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
