"""weights_sha256: the file that would be read, hashed; nothing is loaded and nothing fetched."""

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from cilmp import backbones
from cilmp.backbones import hub, recipes
from dassl.utils import MissingFile, UnknownName, sha256_file, sha256_of
from dassl.utils.paths import REPO

DEMO = REPO / "backbones" / "demo" / "model.safetensors"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("dassl.utils.hub._ask", lambda *_: pytest.fail("asked the network"))
    monkeypatch.setattr(hub, "_cached", lambda repository, kind, filenames, one: [])


def test_the_demo_and_files_are_hashed(tmp_path):
    assert backbones.weights_sha256("demo") == sha256_file(DEMO) == backbones.weights_sha256("demo", weights=DEMO)
    own = tmp_path / "own.safetensors"
    shutil.copy(DEMO, own)
    for name, weights in (("demo", own), (own, None), (f"ViT-B-16::{own}", None), ("ViT-B/16", str(own))):
        assert backbones.weights_sha256(name, weights) == sha256_file(DEMO)
    state = load_file(own)
    state["logit_scale"] = state["logit_scale"] + 1
    save_file(state, own)
    assert own.stat().st_size and backbones.weights_sha256(own) == sha256_file(own) != sha256_file(DEMO)


def test_random_weights_are_called_so():
    assert backbones.weights_sha256("ViT-B/16", "random") == "random" == backbones.weights_sha256("ViT-B-16::random")
    assert backbones.weights_sha256("BiomedCLIP", "random:3") == "random:3"


def test_published_weights_are_called_by_name_until_they_are_here(tmp_path, monkeypatch):
    names = ["ViT-B/16", "BiomedCLIP", "PMC-CLIP", "ViT-B-32::laion2b_s34b_b79k", "hf-hub:owner/model"]
    assert [backbones.weights_sha256(n) for n in names] == names
    (tmp_path / "home" / ".cache" / "clip").mkdir(parents=True)
    openai = tmp_path / "home" / ".cache" / "clip" / "ViT-B-16.pt"
    openai.write_bytes(b"weights")
    here = {f: tmp_path / f for f in ("open_clip_model.safetensors", "image_encoder(resnet50).pth", "text_encoder.pth",
                                      "text_projection_layer.pth", "open_clip_pytorch_model.bin")}  # fmt: skip
    for name, path in here.items():
        path.write_bytes(name.encode())

    def cached(repository, kind, filenames, one):
        found = [str(here[f]) for f in filenames if f in here]
        return found[:1] if one else found

    monkeypatch.setattr(hub, "_cached", cached)
    assert backbones.weights_sha256("ViT-B/16") == sha256_file(here["open_clip_model.safetensors"])
    with monkeypatch.context() as m:  # an entry that is an address only
        m.setattr(recipes, "_table_entry", lambda *_: {"url": "https://host.invalid/abc/ViT-B-16.pt"})
        assert backbones.weights_sha256("ViT-B/16") == sha256_file(openai)
    assert backbones.weights_sha256("BiomedCLIP") == sha256_file(here["open_clip_model.safetensors"])
    three = [sha256_file(here[f]) for f in ("image_encoder(resnet50).pth", "text_encoder.pth",
                                            "text_projection_layer.pth")]  # fmt: skip
    assert backbones.weights_sha256("PMC-CLIP") == sha256_of(three) == backbones.weights_sha256("PMC-CLIP", tmp_path)


def test_mistakes_are_those_of_load(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'demo'"):
        backbones.weights_sha256("demmo")
    with pytest.raises(MissingFile):
        backbones.weights_sha256("ViT-B/16", tmp_path / "none.pt")
    with pytest.raises(MissingFile):
        backbones.weights_sha256(tmp_path / "none.pt")
    assert not os.listdir(tmp_path)
