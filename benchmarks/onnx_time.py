"""ONNX against PyTorch on the CPU, interleaved, at ViT-B/16 size with random weights and 8 classes.

    python -m cilmp.benchmarks.onnx_time [CoOp CILMP ...] [--batches 1 32] [--repeats 9]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from cilmp.inference import onnx

from .cases import names
from .harness import HarnessStep


def model(method):
    """What `onnx.export` asks of a Model: 8 classes, 32 rows of 4096 numbers."""
    trainer = HarnessStep(method, B=4, C=8, names=names, rows=32, width=4096, train=False).trainer
    trainer.set_model_mode("eval")
    return SimpleNamespace(trainer=trainer, method=method, transductive=trainer.transductive, device=trainer.device,
                           classes=names(8), spec={"dataset": "noise"})  # fmt: skip


def medians(functions, repeats):
    """Median seconds of each function, called in turn."""
    taken = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, times in zip(functions, taken):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in taken]


@torch.no_grad()
def report(method, batches, repeats):
    """One line a batch size: milliseconds of both, largest difference of probabilities."""
    found = model(method)
    graph = onnx.Graph(found).eval()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = onnx.export(found, Path(folder, onnx.NAME))
        size, seconds = path.stat().st_size / 1e6, time.perf_counter() - start
        print(f"{method}: {size:.0f} MB, exported and compared in {seconds:.0f} s", flush=True)
        runner = onnx.session(path)
        for count in batches:
            x = graph.example(count, seed=1)
            ours, theirs = medians([lambda x=x: graph(x), lambda x=x: onnx.answers(runner, x)], repeats)
            apart = onnx.difference(graph, path, [count])
            print(f"  batch {count}: torch {1e3 * ours:.1f} ms, onnxruntime {1e3 * theirs:.1f} ms, "
                  f"{ours / theirs:.2f}x; difference {apart:.1e}", flush=True)  # fmt: skip


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("methods", nargs="*", default=["CoOp", "CILMP"])
    p.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    p.add_argument("--repeats", type=int, default=9)
    args = p.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for method in args.methods:
        report(method, args.batches, args.repeats)


if __name__ == "__main__":
    main()
