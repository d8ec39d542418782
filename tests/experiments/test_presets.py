"""The presets that fill a paper's table, end to end: every set drawn, two training images a class, one epoch, random
weights of the true families served by the hub of tests/hub."""

import json

import pytest
import yaml
from PIL import Image

from cilmp.datasets import TABLE
from cilmp.experiments import study
from cilmp.knowledge import answers
from cilmp.tests.hub import repositories
from cilmp.tests.hub.conftest import at_the_hub
from cilmp.tests.hub.server import Hub
from dassl.utils.io import read_json_object

LLM = "meta-llama/Meta-Llama-3-8B"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """make(names) -> DATA with those sets; the hub has all that the presets name."""
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "")
    repositories.small(monkeypatch)
    with Hub() as hub:
        at_the_hub(hub, tmp_path / "client", monkeypatch)
        for name in ("ViT-B/16", "BiomedCLIP"):
            repositories.stock(hub, tmp_path / "repositories", name)
        hub.add(LLM, repositories.llama(tmp_path / "llama", layers=8))
        monkeypatch.setattr(answers, "_continue", said_of)
        yield lambda names: [draw(TABLE[name], tmp_path / "data") for name in names] and tmp_path / "data"


def said_of(model, name, phrase, each, noise):
    """Sentences as an LLM says them; one of random weights names no class."""
    return [f"In picture {i} of round {noise} one may see {name} at its rim." for i in range(each * len(answers.ASKED))]


def draw(facts, root):
    """A set of these classes as its reader expects it: two images a class to train on and to test, one in val."""
    place, split = facts.layouts[0], {"train": [], "val": [], "test": []}
    images = root / place.folder / place.images
    (images / facts.name).mkdir(parents=True)  # sets may share a folder
    for label, (name, _) in enumerate(facts.classes):
        for part, count in (("train", 2), ("val", 1), ("test", 2)):
            for i in range(count):
                path = f"{facts.name}/{part}_{label}_{i}.png"
                Image.new("RGB", (12, 12), (60 * label % 256, 255 - 60 * label % 256, 20 * i)).save(images / path)
                split[part].append([path, label, name])
    (root / place.folder / place.split).write_text(json.dumps(split))


@pytest.mark.slow
@pytest.mark.parametrize("preset, shots", [("paper", {}), ("biomedcoop", {"shots": [1]})])
def test_a_preset_from_end_to_end(preset, shots, world, tmp_path, capsys):
    file = study.preset_file(preset)
    tree = yaml.safe_load(file.read_text())
    small = {"seeds": [1], "epochs": 1, "threads": 1, "opts": "DATALOADER.NUM_WORKERS 0", **shots}
    asked = study.study_of({**tree, **small, "data": str(world(tree["datasets"]))}, preset, preset)
    code = study.run_study(asked, tmp_path / "out")
    said = capsys.readouterr().out
    found = [read_json_object(p) for p in (tmp_path / "out").rglob("results.json")]
    for backbone in tree["backbones"]:
        for dataset in tree["datasets"]:
            here = {r["method"] for r in found if (r["dataset"], r["backbone"]) == (dataset, backbone)}
            wanted = set(study.every_method() if tree["methods"] == "all" else tree["methods"])
            assert here == wanted, (dataset, backbone, wanted ^ here, said[-3000:])
    assert code == 0, said[-3000:]
    if preset == "biomedcoop":  # BUSI's three classes have no two halves
        assert "left out, as the study says: datasets BUSI; protocols base2new" in said
