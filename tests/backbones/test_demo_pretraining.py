"""How the demo backbone is made: captions are true of their image, the loss has several positives, the run works."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from cilmp.datasets.phantom import CLASSES, MODALITIES, draw_described, generator
from cilmp.scripts.demo.captions import caption, truth
from cilmp.scripts.demo.pretrain import contrastive_loss, encode_text, shrink_text_stream

REPO = Path(__file__).resolve().parents[2]
TINY = {"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return open_clip.CLIP(**TINY).eval()


def made(length, count):
    rng = np.random.default_rng(1)
    for i in range(count):
        name = CLASSES[i % 12]
        words = draw_described(name, generator(3, name, i), "pretrain")[1]
        yield name, words, *caption(rng, length, name, MODALITIES[name], words)


@pytest.mark.parametrize("length", ["short", "long"])
def test_captions_state_what_they_say_and_nothing_else(length):
    for name, words, text, facts in made(length, 120):
        assert facts <= {name, *words} and facts
        assert all(fact in text for fact in facts)
        assert (name in text) == (name in facts)


def test_long_captions_fit_the_context_and_reach_its_far_end():
    tokens = open_clip.get_tokenizer("ViT-B-32")
    ids = tokens([text for _, _, text, _ in made("long", 200)])
    ends = ids.argmax(1)  # the end token has the largest id
    assert (ids.max(1).values == 49407).all(), "a caption was cut off"
    assert ends.max() >= 65 and ends.float().std() > 8


def test_truth_asks_for_every_fact():
    facts = [{"glaucoma"}, {"glaucoma", "large optic cup"}, {"clear retina"}]
    images = [{"glaucoma", "clear retina"}, {"glaucoma", "large optic cup"}]
    assert truth(facts, images).tolist() == [[1, 1], [0, 1], [1, 0]]


def test_loss_by_hand_with_a_caption_that_is_true_of_two_images():
    true = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # 2 captions, 3 images
    logits = torch.zeros(2, 3)
    # each image: log 2; caption 1: mean of two log 3; caption 2: log 3
    assert contrastive_loss(logits, true).item() == pytest.approx((np.log(2) + np.log(3)) / 2, abs=1e-6)
    assert contrastive_loss(60 * true, true).item() == pytest.approx(np.log(2) / 4, abs=1e-6)


@torch.no_grad()
def test_cut_text_has_the_features_of_the_whole(tiny):
    ids = open_clip.get_tokenizer("ViT-B-32")(["melanoma", "a photo of a diabetic retinopathy."])
    assert torch.allclose(encode_text(tiny, ids), tiny.encode_text(ids), atol=1e-5)


@torch.no_grad()
def test_a_smaller_stream_gives_the_same_text_features(tiny):
    ids = open_clip.get_tokenizer("ViT-B-32")(list(CLASSES))
    for p in (tiny.token_embedding.weight, tiny.positional_embedding):
        p *= 100  # far above LayerNorm's epsilon
    before, width = tiny.encode_text(ids), tiny.token_embedding.weight.std()
    shrink_text_stream(tiny, 0.3)
    assert tiny.token_embedding.weight.std() == pytest.approx(0.3 * width.item(), rel=1e-4)
    cosine = torch.cosine_similarity(before, tiny.encode_text(ids))
    assert cosine.min() > 0.9999


def test_a_short_run_writes_a_file_that_open_clip_loads(tmp_path):
    out = tmp_path / "try.safetensors"
    command = [sys.executable, "-m", "cilmp.scripts.demo.pretrain", "--images", "1", "--steps", "2",
               "--batch", "8", "--threads", "1", "--output", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=300)  # this cilmp, installed or not
    assert run.returncode == 0, run.stderr
    assert load_file(out).keys() == load_file(REPO / "backbones" / "demo" / "model.safetensors").keys()
