"""results.json and predictions.npz of a run folder."""

import contextlib
import gc
import platform
import resource
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np

from dassl.data.hashing import split_hashes
from dassl.utils.io import atomic_path, sha256_of, write_json
from dassl.utils.version import commit

from .run_folder import config_hash

PARTS = {"train": "train_x", "val": "val", "test": "test"}


def reset_peak_memory(device):
    """Start a run's count: of the CUDA allocator, or (Linux) of this process's resident size."""
    if device.type == "cuda":
        import torch

        gc.collect()  # an earlier run of this process is a cycle: it would be counted with this one
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib(device):
    """Peak of the CUDA allocator, or of this process's resident size, since reset_peak_memory().

    Where Linux's counter is missing: since the process began, earlier runs in it included.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@lru_cache(maxsize=1)
def versions():
    import importlib.metadata as metadata

    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "open_clip_torch", "transformers", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(device):
    """What the device is called: the GPU, or the processor ("" where the system does not say)."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def record(trainer, split, report, cost, facts):
    """The content of results.json (schema 2): `run_facts` of the caller (spec, key, reads ...) say what the run is."""
    import torch

    cfg, data, own = trainer.cfg, trainer.dm.dataset, dict(trainer.run_facts)
    hashes = split_hashes(data)
    if "source_dataset" in own:  # trained on another set: nobody saw this one's training images
        hashes["train_sha256"] = own["train_sha256"]
        hashes["split_sha256"] = sha256_of([own["train_sha256"], hashes["test_sha256"]])
    return {
        "schema": 2,
        "method": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "protocol": cfg.RUN.PROTOCOL,
        "subset": cfg.DATASET.SUBSAMPLE_CLASSES,
        "split": split,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "backbone": facts.pop("backbone", cfg.MODEL.BACKBONE.NAME),
        "llm": facts.pop("llm", None),
        "hparams": cfg.RUN.HPARAMS,
        "tuned": cfg.RUN.TUNED,
        "source_note": getattr(trainer.dm.dataset, "source_note", ""),
        **report,
        "cost": {**cost, "trainable_parameters": facts.pop("trainable_parameters", None)},
        **facts,
        **hashes,
        "config_sha256": config_hash(cfg, leave_out=()),
        "parts": {part: len(getattr(data, name) or ()) for part, name in PARTS.items()},
        "input_set_by_user": trainer.input_set_by_user,
        "threads": torch.get_num_threads(),
        "device": str(trainer.device),
        "device_name": device_name(trainer.device),
        "platform": platform.platform(),
        "versions": versions(),
        "git": commit(),
        **own,
    }


def save(folder, split, final, content, paths, labels, predictions, probabilities, groups=None):
    """Write results.json (final test) or results_<split>.json, and the predictions beside it."""
    folder = Path(folder)
    name = "results.json" if final else f"results_{split}.json"
    target = folder / ("predictions.npz" if final else f"predictions_{split}.npz")
    save_predictions(target, content["classes"], paths, labels, predictions, probabilities, groups)
    write_json(content, folder / name)


def save_predictions(path, classes, paths, labels, predictions, probabilities, groups=None, **more):
    """Write predictions of n images as arrays.

    Args:
        groups: (n,) ids of patients or None; kept as hashes, as predictions are handed on and ids may be names.
        more: further arrays.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        np.savez_compressed(
            f,
            paths=np.array(paths, dtype=str),
            labels=labels,
            predictions=predictions,
            probabilities=probabilities.astype(np.float32),
            classes=np.array(classes, dtype=str),
            groups=np.array([sha256_of(str(g))[:16] for g in groups or ()], dtype=str),
            **more,
        )
