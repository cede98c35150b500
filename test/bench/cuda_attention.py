"""Times MultipoleAttention's CUDA kernels beside PyTorch's cuDNN and FlashAttention-2, and measures error and loss.

  nvcc -O3 -std=c++17 -Xcompiler -fPIC -shared -cudart static -gencode arch=compute_90a,code=sm_90a \
      -DONNX_REWRITE_HOPPER test/bench/multipole-attention-cuda.cu -o libmultipole.so
  python test/bench/cuda_attention.py libmultipole.so MODELS [--errors] [--loss] [--shapes 16x8192,1x65536] \
      [--variant 'causal segment=128 window=1 retrieve=0'] [--plan 'causal models/byte-lm/plans/causal-0.36.json']

MODELS holds byte_lm.py, its weights and heldout_code.bin: queries, keys and values are those of its trained layers.
A variant is `encoder` or `causal` and attributes of the operator, whose defaults fill in the rest; a plan gives each
layer its own. Times are medians of single calls between CUDA events, over rotating inputs, everything included
(clustering, sorting, summaries); the sequence of kernels is enqueued anew for each call, while the GPU still sleeps,
so that Python's own time is not measured. --graph replays it from a CUDA graph as well. A plan's time is that of its
layers together, each with its own inputs.
"""

import argparse
import ctypes
import functools
import json
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SELECTIONS = {"tile": 0, "sliding": 1, "cluster": 2}
ELEMENT_TYPES = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}
MOST_HEADS = 64
DEFAULTS = dict(segment=128, window=1, key_clusters=4, key_grouping="contiguous", query_clusters=32, iterations=3,
                retrieve=64, retrieve_error=0.0005, selection="tile", group=64)
CAUSAL_DEFAULTS = dict(DEFAULTS, selection="sliding", group=16)
VARIANTS = (
    "encoder segment=0 window=0 key_clusters=64 query_clusters=64 key_grouping=kmeans retrieve=0",
    "encoder query_clusters=16 retrieve=0",
    "encoder segment=256 key_clusters=8 query_clusters=16 retrieve=0",
    "encoder",
    "causal",
    "causal query_clusters=16 retrieve_error=0.001",
    "causal query_clusters=16 retrieve=8 retrieve_error=0",
    "causal query_clusters=16 retrieve=0",
    "causal segment=256 query_clusters=16 retrieve=0",
)


class Call(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in (
        "type batch heads kv_heads queries keys head_dim value_dim causal segment window key_clusters contiguous "
        "query_clusters iterations selection group retrieve_count").split()] + [("retrieve", ctypes.c_int64 * MOST_HEADS),
                                                                             ("retrieve_error", ctypes.c_double)]


class Variant:
    """What each of the model's layers computes: the operator's attributes by layer."""

    def __init__(self, kind, name, layers):
        self.kind, self.name, self.causal = kind, name, kind == "causal"
        defaults = CAUSAL_DEFAULTS if self.causal else DEFAULTS
        self.layers = [dict(defaults, **attributes) for attributes in layers]

    @staticmethod
    def parse(text):
        kind, *pairs = text.split()
        settings = dict(pair.split("=") for pair in pairs)
        attributes = {key: value if key in ("selection", "key_grouping") else json.loads(value) for key, value in settings.items()}
        return Variant(kind, text, [attributes] * 6)

    @staticmethod
    def plan(text):
        kind, file = text.split()
        return Variant(kind, text, [site["attributes"] for site in json.load(open(file))["sites"]])

    @property
    def uniform(self):
        return all(attributes == self.layers[0] for attributes in self.layers)


class Multipole:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.multipole_attention_bytes.restype = ctypes.c_int64
        self.memory = torch.empty(0, dtype=torch.uint8, device="cuda")

    def __call__(self, q, k, v, causal, attributes):
        chosen = dict(attributes, selection=SELECTIONS[attributes["selection"]])
        contiguous = chosen.pop("key_grouping") == "contiguous"
        retrieve = chosen.pop("retrieve")
        retrieve = retrieve if isinstance(retrieve, list) else [retrieve]
        call = Call(type=ELEMENT_TYPES[q.dtype], batch=q.shape[0], heads=q.shape[1], kv_heads=k.shape[1],
                    queries=q.shape[2], keys=k.shape[2], head_dim=q.shape[3], value_dim=v.shape[3], causal=causal,
                    contiguous=contiguous, retrieve_count=len(retrieve),
                    retrieve=(ctypes.c_int64 * MOST_HEADS)(*retrieve), **chosen)
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


def exact(q, k, v, causal, backend=SDPBackend.EFFICIENT_ATTENTION):
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


class Models:
    def __init__(self, folder):
        self.folder = folder
        sys.path.insert(0, folder)
        import byte_lm
        self.byte_lm = byte_lm

    def load(self, kind, attend):
        with torch.device("cpu"):
            return self.byte_lm.load(kind, attend, self.folder).cuda()

    @functools.lru_cache(maxsize=32)
    def layers(self, kind, length, start=0):
        """Trained q, k, v of every layer, [1, 4, length, 64] each, bfloat16."""
        recorded = []

        def record(q, k, v, causal):
            recorded.append([t.bfloat16().contiguous() for t in (q, k, v)])
            return exact(q, k, v, causal)

        model = self.load(kind, record)
        text = open(f"{self.folder}/heldout_code.bin", "rb").read()[start:start + length]
        ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()[None]
        if kind == "encoder":
            ids = torch.where(self.byte_lm.span_mask(length, 0), torch.full_like(ids, self.byte_lm.MASK_ID), ids)
        with torch.no_grad():
            model(ids.cuda())
        return recorded

    def losses(self, kind, attend):
        """Loss of each of the eight windows of 8192 bytes; attend(layer, q, k, v) in bfloat16."""
        counter = [0]

        def call(q, k, v, causal):
            counter[0] += 1
            return attend((counter[0] - 1) % 6, *(t.bfloat16().contiguous() for t in (q, k, v))).float()

        model, found = self.load(kind, call), []
        causal = kind == "causal"
        for i, ids in enumerate(self.byte_lm.windows(f"{self.folder}/heldout_code.bin", extra=int(causal))):
            if causal:
                found.append(self.byte_lm.causal_loss(model, ids.cuda()))
                continue
            mask = self.byte_lm.span_mask(ids.shape[1], i).cuda()
            ids = ids.cuda()
            with torch.no_grad():
                logits = model(torch.where(mask, torch.full_like(ids, self.byte_lm.MASK_ID), ids))
            found.append(float(F.cross_entropy(logits[mask], ids[mask])))
        return found

    @functools.lru_cache(maxsize=2)
    def rotating(self, kind, chosen, batch, length, dtype):
        """[batch, 4 per chosen layer, length, 64]: heads of those layers on different texts; three rotations of them."""
        parts = []
        for b in range(batch):
            found = self.layers(kind, length, b % 4 * 57344 % (1048576 - length))
            parts.append([torch.cat([found[layer][i] for layer in chosen], 1) for i in range(3)])
        first = [torch.cat([part[i] for part in parts]).to(dtype) for i in range(3)]
        return [[t.roll(s, 0).contiguous() for t in first] for s in range(3)]


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


def captured(run, args):
    """Runs once, then captures: a function that replays the graph, and the output it writes."""
    run(*args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(*args)
    return graph.replay, out


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


def error_line(models, multipole, variant, length):
    errors = []
    for (q, k, v), attributes in zip(models.layers(variant.kind, length), variant.layers):
        want = exact(q.float(), k.float(), v.float(), variant.causal)
        errors.append(squared_error(multipole(q, k, v, variant.causal, attributes), want))
    print(f"error {length} {variant.name}: " + " ".join(f"{e:.4f}" for e in errors), flush=True)
    return dict(errors=errors, length=length, name=variant.name)


class Baselines:
    """Times of exact attention: PyTorch's cuDNN and FlashAttention-2, for float32 its memory-efficient kernel."""

    def __init__(self):
        self.known = {}

    def __call__(self, key, causal, inputs):
        if key not in self.known:
            single = inputs[0][0].dtype == torch.float32
            backends = [SDPBackend.EFFICIENT_ATTENTION] if single else [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
            self.known[key] = [median_ms(lambda q, k, v: exact(q, k, v, causal, backend), inputs) for backend in backends]
        return self.known[key]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("models")
    parser.add_argument("--variant", action="append", default=[], help="instead of the built-in ones")
    parser.add_argument("--plan", action="append", default=[])
    parser.add_argument("--profile", action="store_true", help="time of each kernel")
    parser.add_argument("--errors", help="lengths at which to measure the error of each trained layer")
    parser.add_argument("--loss", action="store_true", help="change of the model's loss on eight windows of 8192")
    parser.add_argument("--shapes", default="16x8192,4x16384,2x32768,1x65536", help="batch x tokens, of 8 heads")
    parser.add_argument("--graph", action="store_true")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.manual_seed(0)
    multipole, models, results = Multipole(args.library), Models(args.models), []
    named = bool(args.variant or args.plan)
    variants = [Variant.parse(text) for text in (args.variant if named else VARIANTS)] + [Variant.plan(p) for p in args.plan]
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())

    for length in map(int, filter(None, (args.errors or "").split(","))):
        results += [error_line(models, multipole, variant, length) for variant in variants]

    if args.loss:
        for kind in dict.fromkeys(variant.kind for variant in variants):
            causal = kind == "causal"
            base = models.losses(kind, lambda layer, q, k, v: exact(q, k, v, causal))
            for variant in (v for v in variants if v.kind == kind):
                found = models.losses(kind, lambda layer, q, k, v: multipole(q, k, v, causal, variant.layers[layer]))
                windows = [100 * (a / b - 1) for a, b in zip(found, base)]
                mean = 100 * (sum(found) / sum(base) - 1)
                print(f"loss {variant.name}: {mean:+.2f}% | " + " ".join(f"{w:+.2f}" for w in windows), flush=True)
                results.append(dict(name=variant.name, loss=mean, windows=windows))

    baselines, dtype = Baselines(), getattr(torch, args.dtype)
    for shape in filter(None, args.shapes.split(",")):
        batch, length = map(int, shape.split("x"))
        for variant in variants:
            causal = variant.causal
            # A layer of a plan has four heads, so that as many rows take twice the batch.
            chosen = [((4, 5) if causal else (1, 5), variant.layers[0])] if variant.uniform else [
                ((layer,), attributes) for layer, attributes in enumerate(variant.layers)]
            ms, again, graph, base, errors = [], [], [], [], []
            for layers, attributes in chosen:
                key = (variant.kind, layers, batch * 2 // len(layers), length, dtype)
                inputs = models.rotating(*key)
                run = lambda q, k, v: multipole(q, k, v, causal, attributes)
                base.append(baselines(key, causal, inputs))
                ms.append(median_ms(run, inputs))
                again.append(median_ms(run, inputs))
                errors.append(squared_error(run(*inputs[0]), exact(*inputs[0], causal)))
                if args.graph:
                    replay, out = captured(run, inputs[0])
                    direct = run(*inputs[0])
                    out.fill_(float("nan"))
                    graph.append(median_ms(lambda *_: replay(), inputs))
                    if not torch.equal(out, direct):
                        raise RuntimeError("a replayed graph gives other bytes")
                if args.profile:
                    profile(run, inputs[0])
            others = [sum(times) for times in zip(*base)]
            print(f"{shape} {variant.name}: {sum(ms):.3f} ms (again {sum(again):.3f}, graph {sum(graph):.3f}), "
                  f"{others[0] / sum(ms):.2f} x {others[0]:.3f} ({', '.join(f'{o:.3f}' for o in others)}), "
                  f"error {max(errors):.4f}", flush=True)
            results.append(dict(shape=shape, name=variant.name, errors=errors, ms=ms, again=again, graph=graph, base=base))
    if args.json:
        json.dump(results, open(args.json, "w"), indent=1)


if __name__ == "__main__":
    main()
