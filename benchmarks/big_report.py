#!/usr/bin/env python
"""Time and memory of `cilmp report` over many results: made-up runs, as complete as real ones, and the report of them.

    OMP_NUM_THREADS=1 python -m cilmp.benchmarks.big_report FOLDER [--runs 10000] [--make] [-- FLAGS OF cilmp report]

FOLDER gets the runs (those already there are kept) and report/. Twenty methods, five seeds, ten data sets of six
classes; tables of all protocols in turn until there are enough runs, so the last may lack some of its own. Nothing in
them was trained: an image has its logits, a method a signal, a seed its luck.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cilmp.experiments import calibration, statistics
from cilmp.protocols import PROTOCOLS
from dassl.utils.errors import run_main
from dassl.utils.io import sha256_of, write_json

CLASSES = ("normal", "benign", "malignant", "cyst", "oedema", "other")
SETS = tuple(f"set{i:02d}" for i in range(1, 11))
METHODS, SEEDS, TARGETS = 20, (1, 2, 3, 4, 5), 4
BACKBONE = "ViT-B/16"


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--runs", type=int, default=10_000)
    p.add_argument("--images", type=int, default=240, help="of each run's test part, two of a patient")
    p.add_argument("--make", action="store_true", help="only make the runs")
    p.add_argument("rest", nargs="*", metavar="-- FLAG", help="further words of cilmp report")
    return p


def cells():
    """(protocol, data set, shots, part, tested data set) in the order in which tables are filled."""
    for i, dataset in enumerate(SETS):
        targets = [SETS[(i + k) % len(SETS)] for k in range(1, TARGETS + 1)]
        for name in ("few_shot", "base2new", "full", "cross_dataset", "realistic", "external"):
            protocol = PROTOCOLS[name]
            for shots in protocol.shots:
                if name == "base2new":
                    parts = [("train_base", dataset), ("test_new", dataset)]
                else:
                    parts = [("train_all", dataset)]
                    parts += [(f"test_{t}", t) for t in targets if protocol.needs_targets]
                for part, tested in parts:
                    yield name, dataset, shots, part, tested


def make(folder, runs=10_000, images=240):
    """Write that many runs: results.json and predictions.npz each; returns how many there are."""
    settings, methods = _settings(), _methods()
    left = runs
    for name, dataset, shots, part, tested in cells():
        for m, method in enumerate(methods[:METHODS]):
            seeds = SEEDS[:left]
            labels, p = answers(m, seeds, tested, part, shots, images)
            measured = _figures(labels, p)
            for s, seed in enumerate(seeds):
                facts = name, dataset, shots, part, tested, method, seed
                _write(Path(folder), facts, settings, labels, p[s], {k: v[s] for k, v in measured.items()})
            left -= len(seeds)
            if not left:
                return runs
    return runs - left


def _settings():
    from cilmp.experiments.settings import base_config
    from dassl.engine.run_folder import settings

    return settings(base_config())


def _methods():
    from cilmp.experiments.settings import CONFIGS

    found = sorted(p.name for p in (CONFIGS / "trainers").iterdir() if p.is_dir())
    return [*[m for m in found if m != "CILMP"][: METHODS - 1], "CILMP"]


def answers(m, seeds, tested, part, shots, images):
    """labels (images,), probabilities (len(seeds), images, C) of a method."""
    classes = len(CLASSES) // (2 if part in ("train_base", "test_new") else 1)
    rng = np.random.default_rng(list(f"{tested}{part}".encode()))  # of the images, for all methods
    labels = np.arange(images) // 2 % classes
    shared = rng.normal(size=(images, classes))
    rng = np.random.default_rng([m, max(shots, 0), *seeds, *f"{tested}{part}".encode()])
    signal = 0.8 + 0.06 * m + 0.12 * np.log2(shots if shots > 0 else 64)
    luck = rng.normal(signal, 0.1, size=(len(seeds), 1, 1))
    z = luck * np.eye(classes)[labels] + shared + 0.6 * rng.normal(size=(len(seeds), images, classes))
    e = np.exp(2 * z)
    return labels, e / e.sum(2, keepdims=True)


def _figures(labels, p):
    """{metric: [a number a seed]}."""
    predictions = p.argmax(2)
    found = {k: list(100 * f(labels, predictions, p)[0]) for k, f in statistics.FIGURES.items()}
    right = predictions == labels
    chance = 1 / p.shape[2]
    return found | {"ece": [calibration.ece(labels, one) for one in p],
                    "kappa": list((right.mean(1) - chance) / (1 - chance))}  # fmt: skip


def _write(output, facts, settings, labels, p, measured):
    name, dataset, shots, part, tested, method, seed = facts
    subset = {"train_base": "base", "test_new": "new"}.get(part, "all")
    first = "train_base" if name == "base2new" else "train_all"
    group, classes = sha256_of([name, dataset, shots, method]), p.shape[1]
    place = Path(name, dataset, method, BACKBONE.replace("/", "-"), f"shots{shots}".replace("-1", "-all"))
    folder = output / place / f"vit_b16-{group[:8]}" / f"seed{seed}" / part
    if (folder / "results.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = list(CLASSES[3:] if subset == "new" else CLASSES[:classes])
    other = name == "external" and part != first
    own = settings | {"DATASET.TEST_ON": tested if other else "", "SEED": seed, "TRAINER.NAME": method,
                      "DATASET.NAME": dataset if other else tested, "DATASET.NUM_SHOTS": shots}  # fmt: skip
    source = None if part == first else {"dataset": dataset, "shots": shots, "part": first, "key": group}
    spec = {
        "protocol": name, "part": part, "method": method, "dataset": own["DATASET.NAME"], "shots": shots, "seed": seed,
        "subset": subset, "split": "test", "backbone": BACKBONE, "weights": "", "llm": "", "file": "vit_b16",
        "label": "", "hparams": "official", "tuned": False, "source": source, "settings": own,
    }  # fmt: skip
    predictions = p.argmax(1)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predictions), 1)
    recall = 100 * np.diag(confusion) / confusion.sum(1)
    accuracy = measured["accuracy"]
    trained = sha256_of([dataset, shots, seed, subset, name == "realistic"])
    content = {
        "schema": 2, "method": method, "dataset": own["DATASET.NAME"], "protocol": name, "subset": subset,
        "split": "test",
        "shots": shots, "seed": seed, "backbone": BACKBONE, "llm": None, "hparams": "official", "tuned": False,
        "source_note": "", "n": len(labels), "classes": names, "metrics": {k: float(v) for k, v in measured.items()},
        "ci95": {k: [measured[k] - 5, measured[k] + 5] for k in ("accuracy", "macro_f1")}, "ci_unit": "group",
        "per_class": {c: {"accuracy": r, "precision": r, "recall": r, "f1": r, "n": int(n)}
                      for c, r, n in zip(names, recall.tolist(), confusion.sum(1))},
        "confusion": confusion.tolist(),
        "cost": {"steps": 0 if source else 240, "train_seconds": 0 if source else 60.0, "waiting_share": 0.1,
                 "seconds_per_step": None if source else 0.25, "peak_memory_mib": 2000.0,
                 "test_images_per_second": 100.0, "trainable_parameters": 1000 + round(accuracy)},
        "weights": "made up", "precision": "fp32", "transductive": False, "split_sha256": sha256_of([trained, tested]),
        "train_sha256": trained, "test_sha256": sha256_of([tested, subset]), "config_sha256": sha256_of([group, seed]),
        "input_set_by_user": [], "threads": 1, "device": "cpu", "versions": {"python": "3", "torch": "2"},
        "git": "0" * 12, "spec": spec, "key": sha256_of([group, part]), "group": group,
        "reads": {"split": sha256_of(tested)}, "left_out": {},
    }  # fmt: skip
    paths = [f"/data/{tested}/{subset}/{names[c]}/{i:05d}.png" for i, c in enumerate(labels)]
    np.savez_compressed(
        folder / "predictions.npz", paths=np.array(paths), labels=labels, predictions=predictions,
        probabilities=p.astype(np.float32), classes=np.array(names),
        groups=np.array([sha256_of(i // 2)[:16] for i in range(len(labels))]),
    )  # fmt: skip
    write_json(content, folder / "results.json")


def main():
    args = parser().parse_args()
    start = time.perf_counter()
    n = make(args.folder, args.runs, args.images)
    print(f"{n:,} runs made in {time.perf_counter() - start:.0f} s")
    if args.make:
        return 0
    start = time.perf_counter()
    words = [sys.executable, "-m", "cilmp", "report", str(args.folder), *args.rest]
    code = subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    written = [p for p in (args.folder / "report").rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in written) / 2**20
    print(f"report: {time.perf_counter() - start:.0f} s, peak {peak:.0f} MiB; {len(written)} files, {size:.1f} MiB")
    return code


if __name__ == "__main__":
    run_main(main)
