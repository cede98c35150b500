"""Times the CUDA kernels of LocalAttention beside PyTorch's cuDNN, which knows no windows, and FlashAttention-2, which does.

  nvcc -O3 -std=c++17 -Xcompiler -fPIC -shared -cudart static -gencode arch=compute_90a,code=sm_90a \
      -DONNX_REWRITE_HOPPER test/bench/local-attention-cuda.cu -o liblocal.so
  python test/bench/cuda_local.py liblocal.so [--lengths 8192,65536] [--json OUT]

Medians of single calls as in cuda_structured.py, in milliseconds; 8 heads of 64.
"""

import argparse
import ctypes
import json

import torch
from torch.nn.attention import SDPBackend

from cuda_structured import BACKENDS, TYPES, Library, exact, fields, medians, normals, relative, same_in_graph

WINDOWS = {"512 before": (512, 0), "64 to both sides": (64, 64)}


class LocalCall(ctypes.Structure):
    _fields_ = (fields("type batch heads kv_heads queries keys head_dim value_dim left right mma", ctypes.c_int64)
                + fields("query key value output", ctypes.c_void_p))


def local(library, q, k, v, window, mma=False):
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device="cuda")
    library.run("local_attention", LocalCall(
        TYPES[q.dtype], q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3], *window, int(mma),
        q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr()))
    return out


def flash_windowed(q, k, v, window):
    """FlashAttention-2 on [B, N, H, D]."""
    return torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, window[1] == 0, False,
        window_size_left=window[0], window_size_right=window[1])[0]


def reference(q, k, v, window):
    q, k, v = (t.double() for t in (q, k, v))
    distance = torch.arange(k.shape[2], device="cuda")[None, :] - torch.arange(q.shape[2], device="cuda")[:, None]
    scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    return scores.masked_fill((distance < -window[0]) | (distance > window[1]), float("-inf")).softmax(-1) @ v


def check(library):
    for name, window in WINDOWS.items():
        q, k, v = normals(2, 3, 1800, 64, sets=1)[0]
        want = reference(q, k, v, window)
        rows = [t.transpose(1, 2).contiguous() for t in (q, k, v)]
        errors = {"warpgroups": local(library, q, k, v, window), "mma": local(library, q, k, v, window, True),
                  "FlashAttention-2": flash_windowed(*rows, window).transpose(1, 2)}
        line = ", ".join(f"{kind} {relative(out, want):.1e}" for kind, out in errors.items())
        single = [t.float() for t in (q, k, v)]
        print(f"{name}: relative error {line}, float32 {relative(local(library, *single, window), want):.1e}, same in a graph: "
              f"{same_in_graph(lambda: local(library, q, k, v, window))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--lengths", default="8192,16384,32768,65536")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.manual_seed(0)
    library, results = Library(args.library), []
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
    check(library)
    for length in map(int, args.lengths.split(",")):
        inputs = normals(1, 8, length, 64)
        flash_inputs = [[t.transpose(1, 2).contiguous() for t in tensors] for tensors in inputs]
        single = [[t.float() for t in tensors] for tensors in inputs]
        for name, window in WINDOWS.items():
            causal = window[1] == 0
            found = medians({"warpgroups": lambda q, k, v: local(library, q, k, v, window),
                             "mma": lambda q, k, v: local(library, q, k, v, window, True)}, inputs)
            found |= medians({"FlashAttention-2, windowed": lambda q, k, v: flash_windowed(q, k, v, window)}, flash_inputs)
            found |= medians({f"{backend}, all keys": lambda q, k, v: exact(q, k, v, causal, kind)
                              for backend, kind in BACKENDS.items() if backend == "cuDNN"}, inputs, repeats=8, warm=2)
            found |= medians({"float32": lambda q, k, v: local(library, q, k, v, window)}, single, repeats=8, warm=2)
            if length <= 8192:
                found |= medians({"float32, efficient, all keys": lambda q, k, v: exact(
                    q, k, v, causal, SDPBackend.EFFICIENT_ATTENTION)}, single, repeats=5, warm=1)
            line = ", ".join(f"{contender} {ms:.4f}" for contender, ms in found.items())
            print(f"1 x {length}, {name}: {line}", flush=True)
            results.append(dict(length=length, window=name, **found))
    if args.json:
        with open(args.json, "w") as out:
            json.dump(results, out, indent=1)


if __name__ == "__main__":
    main()
