"""Times MultipoleAttention's CUDA kernels beside PyTorch's cuDNN and FlashAttention-2, and measures their error.

  nvcc -O3 -std=c++17 -Xcompiler -fPIC -shared -cudart static -gencode arch=compute_90a,code=sm_90a \
      -DONNX_REWRITE_HOPPER test/bench/multipole-attention-cuda.cu -o libmultipole.so
  python test/bench/cuda_attention.py libmultipole.so MODELS [--profile] [--only PART] [--json OUT]

MODELS holds byte_lm.py, its weights and heldout_code.bin: queries, keys and values are those of its trained layers.
Times are medians of single calls between CUDA events, over rotating inputs, everything included (clustering,
sorting, summaries); the sequence of kernels is enqueued anew for each call, while the GPU still sleeps, so that
Python's own time is not measured.
"""

import argparse
import ctypes
import json
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SELECTIONS = {"tile": 0, "sliding": 1, "cluster": 2}


class Call(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in (
        "type batch heads kv_heads queries keys head_dim value_dim causal segment window key_clusters contiguous "
        "query_clusters iterations retrieve selection group").split()]


PAPER = dict(segment=0, window=0, key_clusters=64, query_clusters=64, iterations=3, retrieve=0)
SEGMENTED = dict(segment=256, window=1, key_clusters=8, contiguous=1, query_clusters=16, iterations=3, retrieve=0)
CAUSAL = dict(causal=1, segment=256, window=0, key_clusters=8, contiguous=1, query_clusters=64, iterations=3, retrieve=32,
              selection="sliding", group=16)
FEW = dict(CAUSAL, query_clusters=16, key_clusters=4)
CONFIGURATIONS = {
    "paper": PAPER,
    "segmented": SEGMENTED,
    "segmented, 2 iterations": dict(SEGMENTED, iterations=2),
    "segmented, 64 query clusters": dict(SEGMENTED, query_clusters=64),
    "segmented, tiles retrieve 16": dict(SEGMENTED, query_clusters=64, retrieve=16, selection="tile", group=64),
    "causal": CAUSAL,
    "causal, 16 query clusters, retrieve 8": dict(CAUSAL, query_clusters=16, retrieve=8),
    "causal, tiles (look ahead) retrieve 16": dict(CAUSAL, query_clusters=16, retrieve=16, selection="tile", group=64),
    "causal, 4 key clusters, tiles (look ahead) retrieve 8": dict(FEW, retrieve=8, selection="tile", group=64),
    "causal, nothing retrieved": dict(CAUSAL, retrieve=0),
    "causal, 16 query clusters, nothing retrieved": dict(CAUSAL, query_clusters=16, retrieve=0),
    "causal, 4 key clusters, nothing retrieved": dict(FEW, retrieve=0),
    "causal, 4 key clusters, window 1, nothing retrieved": dict(FEW, retrieve=0, window=1),
}


class Multipole:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.multipole_attention_bytes.restype = ctypes.c_int64
        self.memory = torch.empty(0, dtype=torch.uint8, device="cuda")

    def __call__(self, q, k, v, **options):
        options = dict(options, selection=SELECTIONS[options.get("selection", "tile")])
        options.setdefault("group", 64)
        call = Call(type={torch.float16: 10, torch.bfloat16: 16}[q.dtype], batch=q.shape[0], heads=q.shape[1],
                    kv_heads=k.shape[1], queries=q.shape[2], keys=k.shape[2], head_dim=q.shape[3], value_dim=v.shape[3],
                    **options)
        needed = self.library.multipole_attention_bytes(ctypes.byref(call))
        if self.memory.numel() < needed:
            self.memory = torch.empty(needed, dtype=torch.uint8, device="cuda")
        out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device="cuda")
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (q, k, v, out, self.memory)]
        status = self.library.multipole_attention_run(ctypes.byref(call), *pointers,
                                                      ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        if status:
            raise RuntimeError(f"CUDA error {status}")
        return out


def exact(q, k, v, causal, backend):
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def layers(models, kind, length, start=0):
    """Trained q, k, v of every layer, [1, 4, length, 64] each, float32."""
    sys.path.insert(0, models)
    import byte_lm
    recorded = []

    def record(q, k, v, causal):
        recorded.append((q, k, v))
        return exact(q, k, v, causal, SDPBackend.EFFICIENT_ATTENTION)

    with torch.device("cpu"):
        model = byte_lm.load(kind, record, models).cuda()
    text = open(f"{models}/heldout_code.bin", "rb").read()[start:start + length]
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()[None]
    if kind == "encoder":
        ids = torch.where(byte_lm.span_mask(length, 0), torch.full_like(ids, byte_lm.MASK_ID), ids)
    with torch.no_grad():
        model(ids.cuda())
    return recorded


def rotating_inputs(models, kind, batch, length, sets):
    """[batch, 8, length, 64] in bfloat16: heads of layers 1 and 5 (encoder) or 4 and 5 (causal) on different texts."""
    chosen = (1, 5) if kind == "encoder" else (4, 5)
    parts = []
    for b in range(batch):
        all_layers = layers(models, kind, length, b * 57344 % (1048576 - length))
        parts.append([torch.cat([all_layers[l][i] for l in chosen], 1).bfloat16() for i in range(3)])
    first = [torch.cat([part[i] for part in parts]).contiguous() for i in range(3)]
    return [[t.roll(s, 0).roll(s, 1).clone() for t in first] for s in range(sets)]


def median_ms(run, inputs, repeats=24, warm=4):
    times = []
    for i in range(warm + repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        args = inputs[i % len(inputs)]
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000)
        begin.record()
        run(*args)
        end.record()
        torch.cuda.synchronize()
        if i >= warm:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def squared_error(out, want):
    return (((out.double() - want.double()) ** 2).sum() / (want.double() ** 2).sum()).item()


def profile(run, args):
    from torch.profiler import ProfilerActivity
    run(*args)
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            run(*args)
        torch.cuda.synchronize()
    for event in sorted(found.key_averages(), key=lambda e: -e.self_device_time_total):
        if event.self_device_time_total > 5:
            name = event.key.replace("onnxrewrite::multipole::cuda::", "")[:70]
            print(f"      {event.self_device_time_total / 5000:8.4f} ms  x{event.count / 5:g}  {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("models")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", default="", help="configurations whose name contains this")
    parser.add_argument("--skip", help="configuration to leave out")
    parser.add_argument("--errors", action="store_true", help="error per trained layer at 8192 and 65536")
    parser.add_argument("--shapes", default="16x8192,4x16384,2x32768,1x65536")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.manual_seed(0)
    multipole, results = Multipole(args.library), []
    chosen = {name: c for name, c in CONFIGURATIONS.items() if args.only in name and name != args.skip}
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())

    if args.errors:
        for length in (8192, 65536):
            for name, options in chosen.items():
                causal = bool(options.get("causal"))
                errors = []
                for q, k, v in layers(args.models, "causal" if causal else "encoder", length):
                    q, k, v = (t.bfloat16().contiguous() for t in (q, k, v))
                    want = exact(q.float(), k.float(), v.float(), causal, SDPBackend.EFFICIENT_ATTENTION)
                    errors.append(squared_error(multipole(q, k, v, **options), want))
                print(f"error {length} {name}: " + " ".join(f"{e:.4f}" for e in errors), flush=True)
                results.append(dict(length=length, name=name, errors=errors))

    for shape in filter(None, args.shapes.split(",")):
        batch, length = map(int, shape.split("x"))
        for kind in ("encoder", "causal"):
            names = [name for name, c in chosen.items() if bool(c.get("causal")) == (kind == "causal")]
            if not names:
                continue
            inputs = rotating_inputs(args.models, kind, batch, length, 3)
            causal = kind == "causal"
            base = {b.name: median_ms(lambda q, k, v: exact(q, k, v, causal, b), inputs)
                    for b in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION)}
            cudnn = base["CUDNN_ATTENTION"]
            print(f"{batch} x {length} {kind}: cuDNN {cudnn:.3f} ms, FlashAttention-2 {base['FLASH_ATTENTION']:.3f} ms")
            for name in names:
                run = lambda q, k, v: multipole(q, k, v, **chosen[name])
                ms = median_ms(run, inputs)
                again = median_ms(run, inputs)
                want = exact(*inputs[0], causal, SDPBackend.CUDNN_ATTENTION)
                error = squared_error(run(*inputs[0]), want)
                print(f"   {name}: {ms:.3f} ms (again {again:.3f}), {cudnn / ms:.2f} x cuDNN, error {error:.4f}", flush=True)
                results.append(dict(batch=batch, length=length, kind=kind, name=name, ms=ms, again=again, error=error, **base))
                if args.profile:
                    profile(run, inputs[0])
            del inputs
    if args.json:
        json.dump(results, open(args.json, "w"), indent=1)


if __name__ == "__main__":
    main()
