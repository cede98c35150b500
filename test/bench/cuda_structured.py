"""Times the CUDA kernels of ElementwiseAttention and MultiLevelAttention beside PyTorch's cuDNN and FlashAttention-2.

  nvcc -O3 -std=c++17 -Xcompiler -fPIC -shared -cudart static -gencode arch=compute_90a,code=sm_90a \
      -DONNX_REWRITE_HOPPER test/bench/structured-attention-cuda.cu -o libstructured.so
  python test/bench/cuda_structured.py libstructured.so [--only elementwise|multi-level|steps] [--json OUT]

Times are medians of single calls between CUDA events, contenders taking turns over rotating random inputs; kernels are
enqueued while the GPU still sleeps, so that Python's own time is not measured. Softmax attention of the same width stands
beside ElementwiseAttention: heads of 64.
"""

import argparse
import ctypes
import json
import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

TYPES = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FlashAttention-2": SDPBackend.FLASH_ATTENTION}
MOST_LEVELS = 8


def fields(names, kind):
    return [(name, kind) for name in names.split()]


class ElementwiseCall(ctypes.Structure):
    _fields_ = fields("type batch rows keys channels order causal", ctypes.c_int64) + fields(
        "query key value past_sums past_offsets output present_sums present_offsets", ctypes.c_void_p)


class MultiLevelCall(ctypes.Structure):
    _fields_ = (fields("type batch heads kv_heads queries past fresh head_dim value_dim causal levels block mma", ctypes.c_int64)
                + [("ranks", ctypes.c_int64 * MOST_LEVELS)]
                + fields("query key value past_value", ctypes.c_void_p)
                + [("past_keys", ctypes.c_void_p * MOST_LEVELS)]
                + fields("output present_value", ctypes.c_void_p)
                + [("present_keys", ctypes.c_void_p * MOST_LEVELS)])


class Library:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.memory = torch.empty(0, dtype=torch.uint8, device="cuda")

    def run(self, name, call):
        bytes_of = getattr(self.library, f"{name}_bytes")
        bytes_of.restype = ctypes.c_int64
        needed = bytes_of(ctypes.byref(call))
        if self.memory.numel() < needed:
            self.memory = torch.empty(needed, dtype=torch.uint8, device="cuda")
        status = getattr(self.library, f"{name}_run")(
            ctypes.byref(call), ctypes.c_void_p(self.memory.data_ptr()),
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        if status:
            raise RuntimeError(f"{name}: CUDA error {status}")

    def elementwise(self, q, k, v, order, causal, past=None, present=None):
        out = torch.empty_like(q)
        call = ElementwiseCall(TYPES[q.dtype], q.shape[0], q.shape[1], k.shape[1], q.shape[2], order, int(causal),
                               q.data_ptr(), k.data_ptr(), v.data_ptr(), *pointers(past), out.data_ptr(), *pointers(present))
        self.run("elementwise_attention", call)
        return out

    def multi_level(self, q, k, v, ranks, block, causal, past=None, present=None, mma=False):
        """`past` and `present` are (value, [keys of each level])."""
        out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device="cuda")
        call = MultiLevelCall(type=TYPES[q.dtype], batch=q.shape[0], heads=q.shape[1], kv_heads=k.shape[1], queries=q.shape[2],
                              past=past[0].shape[2] if past else 0, fresh=k.shape[2], head_dim=q.shape[3],
                              value_dim=v.shape[3], causal=int(causal), levels=len(ranks), block=block, mma=int(mma),
                              query=q.data_ptr(), key=k.data_ptr(), value=v.data_ptr(), output=out.data_ptr())
        for level, rank in enumerate(ranks):
            call.ranks[level] = rank
        for cache, value, keys in ((past, "past_value", call.past_keys), (present, "present_value", call.present_keys)):
            if cache:
                setattr(call, value, cache[0].data_ptr())
                for level, tensor in enumerate(cache[1]):
                    keys[level] = tensor.data_ptr()
        self.run("multi_level_attention", call)
        return out


def pointers(pair):
    return [t.data_ptr() for t in pair] if pair else [None, None]


def exact(q, k, v, causal, backend):
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def medians(contenders, inputs, repeats=24, warm=4):
    """Milliseconds by name; `contenders` take the tensors of one set of inputs."""
    times = {name: [] for name in contenders}
    for i in range(warm + repeats):
        for name, run in contenders.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            torch.cuda._sleep(400_000)
            begin.record()
            run(*inputs[i % len(inputs)])
            end.record()
            torch.cuda.synchronize()
            if i >= warm:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(found) for name, found in times.items()}


def normals(*dims, dtype=torch.bfloat16, sets=4, count=3):
    return [[torch.randn(*dims, device="cuda").to(dtype) for _ in range(count)] for _ in range(sets)]


def heads_of(tensor):
    return tensor.unflatten(-1, (-1, 64)).transpose(1, 2)


def same_in_graph(run):
    """Whether a captured graph gives the bits of a plain call."""
    want = run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    return torch.equal(out, want)


def relative(out, want):
    return ((out.double() - want.double()).norm() / want.double().norm()).item()


def series(q, k, v, order, causal):
    """ElementwiseAttention in float64; keys are small enough for plain sums."""
    q, k, v = q.double(), k.double(), v.double()
    weight, top, bottom, factor = torch.exp(-k * k), 0, 0, 1.0
    for n in range(order + 1):
        sums = [(weight * k**n * x) for x in (v, torch.ones_like(v))]
        sums = [s.cumsum(1) if causal else s.sum(1, keepdim=True) for s in sums]
        top, bottom = top + factor * q**n * sums[0], bottom + factor * q**n * sums[1]
        factor *= 2 / (n + 1)
    return top / bottom


def levels_mask(length, ranks, block, level):
    blocks = torch.arange(length, device="cuda") // (block << (len(ranks) - 1 - level))
    return blocks[:, None] == blocks[None, :] if level else torch.ones(length, length, dtype=torch.bool, device="cuda")


def multi_level_reference(q, k, v, ranks, block, causal):
    q, k, v = q.double(), k.double(), v.double()
    scores, first = 0, 0
    for level, rank in enumerate(ranks):
        part = q[..., first:first + rank] @ k[..., first:first + rank].transpose(-1, -2)
        scores, first = scores + part * levels_mask(q.shape[2], ranks, block, level), first + rank
    scores = scores / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))
    return scores.softmax(-1) @ v


def show(title, found, base, extra=""):
    line = ", ".join(f"{name} {ms:.4f} ms ({found[base] / ms:.2f})" for name, ms in found.items())
    print(f"{title}: {line}{extra}", flush=True)


def bench_elementwise(library, results):
    for dtype in (torch.bfloat16, torch.float32):
        q, k, v = normals(2, 1000, 96, dtype=dtype, sets=1)[0]
        for order in (2, 6):
            for causal in (False, True):
                out = library.elementwise(q, k, v, order, causal)
                error = relative(out, series(q, k, v, order, causal))
                graph = same_in_graph(lambda: library.elementwise(q, k, v, order, causal))
                print(f"order {order} causal {causal} {dtype}: relative error {error:.2e}, same in a graph: {graph}")
    copied = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(copied)
    copy = medians({"copy": lambda: target.copy_(copied)}, [[]])["copy"]
    bandwidth = 2 * copied.numel() / copy / 1e9
    print(f"copy of 1 GiB: {bandwidth:.2f} TB/s")
    del copied, target
    for batch, length, channels in ((1, 16384, 512), (1, 65536, 512), (1, 16384, 1024), (4, 16384, 1024), (16, 8192, 512)):
        for dtype in (torch.bfloat16, torch.float32):
            inputs = normals(batch, length, channels, dtype=dtype)
            contenders = {f"order {order}{' causal' if causal else ''}":
                          lambda q, k, v, order=order, causal=causal: library.elementwise(q, k, v, order, causal)
                          for causal in (False, True) for order in (2, 6)}
            found = medians(contenders, inputs)
            floor = 4 * inputs[0][0].numel() * inputs[0][0].element_size() / bandwidth / 1e9
            if dtype == torch.bfloat16:
                split = [[heads_of(t).contiguous() for t in tensors] for tensors in inputs]
                few = 8 if batch * length * length > 1 << 31 else 24
                for name, backend in BACKENDS.items():
                    for causal in (False, True):
                        run = lambda q, k, v: exact(q, k, v, causal, backend)
                        found[name + (" causal" if causal else "")] = medians({"": run}, split, repeats=few)[""]
            line = ", ".join(f"{name} {ms:.4f}" for name, ms in found.items())
            shares = ", ".join(f"{name} {100 * floor / found[name]:.0f}%" for name in contenders)
            print(f"{batch} x {length} x {channels} {dtype}: floor {floor:.4f} ms; {line}; of the floor's bandwidth: {shares}",
                  flush=True)
            results.append(dict(operator="elementwise", batch=batch, length=length, channels=channels, dtype=str(dtype),
                                floor=floor, **found))
    q, k, v = inputs[0][0][:1, :4096, :512].contiguous(), inputs[0][1][:1, :4096, :512].contiguous(), inputs[0][2][:1, :4096, :512].contiguous()
    found = medians({"order 0": lambda: library.elementwise(q, k, v, 0, False),
                     "order 0 causal": lambda: library.elementwise(q, k, v, 0, True)}, [[]], repeats=5, warm=1)
    show("1 x 4096 x 512 float32", found, "order 0")


def bench_multi_level(library, results, shapes):
    eights = [8] * 8
    for ranks, block in ((eights, 16), ([32, 8, 6, 4, 4, 4, 4, 2], 7), ([48, 16], 1024)):
        for causal in (False, True):
            q, k, v = normals(1, 2, 2048, 64, sets=1)[0]
            want = multi_level_reference(q, k, v, ranks, block, causal)
            for mma in (False, True):
                error = relative(library.multi_level(q, k, v, ranks, block, causal, mma=mma), want)
                print(f"ranks {ranks} causal {causal} mma {mma}: relative error {error:.2e}")
            single = [t.float() for t in (q, k, v)]
            print(f"   float32: {relative(library.multi_level(*single, ranks, block, causal), want):.2e}")
    print("same in a graph:", same_in_graph(lambda: library.multi_level(q, k, v, ranks, block, True)))
    for shape in shapes:
        batch, length = map(int, shape.split("x"))
        inputs = normals(batch, 8, length, 64)
        for causal in (False, True):
            def own(ranks, mma=False):
                block = max(1, length >> (len(ranks) - 1))
                return lambda q, k, v: library.multi_level(q, k, v, ranks, block, causal, mma=mma)
            contenders = {name: lambda q, k, v, backend=backend: exact(q, k, v, causal, backend)
                          for name, backend in BACKENDS.items()}
            contenders.update({"8|8|8|8|8|8|8|8": own(eights), "16|16|16|16": own([16] * 4),
                               "32|8|6|4|4|4|4|2": own([32, 8, 6, 4, 4, 4, 4, 2]), "48|16": own([48, 16]), "64": own([64]),
                               "8|8|8|8|8|8|8|8 by mma": own(eights, True)})
            found = medians(contenders, inputs, repeats=12, warm=3)
            show(f"{shape}{' causal' if causal else ''}", found, "cuDNN")
            results.append(dict(operator="multi-level", batch=batch, length=length, causal=causal, **found))
        del inputs
    inputs = normals(1, 8, 8192, 64, dtype=torch.float32)
    found = medians({"efficient": lambda q, k, v: exact(q, k, v, False, SDPBackend.EFFICIENT_ATTENTION),
                     "8|8|8|8|8|8|8|8": lambda q, k, v: library.multi_level(q, k, v, eights, 64, False)}, inputs, repeats=5, warm=1)
    show("1x8192 float32", found, "efficient")


def bench_steps(library, results):
    eights = [8] * 8
    for batch, length in ((1, 16384), (1, 65536), (16, 16384), (16, 65536)):
        q, k, v = normals(batch, 1, 512, sets=1)[0]
        found = {}
        for order in (2, 6):
            keys = torch.randn(batch, 256, 512, device="cuda")
            state = (torch.empty(batch, 2, order + 1, 512, device="cuda"), torch.empty(batch, 512, device="cuda"))
            after = tuple(torch.empty_like(t) for t in state)
            library.elementwise(keys, keys, keys, order, True, present=state)
            found[f"elementwise, order {order}"] = medians(
                {"": lambda: library.elementwise(q, k, v, order, True, past=state, present=after)}, [[]])[""]
        past = length - 1
        q = torch.randn(batch, 8, 1, 64, device="cuda").bfloat16()
        k, v = (torch.randn(batch, 8, length, 64, device="cuda").bfloat16() for _ in range(2))
        block = length // 128
        cached = [past if level == 0 else past % (block << (7 - level)) for level in range(8)]
        caches = [(v[:, :, :past].contiguous(), [k[:, :, past - n:past, 8 * l:8 * l + 8].contiguous() for l, n in enumerate(cached)])]
        kept = [length] + [0] * 7
        after = (torch.empty_like(v), [torch.empty(batch, 8, n, 8, device="cuda", dtype=q.dtype) for n in kept])
        last = (k[:, :, past:].contiguous(), v[:, :, past:].contiguous())
        step = lambda present: library.multi_level(q, *last, eights, block, True, past=caches[0], present=present)
        found["multi-level, attention alone"] = medians({"": lambda: step(None)}, [[]])[""]
        found["multi-level, cache written"] = medians({"": lambda: step(after)}, [[]])[""]
        for name, backend in BACKENDS.items():
            found[name] = medians({"": lambda: exact(q, k, v, False, backend)}, [[]])[""]
        show(f"step after {past} tokens, batch {batch}, width 512", found, "FlashAttention-2")
        results.append(dict(operator="step", batch=batch, past=past, **found))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--only", choices=("elementwise", "multi-level", "steps"))
    parser.add_argument("--shapes", default="16x8192,4x16384,2x32768,1x65536", help="of multi-level attention")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.manual_seed(0)
    library, results = Library(args.library), []
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
    if args.only in (None, "elementwise"):
        bench_elementwise(library, results)
    if args.only in (None, "multi-level"):
        bench_multi_level(library, results, args.shapes.split(","))
    if args.only in (None, "steps"):
        bench_steps(library, results)
    if args.json:
        with open(args.json, "w") as out:
            json.dump(results, out, indent=1)


if __name__ == "__main__":
    main()
