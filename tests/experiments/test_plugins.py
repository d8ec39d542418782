"""The templates of docs/extending as a user runs them: a method and a reader from outside the repository."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dassl.utils.paths import REPO

EXTENDING = REPO / "docs" / "extending"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with copies of both plugins and images for the reader: dark is healthy, bright is ill."""
    folder = tmp_path_factory.mktemp("outside")
    for name in ("my_method.py", "my_dataset.py"):
        (folder / name).write_text((EXTENDING / name).read_text())
    noise = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2), ("test", 4)):
        for name, level in (("healthy", 60), ("ill", 190)):
            where = folder / "data" / "my_dataset" / part / name
            where.mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(level - 50, level + 50, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(where / f"{i}.png")
    return folder


def command(place, *words, **environ):
    env = {k: v for k, v in os.environ.items() if k not in ("DATA", "SHOTS", "METHODS", "PLUGIN")}
    env |= {"OUTPUT": str(place / "out")} | environ
    done = subprocess.run([sys.executable, *map(str, words)], cwd=place, env=env, capture_output=True, text=True,
                          timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


DEMO = ["--backbone", "demo", "--seed", "1", "--config-file", REPO / "configs" / "trainers" / "demo.yaml"]


def test_own_method_and_own_reader_through_train(place):
    command(place, REPO / "train.py", "--plugin", "my_method.py", "--plugin", "my_dataset.py", "--trainer", "MyMethod",
            "--dataset", "MyDataset", "--root", place / "data", *DEMO, "--output-dir", place / "one",
            "--head", "mlp", "OPTIM.MAX_EPOCH", "2", "DATASET.NUM_SHOTS", "4", "TRAINER.MYMETHOD.WEIGHT",
            "0.5")  # fmt: skip
    assert "NAME: mlp" in (place / "one" / "config.yaml").read_text()  # MODEL.HEAD.NAME, for plugins that read it
    result = json.loads((place / "one" / "results.json").read_text())
    assert result["method"] == "MyMethod" and result["dataset"] == "MyDataset" and result["n"] == 8
    assert result["cost"]["trainable_parameters"] == 128
    assert "train_x  8" in re.sub(r" +", "  ", (place / "one" / "log.txt").read_text()).replace("#  ", "# ")


def test_own_method_in_the_table_beside_the_others(place):
    printed = command(place, REPO / "cilmp", "run", "base2new", "CILMP", "phantom", "1", PLUGIN="my_method.py",
                      METHODS="ZeroshotCLIP MyMethod", EPOCHS="1")  # fmt: skip
    table = json.loads((place / "out" / "base2new" / "phantom" / "table.json").read_text())
    assert [row[0] for row in table["rows"]] == ["ZeroshotCLIP", "MyMethod"] and "MyMethod" in printed
    splits = {json.loads(p.read_text())["split_sha256"] for p in place.glob("out/**/train_base/results.json")}
    assert len(splits) == 1


def test_own_reader_in_a_protocol(place):
    command(place, REPO / "cilmp", "run", "few_shot", "CoOp", "MyDataset", "1", PLUGIN="my_dataset.py",
            DATA=str(place / "data"), BACKBONE="demo", SHOTS="2", EPOCHS="1")  # fmt: skip
    table = json.loads((place / "out" / "few_shot" / "MyDataset" / "table.json").read_text())
    assert [row[0] for row in table["rows"]] == ["ZeroshotCLIP", "CoOp"]


def test_what_needs_rows_runs_on_an_own_reader(place):
    """Its class names come from the reader; rows of them, given as a file, are read and hashed."""
    import torch
    from safetensors.torch import save_file

    rows = {name: torch.randn(12, 16, generator=torch.Generator().manual_seed(i)) for i, name in
            enumerate(("healthy", "ill"))}  # fmt: skip
    save_file(rows, place / "rows.safetensors")
    command(place, REPO / "cilmp", "run", "few_shot", "CILMP", "MyDataset", "1", PLUGIN="my_dataset.py",
            DATA=str(place / "data"), BACKBONE="demo", SHOTS="2", EPOCHS="1", METHODS="CILMP",
            LLM=str(place / "rows.safetensors"))  # fmt: skip
    (path,) = place.glob("out/few_shot/MyDataset/CILMP/**/results.json")
    assert set(json.loads(path.read_text())["reads"]) == {"split", "weights", "knowledge", "code", "draws"}


def test_list_names_a_plugins_method(place):
    assert "MyMethod" in command(place, REPO / "train.py", "--list", "--plugin", "my_method.py")


def test_the_readmes_python_builds_a_model(place, tmp_path):
    code = re.search(r"```python\n(.*?)```", (EXTENDING / "README.md").read_text(), re.S)[1]
    code = code.replace("/tmp/run", str(tmp_path / "run")).replace("trainer.train()", "print(trainer.model.ctx.shape)")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "torch.Size" in done.stdout, done.stderr
