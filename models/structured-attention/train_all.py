"""
Trains every model of this folder's tables within a time budget, on all GPUs, several models at a time.

    python train_all.py --data DIR --seconds 480 --out results/

DIR holds corpus.bin (or corpus.bin.xz), held_out.bin and ETTh1.csv. Short trials of every model come first, one
that compiles and one that is timed; from the times per step it chooses one number of steps for all models of a family.
"""

import argparse
import importlib
import lzma
import multiprocessing
import os
import pathlib
import shutil
import time
import traceback

TRIAL_STEPS = 60
PER_GPU = 3
#: The longest job's part of the time after the trials.
LONGEST = 0.85
#: Families of models and their parts of the budget.
PARTS = {"language": 10, "regression": 9, "small": 1, "forecasting": 4}


def language_jobs():
    import byte_lm

    for kind in byte_lm.KINDS:
        yield "byte_lm", [kind, "--width", "256"]
    for kind in ("softmax", "multi-level", "elementwise-6", "linear"):
        yield "byte_lm", [kind, "--width", "128"]


def regression_jobs():
    import regression

    for dimension in (128, 64, 32):
        for kind in regression.KINDS:
            yield "regression", [kind, "--dimension", str(dimension)]
    yield "regression", ["softmax", "--dimension", "128", "--width", "512"]


def small_jobs():
    """The models that are small enough to be kept beside the recipes."""
    for kind in ("softmax", "bilinear-btt", "bilinear-mlr"):
        yield "regression", [kind, "--dimension", "16", "--width", "128", "--layers", "4"]


def forecasting_jobs():
    import time_series

    for horizon in (96, 192, 336):
        for kind in time_series.KINDS:
            yield "time_series", [kind, "--horizon", str(horizon)]


def work(gpu, jobs, results):
    """Runs jobs until there are none; one process, so that Python, CUDA and the data are loaded once."""
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    import torch

    for number, module, arguments in iter(jobs.get, None):
        try:
            result = importlib.import_module(module).main(arguments)
            results.put((number, result["ms_per_step"]))
        except Exception:
            traceback.print_exc()
            results.put((number, float("nan")))
        torch.cuda.empty_cache()


def run(jobs, queue, results):
    """Runs (module, arguments) jobs on the workers; returns milliseconds per step by job, NaN where one failed."""
    for number, (module, arguments) in enumerate(jobs):
        queue.put((number, module, arguments))
    times = dict(results.get() for _ in jobs)
    failed = [jobs[number] for number, ms in times.items() if ms != ms]
    if failed:
        print("failed:", *failed, sep="\n  ", flush=True)
    return [times[number] for number in range(len(jobs))]


def rounded_down(steps):
    unit = 10 ** max(1, len(str(int(steps))) - 2)
    return int(steps) // unit * unit


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--families", nargs="+", default=[*PARTS])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    start = time.time()
    corpus = options.data / "corpus.bin"
    if not corpus.exists():
        corpus = pathlib.Path("/dev/shm/corpus.bin")
        with lzma.open(options.data / "corpus.bin.xz") as packed, open(corpus, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 24)
    out = ["--out", str(options.out)]
    language = ["--corpus", str(corpus), "--held-out", str(options.data / "held_out.bin"), *out]
    families = {
        "language": [(module, arguments + language) for module, arguments in language_jobs()],
        "regression": [(module, arguments + out) for module, arguments in regression_jobs()],
        "small": [(module, arguments + out) for module, arguments in small_jobs()],
    }
    families = {name: jobs for name, jobs in families.items() if name in options.families}
    forecasts = [
        (module, arguments + ["--data", str(options.data / "ETTh1.csv"), *out])
        for module, arguments in forecasting_jobs()
        if "forecasting" in options.families
    ]

    context = multiprocessing.get_context("spawn")
    queue, results = context.Queue(), context.Queue()
    workers = [
        context.Process(target=work, args=(gpu, queue, results), daemon=True)
        for gpu in range(options.gpus)
        for _ in range(PER_GPU)
    ]
    for worker in workers:
        worker.start()
    trials = [job for jobs in families.values() for job in jobs]
    trials = [(module, arguments + ["--steps", str(TRIAL_STEPS)]) for module, arguments in trials]
    run(trials, queue, results)
    times = run(trials, queue, results)
    left = options.seconds - (time.time() - start)
    print(f"trials took {time.time() - start:.0f} s", flush=True)

    jobs, offset = [], 0
    for name, members in families.items():
        own = times[offset : offset + len(members)]
        offset += len(members)
        own_ms = [ms for ms in own if ms == ms]
        share = PARTS[name] / sum(PARTS[family] for family in options.families)
        steps = rounded_down(left * min(share * len(workers) * 1000 / sum(own_ms), LONGEST * 1000 / max(own_ms)))
        print(name, steps, "steps", flush=True)
        jobs += [(ms, m, a + ["--steps", str(steps)]) for ms, (m, a) in zip(own, members) if ms == ms]
    jobs.sort(key=lambda job: -job[0])
    run([job[1:] for job in jobs] + forecasts, queue, results)
    for _ in workers:
        queue.put(None)
    print(f"all took {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
