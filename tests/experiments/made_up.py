"""Output folders of made-up runs, small, with what pictures and the page read beside results: curves, temperatures."""

import json
import shutil

from cilmp.benchmarks import big_report
from dassl.utils.io import write_json

LONG = "a method whose authors could not stop naming it, " * 5
NAMES = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "$x_1$ & {y} \\frac",
         "_under\nline " + LONG)  # fmt: skip


def make(folder, monkeypatch, runs=180, methods=4, seeds=(1, 2, 3), sets=2):
    """Runs of all protocols in turn."""
    monkeypatch.setattr(big_report, "METHODS", methods)
    monkeypatch.setattr(big_report, "SEEDS", tuple(seeds))
    monkeypatch.setattr(big_report, "SETS", big_report.SETS[:max(sets, 5)])
    monkeypatch.setattr(big_report, "TARGETS", 1)
    return big_report.make(folder, runs, images=60)


def change(folder, how):
    """Rewrite every results.json below a folder by how(content)."""
    for path in sorted(folder.rglob("results.json")):
        content = json.loads(path.read_text())
        how(content)
        write_json(content, path)


def with_curves(folder, steps=30):
    """TensorBoard events and answers to the whole val part (those to test, again) in every run that trained."""
    from torch.utils.tensorboard import SummaryWriter

    for path in sorted(folder.rglob("results.json")):
        if json.loads(path.read_text())["spec"]["source"] is None:
            shutil.copyfile(path.parent / "predictions.npz", path.parent / "predictions_whole_val.npz")
            with SummaryWriter(str(path.parent / "tensorboard")) as writer:
                for step in range(steps):
                    writer.add_scalar("train/loss", 2 / (1 + step), step)
                    writer.add_scalar("train/acc", 100 - 80 / (1 + step), step)


def hostile(content):
    """Names of methods, classes and data sets that are markup, mathematics, line breaks, and too long."""
    places = {name: i for i, name in enumerate(big_report._methods())}
    content["spec"]["label"] = NAMES[places[content["method"]] % len(NAMES)]
    content["classes"] = [f"{NAMES[i % len(NAMES)]} {i}" for i in range(len(content["classes"]))]
    content["per_class"] = {}
    content["source_note"] = "confounded </style><b>note</b>"
