"""Somebody else's checkout as a plugin, on a hand-written one: what holds without any clone (see test_checkouts.py)."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cilmp.experiments.checkout import Checkout, root_of, weights_file
from cilmp.experiments.plugins import load_plugins
from dassl.config import CfgNode
from dassl.utils.errors import UserError
from dassl.utils.paths import REPO

MIMIC = Path(__file__).with_name("mimic")
KEYS = "INPUT.SIZE (32,32) DATALOADER.NUM_WORKERS 0 DATALOADER.TRAIN_X.BATCH_SIZE 4 TRAINER.COOP.PREC fp32"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """mimic/, and other/ with a clip of its own; data of four shapes; a small CLIP in OpenAI's layout."""
    import numpy as np
    import torch
    from PIL import Image

    from cilmp.backbones.factory import build

    folder = tmp_path_factory.mktemp("checkouts")
    for name in ("mimic", "other"):
        shutil.copytree(MIMIC, folder / name)
        for package in ("clip/clip.py", "open_clip/__init__.py"):
            path = folder / name / package
            path.write_text(path.read_text().replace("mimic", name))
    for part, count in (("train", 3), ("val", 2), ("test", 2)):
        (folder / "data" / "shapes" / part).mkdir(parents=True)
        for label, name in enumerate(("circle", "square", "star", "wedge")):
            for i in range(count):
                pixels = np.random.default_rng(9 * label + i).integers(60 * label, 60 * label + 60, (32, 32, 3))
                Image.fromarray(pixels.astype("uint8")).save(folder / "data" / "shapes" / part / f"{name}_{i}.png")
    torch.manual_seed(0)
    model = build({"embed_dim": 32, "quick_gelu": True,
                   "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "head_width": 64, "layers": 1},
                   "text_cfg": {"width": 64, "heads": 1, "layers": 1}})  # fmt: skip
    marks = {"input_resolution": torch.tensor(32)}
    state = {k: v for k, v in model.state_dict().items() if "attn_mask" not in k}
    torch.save(state | marks, folder / "small.pt")
    return folder


def call(place, *words, **environ):
    env = {k: v for k, v in os.environ.items() if k not in ("DATA", "SHOTS", "METHODS", "PLUGIN", "OPTS")}
    env |= {"OUTPUT": str(place / "out"), "DATA": str(place / "data"), "BACKBONE": str(place / "small.pt"),
            "SHOTS": "1", "EPOCHS": "1", "OPTS": KEYS} | environ  # fmt: skip
    done = subprocess.run([sys.executable, *map(str, words)], cwd=place, env=env, capture_output=True, text=True,
                          timeout=600)  # fmt: skip
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return done.returncode, said


def test_two_checkouts_and_ours_in_one_table(place):
    """Both own `trainers`, `datasets`, `clip`, `open_clip`; all on the reader of the first."""
    methods = "CoOp,mimic.CoOp,other.CoOp,Breaks"
    code, said = call(place, REPO / "cilmp", "run", "few_shot", methods, "Shapes", 1,
                      PLUGIN=f"{place}/mimic/trainers/coop.py other")  # fmt: skip
    assert f"{place / 'mimic'}: CoOp is taken, its own: mimic.CoOp\n" in said
    assert f"{place / 'mimic'}: BUSI is taken, its own: mimic.BUSI\n" in said
    assert "CoOp, Breaks are taken, its own: other.CoOp, other.Breaks" in said
    assert "Shapes, BUSI are taken, its own: other.Shapes, other.BUSI" in said
    folder = place / "out" / "few_shot" / "Shapes"
    table = json.loads((folder / "table.json").read_text())
    assert [row[0] for row in table["rows"]] == ["CoOp", "mimic.CoOp", "other.CoOp"]
    assert not any("-" in row[:4] for row in table["rows"])
    logs = "".join(p.read_text() for p in sorted(folder.rglob("log.txt")))
    for name in ("mimic", "other"):
        assert logs.count(f"trained with the clip of {name}, on Shapes as CoOp") == 1
    results = [json.loads(p.read_text()) for p in folder.rglob("results.json")]
    assert {(r["method"], r["dataset"]) for r in results} == {(m, "Shapes") for m in methods.split(",")[:3]}
    assert len({r["split_sha256"] for r in results}) == 1
    assert all({"code", "weights", "split"} == set(r["reads"]) for r in results)
    (failed,) = (line for line in said.splitlines() if "failed - " in line)
    assert code == 1 and "Breaks, 1 shot" in failed and "failed - KeyError: 'phantom' (see " in failed


def test_train_py_with_its_own_yaml_and_keys_on_our_data(place, tmp_path):
    own = place / "mimic" / "configs" / "trainers" / "CoOp" / "short.yaml"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("OPTIM:\n  LR: 1e-3\nTRAINER:\n  COOP:\n    SCALE: 2\n")
    words = [REPO / "train.py", "--plugin", "mimic", "--trainer", "mimic.CoOp", "--dataset", "phantom", "--seed", 1,
             "--backbone", place / "small.pt", "--output-dir", tmp_path / "run", "--config-file", own]  # fmt: skip
    options = [*KEYS.split(), "OPTIM.MAX_EPOCH", 1, "DATASET.NUM_SHOTS", 1]
    code, said = call(place, *words, *options)
    assert code == 0 and "on phantom as CoOp" in said
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    settings = found["spec"]["settings"]
    assert settings["TRAINER.COOP.SCALE"] == 2.0 and settings["OPTIM.LR"] == 1e-3
    assert settings["RUN.CHECKOUT"] == "mimic" and found["method"] == "mimic.CoOp"


def test_weights_are_a_file_or_its_own(place):
    file = str(place / "small.pt")
    asked = lambda name, weights="": weights_file(CfgNode({"NAME": name, "WEIGHTS": weights}))  # noqa: E731
    assert asked("ViT-B/16") == ""
    assert asked(file) == asked(f"ViT-B-16::{file}") == asked("ViT-B/16", file) == file
    with pytest.raises(UserError, match="no such file"):
        asked("ViT-B/16", "gone.pt")
    with pytest.raises(UserError, match="brings its own backbones, and demo is none"):
        asked("demo")


def test_which_files_are_of_a_checkout(tmp_path):
    assert root_of(MIMIC / "trainers" / "coop.py") == root_of(MIMIC / "train.py") == root_of(MIMIC) == MIMIC
    (tmp_path / "datasets").mkdir()
    for path in (tmp_path / "datasets" / "my_dataset.py", tmp_path / "train.py", REPO / "train.py",
                 REPO / "trainers" / "coop.py", MIMIC / "my_method.py"):  # fmt: skip
        assert root_of(path) is None


@pytest.mark.parametrize("text, words", [
    ("raise RuntimeError('no luck today')", "RuntimeError: no luck today - FILE, line 1"),
    pytest.param("import nowhere_to_be_found",
                 "needs a module that is not installed: nowhere_to_be_found - FILE, line 1", marks=pytest.mark.slow),
    pytest.param("NOTHING = True", "FILE registers no trainer and no reader", marks=pytest.mark.slow),
    ("import sys\nsys.exit(4)", "it calls exit(4) - FILE, line 2"),
    ("import os\nos._exit(5)", "ended with code 5 and without an answer"),
])  # fmt: skip
def test_a_file_of_a_checkout_that_does_not_load(tmp_path, text, words):
    shutil.copytree(MIMIC, tmp_path / "fork")
    file = tmp_path / "fork" / "trainers" / "new.py"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_plugins([file])
    assert words.replace("FILE", str(file)) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text, words", [
    ("import sys\nsys.exit()", "it calls exit(None) - plugin FILE, line 2"),
    ("NOTHING = True", "plugin FILE registers no trainer and no reader: put @TRAINER_REGISTRY"),
])  # fmt: skip
def test_a_file_of_ones_own_that_does_nothing(tmp_path, text, words):
    """Before: exit() ended the command without a word and with code 0."""
    plugin = tmp_path / f"plugin{abs(hash(text))}.py"
    plugin.write_text(text)
    with pytest.raises(UserError) as error:
        load_plugins([plugin])
    assert words.replace("FILE", str(plugin)) in str(error.value)


def test_a_checkout_that_is_none(tmp_path):
    with pytest.raises(UserError, match="is no checkout: neither trainers"):
        load_plugins([tmp_path])
    inner = tmp_path / "inner"
    (inner / "datasets").mkdir(parents=True)
    (inner / "datasets" / "__init__.py").touch()
    with pytest.raises(UserError, match=f"give {inner}, or"):
        load_plugins([tmp_path])
    with pytest.raises(UserError, match=r"has no train\.py that says what it holds"):
        load_plugins([inner])


def test_the_child_ends_with_its_parent(tmp_path):
    """However the parent ended: nothing of it holds the run's folder any more."""
    slow = tmp_path / "slow"
    shutil.copytree(MIMIC, slow)
    (slow / "train.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)\n")
    task = {"do": "describe", "root": str(slow), "entries": [""], "answer": str(tmp_path / "answer.json")}
    code = f"from cilmp.experiments.checkout import _in_process; _in_process({task!r}, None)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not _alive(child):
            return
        time.sleep(0.1)
    raise AssertionError("it lives on")


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_it_is_asked_once_a_process(monkeypatch):
    asked = []
    monkeypatch.setattr(Checkout, "_all", {})
    monkeypatch.setattr(Checkout, "_register", lambda *args: None)
    monkeypatch.setattr(Checkout, "ask", lambda self, do, **task: asked.append(task["entries"]) or {})
    for file in ("trainers/coop.py", "trainers/coop.py", "datasets/shapes.py", "trainers/coop.py"):
        load_plugins([MIMIC / file])
    assert asked == [["trainers/coop.py"], ["trainers/coop.py", "datasets/shapes.py"]]
