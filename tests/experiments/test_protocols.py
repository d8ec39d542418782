"""The protocols from outside: nothing but their own file knows their names; external and realistic do what they say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cilmp.experiments.collect import records
from cilmp.experiments.driver import run_protocol
from cilmp.experiments.settings import Request
from cilmp.protocols import PROTOCOLS
from dassl.utils.errors import UserError
from dassl.utils.paths import REPO


def test_no_protocol_is_named_outside_its_file():
    """What the command offers by default (base2new for compare, few_shot for sweep) are words of the user's."""
    # defaults of flags, another protocol's draw; the archive's is the cache's folder of drawn lists
    allowed = {"experiments/commands.py", "experiments/sweep.py", "experiments/archive.py", "protocols/realistic.py"}
    for path in [*REPO.glob("experiments/*.py"), *REPO.glob("protocols/*.py"), *REPO.glob("trainers/*.py")]:
        name = path.relative_to(REPO).as_posix()
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
        used = [p for p in PROTOCOLS if re.search(rf'"{p}"', code) and path.stem != p]
        assert not used or name in allowed or "before_specs" in code, (name, used)


def noise_set(root, name, classes, seed, facts=None):
    rng, split = np.random.default_rng(seed), {"train": [], "val": [], "test": []}
    for label, classname in enumerate(classes):
        for part, count in (("train", 6), ("val", 2), ("test", 3 + seed)):
            for i in range(count):
                file = f"{classname}/{part}{i}.png"
                path = Path(root, name, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
                split[part].append([file, label, classname])
    Path(root, name, "split.json").write_text(json.dumps(split))
    if facts:
        Path(root, name, "dataset.json").write_text(json.dumps(facts))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    noise_set(data, "here", ("covid", "normal", "pneumonia"), 0)
    noise_set(data, "there", ("clear lungs", "Covid-19", "Pneumonia"), 1, {"wording": {"clear lungs": "normal"}})
    noise_set(data, "other", ("covid", "normal", "fracture"), 2)

    def run(protocol, method="CoOp", **variables):
        env = {"DATA": str(data), "BACKBONE": "demo", "EPOCHS": "1", "SHOTS": "2", "METHODS": method,
               "OPTS": "DATALOADER.TRAIN_X.BATCH_SIZE 4 DATALOADER.NUM_WORKERS 0"}  # fmt: skip
        run_protocol(Request(protocol, method, "here", [1], env | variables), "table", tmp_path / "out")
        return {(r["spec"]["method"], r["spec"]["part"]): r for r in records(tmp_path / "out")}

    return tmp_path, run


def test_external_tests_the_same_classes_elsewhere(place):
    """Classes are matched by spelling and wording, whatever their order; what is bound to classes runs too."""
    root, run = place
    found = run("external", "ZeroshotCLIP TipAdapter", TARGETS="there")
    for method in ("ZeroshotCLIP", "TipAdapter"):
        inside, outside = found[method, "train_all"], found[method, "test_there"]
        assert inside["classes"] == outside["classes"] == ["covid", "normal", "pneumonia"]
        assert (inside["n"], outside["n"]) == (9, 12) and inside["train_sha256"] == outside["train_sha256"]
        assert inside["test_sha256"] != outside["test_sha256"]
    with np.load(outside["folder"] / "predictions.npz") as arrays:
        names = {Path(p).parent.name: int(y) for p, y in zip(arrays["paths"], arrays["labels"])}
    assert names == {"Covid-19": 0, "clear lungs": 1, "Pneumonia": 2}
    table = json.loads((root / "out" / "external" / "here" / "table.json").read_text())
    assert table["header"][:3] == ["method", "test acc", "there acc"]


def test_external_refuses_other_classes_and_shared_sources(place):
    root, run = place
    with pytest.raises(UserError, match="'pneumonia' of here, 'fracture' of other have no partner"):
        run("external", TARGETS="other")
    with pytest.raises(UserError, match="share images"):
        run("external", TARGETS="here")
    assert not (root / "out").exists()
    with pytest.raises(UserError, match="needs TARGETS"):
        run("external")


def test_realistic_draws_as_distributed_and_has_no_validation(place):
    root, run = place
    r = run("realistic")["CoOp", "train_all"]
    settings = r["spec"]["settings"]
    assert settings["DATASET.SHOT_SAMPLING"] == "natural" and settings["TEST.FINAL_MODEL"] == "last_step"
    assert settings["OPTIM.BUDGET"] == [1, 32] and r["cost"]["steps"] == 1  # matched; 6 images, so one batch an epoch
    table = json.loads((root / "out" / "realistic" / "here" / "table.json").read_text())
    assert table["header"][:4] == ["method", "shots", "test bal acc", "test acc"]
