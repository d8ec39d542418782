"""The plain form of CILMP reproduces the official implementation's own numbers: the oracle is not our invention."""

import pytest
import torch
import torch.nn.functional as F

from cilmp.backbones.tokens import clip_bpe
from cilmp.benchmarks.plain.cilmp import plain_cilmp
from cilmp.benchmarks.plain.image import plain_image
from cilmp.tests.official import cilmp as numbers

official = numbers.official


@pytest.fixture(scope="module")
def run(official):
    """Everything the plain form says about the official case, gradients included."""
    model = numbers.model(official)
    learned = {k: v.clone().requires_grad_() for k, v in numbers.part(official, "learned/").items()}
    meta = official["meta"]
    llm = [official[f"llm/{k}"] for k in range(len(meta["classes"]))]
    ids = clip_bpe()([f"{name}." for name in meta["classes"]], 77)

    out = plain_cilmp(model, learned, llm, ids, official["images"], meta["prefix"], meta["suffix"])
    out["loss"] = F.cross_entropy(out["logits"], official["labels"])
    out["loss"].backward()
    with torch.no_grad():
        out["unprompted"] = F.normalize(plain_image(model, official["images"]), dim=-1)
    out["grad"] = {k: v.grad for k, v in learned.items()}
    return out


def test_image_features(official, run):
    assert (run["image_features"] - official["image_features"]).abs().max() < 1e-6
    assert (run["unprompted"] - official["image_features"]).abs().max() > 1e-2, "visual prompts must matter"


SHARED = pytest.mark.parametrize("official", ["shared"], indirect=True)  # too many numbers for the repository


@SHARED
def test_input_tokens(official, run):
    torch.testing.assert_close(run["prompts"], official["prompts"], atol=1e-4, rtol=1e-4)


@SHARED
@pytest.mark.parametrize("layer", [1, 2])
def test_deep_tokens(official, run, layer):
    torch.testing.assert_close(run["deep_llm"][layer], official[f"deep_llm/{layer}"], atol=1e-4, rtol=1e-4)


def test_text_features_logits_and_loss(official, run):
    torch.testing.assert_close(run["text_features"], official["text_features"], atol=1e-4, rtol=1e-4)
    assert (run["logits"] - official["logits"]).abs().max() < 1e-4
    assert (run["loss"] - official["loss"]).abs() < 1e-5


def test_gradients_of_every_learned_tensor(official, run):
    wanted = numbers.part(official, "grad/")
    assert run["grad"].keys() == wanted.keys()
    off = {k: ((run["grad"][k] - wanted[k]).norm() / wanted[k].norm()).item() for k in wanted}
    assert max(off.values()) < 1e-4, {k: v for k, v in off.items() if v >= 1e-4}


def test_image_path_is_alive(official, run):
    """Texts conditioned on each other's image move the logits as far as the official code says."""
    texts = F.normalize(run["text_features"], dim=-1)[[1, 2, 0]]
    scale = official["clip/logit_scale"].exp()
    exchanged = scale * torch.einsum("bd,bcd->bc", run["image_features"], texts)
    assert (exchanged - run["logits"]).abs().max() > 0.25
