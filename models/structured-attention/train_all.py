"""
Trains the models of this folder's tables, on all GPUs, several at a time.

    python train_all.py --data DIR --out trained/
    python train_all.py --data DIR --out trained/ --families regression --gpus 4 --seconds 370

DIR holds corpus.bin (or corpus.bin.xz), held_out.bin and ETTh1.csv. All models of a family take the same number of
steps.
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

PER_GPU = 3
LANGUAGE_STEPS = 8100
REGRESSION_STEPS = 26000


def language_jobs(data):
    import byte_lm

    corpus = data / "corpus.bin"
    if not corpus.exists():
        corpus = pathlib.Path("/dev/shm/corpus.bin")
        with lzma.open(data / "corpus.bin.xz") as packed, open(corpus, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 24)
    texts = ["--corpus", str(corpus), "--held-out", str(data / "held_out.bin"), "--steps", str(LANGUAGE_STEPS)]
    for kind in byte_lm.KINDS:
        yield "byte_lm", [kind, "--width", "256", *texts]
    for kind in ("softmax", "multi-level", "elementwise-6", "linear"):
        yield "byte_lm", [kind, "--width", "128", *texts]


def regression_jobs(seconds):
    import regression

    sizes = [(128, 256, 6), (64, 256, 6), (32, 256, 6), (16, 128, 4)]
    models = [(kind, *size) for size in sizes for kind in regression.KINDS]
    for kind, dimension, width, layers in [("softmax", 128, 512, 6), *models]:
        shape = ["--dimension", str(dimension), "--width", str(width), "--layers", str(layers)]
        budget = ["--steps", str(REGRESSION_STEPS), *(["--seconds", str(seconds)] if seconds else [])]
        yield "regression", [kind, *shape, *budget]


def forecasting_jobs(data):
    import time_series

    for horizon in (96, 192, 336):
        for kind in time_series.KINDS:
            yield "time_series", [kind, "--horizon", str(horizon), "--data", str(data / "ETTh1.csv")]


def work(gpu, jobs):
    """Runs jobs until there are none; one process, so that Python, CUDA and the data are loaded once."""
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    import torch

    for module, arguments in iter(jobs.get, None):
        try:
            importlib.import_module(module).main(arguments)
        except Exception:
            print("failed:", module, *arguments, flush=True)
            traceback.print_exc()
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop a regression after so many, wherever it is")
    families = ["language", "regression", "forecasting"]
    parser.add_argument("--families", nargs="+", choices=families, default=families)
    options = parser.parse_args()
    start = time.time()
    jobs = {
        "language": lambda: language_jobs(options.data),
        "regression": lambda: regression_jobs(options.seconds),
        "forecasting": lambda: forecasting_jobs(options.data),
    }
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=work, args=(gpu, queue)) for _ in range(PER_GPU) for gpu in range(options.gpus)
    ]
    for family in options.families:
        for module, arguments in jobs[family]():
            queue.put((module, [*arguments, "--out", str(options.out)]))
    for worker in workers:
        queue.put(None)
        worker.start()
    for worker in workers:
        worker.join()
    print(f"all took {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
