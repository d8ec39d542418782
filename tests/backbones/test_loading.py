"""Names, weight files and what is said when they are wrong: one line, and what to do."""

import json
import socket
import urllib.request

import pytest
import torch
from safetensors.torch import save_file

from cilmp import backbones
from cilmp.backbones.checkpoints import published_hashes, read_state
from cilmp.backbones.factory import build
from cilmp.backbones.registry import ROWS
from cilmp.tests.backbones.small_models import CONFIGS, VISION, images, original
from dassl.utils.errors import ConfigError, MissingFile, UnknownName, UserError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # OpenAI's files are TorchScript

# Heads of 64 in both towers, as OpenAI's layout implies.
OPENAI = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {**VISION, "width": 128, "head_width": 64},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2, "vocab_size": 49408, "context_length": 77},
}
TEXTS = ["a photo of a cat.", "benign"]


@pytest.fixture
def model():
    return build(OPENAI, seed=7)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Names resolve to nothing here, as on a closed machine."""

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def openai_layout(model):
    """What OpenAI's files hold: flat names, half precision, three numbers beside the weights."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    return {**state, **{k: torch.tensor(v) for k, v in sizes.items()}}


def same_as(clip, model, tolerance=1e-5):
    pictures = images("openai")
    with torch.no_grad():
        torch.testing.assert_close(
            clip.image.encode(pictures), model.encode_image(pictures), atol=tolerance, rtol=tolerance
        )
    return True


# ---- round trips


def test_openai_layout_names_its_own_architecture(model, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save(openai_layout(model), path)
    clip = backbones.load(str(path))
    model.load_state_dict({k: v.half().float() for k, v in model.state_dict().items()})
    assert same_as(clip, model) and clip.name == "mine"
    assert backbones.input_facts(str(path))["size"] == 32
    assert clip.scale().item() == pytest.approx(model.logit_scale.exp().item(), rel=1e-3)


@pytest.mark.parametrize("wrapping", ["plain", "training", "module", "safetensors"])
def test_open_clip_layouts(model, tmp_path, wrapping):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPENAI}))
    state = model.state_dict()
    path = tmp_path / ("mine.safetensors" if wrapping == "safetensors" else "mine.pt")
    if wrapping == "safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    elif wrapping == "training":
        import numpy as np

        torch.save({"epoch": 3, "state_dict": state, "best": np.float64(0.5), "name": "run"}, path)
    elif wrapping == "module":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save(state, path)
    assert same_as(backbones.load(str(path)), model)


def test_text_tower_flat_in_the_file_nested_in_the_model(tmp_path):
    """Files of before open_clip had custom text towers, read into a model that has one."""
    siglip = original("siglip")
    flat = {k.removeprefix("text."): v for k, v in siglip.state_dict().items() if k != "logit_bias"}
    flat["text_projection"] = flat.pop("text_projection.weight")
    config = {**CONFIGS["siglip"], "text_cfg": {**CONFIGS["siglip"]["text_cfg"], "proj_bias": False}}
    flat["text_projection"] = flat["text_projection"].T.contiguous()
    flat.pop("text_projection.bias")
    (tmp_path / "old.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(flat, tmp_path / "old.pt")
    clip = backbones.load(str(tmp_path / "old.pt"))
    pictures = images("siglip")
    with torch.no_grad():
        torch.testing.assert_close(clip.image.encode(pictures), siglip.encode_image(pictures), atol=1e-5, rtol=1e-5)


def test_a_file_is_fed_what_its_architecture_s_published_weights_expect():
    assert backbones.input_facts("ViT-B-16-SigLIP::random")["mean"] == (0.5, 0.5, 0.5)
    assert backbones.input_facts("ViT-B-16-SigLIP-384::webli")["size"] == 384
    assert backbones.input_facts("ViT-B-16::random")["mean"] == backbones.input_facts("ViT-B/16")["mean"]


def test_a_pair_of_architecture_and_file(tmp_path):
    model = build(backbones.recipes.resolve("ViT-S-32-alt::random", None).config, seed=2)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    clip = backbones.load(f"ViT-S-32-alt::{tmp_path / 'x.pt'}")
    assert clip.name == "ViT-S-32-alt-x" and clip.image_size == 224
    assert torch.equal(clip.text.token_embedding.weight, model.token_embedding.weight)


SMALL_BERT = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 64, "max_position_embeddings": 96, "pad_token_id": 0}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat", "ben", "##ign", "."]


def shrink(monkeypatch, name, **vision):
    """The named backbone at a size for tests."""
    row = ROWS[name]
    arch = {**row.arch, "embed_dim": 32, "vision_cfg": {**row.arch["vision_cfg"], **vision}}
    monkeypatch.setitem(ROWS, name, type(row)(**{**row.__dict__, "arch": arch, "bert": SMALL_BERT}))
    return build(arch, SMALL_BERT, seed=1), row


def test_pmc_clips_three_files(tmp_path, monkeypatch):
    """Image tower, text tower and projection lie in separate files; the logit scale is known, not stored."""
    model, row = shrink(monkeypatch, "PMC-CLIP", layers=[1, 1, 1, 1], width=8, head_width=64, image_size=64)
    projection = torch.randn(32, 32)
    torch.save(model.visual.state_dict(), tmp_path / row.hub[1][0])
    torch.save(model.text.transformer.state_dict(), tmp_path / row.hub[1][1])
    torch.save(projection, tmp_path / row.hub[1][2])
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    clip = backbones.load("PMC-CLIP", weights=str(tmp_path))
    assert clip.logit_scale.item() == pytest.approx(4.4292) and clip.context_length == 77
    ids = clip.text.tokenizer(TEXTS, 77)
    with torch.no_grad():
        wanted = model.text.transformer(ids, attention_mask=(ids != 0).long()).pooler_output @ projection
        torch.testing.assert_close(clip.text.encode_strings(TEXTS), wanted, atol=1e-5, rtol=1e-5)


def test_pmc_clips_projection_file_holds_the_projection_and_nothing_else(tmp_path, monkeypatch):
    model, row = shrink(monkeypatch, "PMC-CLIP", layers=[1, 1, 1, 1], width=8, head_width=64, image_size=64)
    torch.save(model.visual.state_dict(), tmp_path / row.hub[1][0])
    torch.save(model.text.transformer.state_dict(), tmp_path / row.hub[1][1])
    torch.save({"image": torch.randn(32, 32), "text": torch.randn(32, 32)}, tmp_path / row.hub[1][2])
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    with pytest.raises(UserError, match="holds 2 tensors"):
        backbones.load("PMC-CLIP", weights=str(tmp_path))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["[PAD]", *(f"[unused{i}]" for i in range(20)), *WORDS[1:]], "start, end and padding"),
     ([*WORDS, *(f"w{i}" for i in range(300))], "312 words"),
     (["[UNK]", "[PAD]", *WORDS[2:]], "start, end and padding")],
    ids=["other-bert", "too-many", "other-padding"],
)  # fmt: skip
def test_a_vocabulary_of_another_model_beside_the_checkpoint(tmp_path, monkeypatch, words, complaint):
    """Ids of another vocabulary are words of nobody: uncased BERT's file has as many lines as BiomedBERT's."""
    model, _ = shrink(monkeypatch, "UniMedCLIP", image_size=32, layers=1, width=64)
    torch.save(model.state_dict(), tmp_path / "unimed.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    with pytest.raises(UserError, match=complaint) as error:
        backbones.load("UniMedCLIP", weights=str(tmp_path / "unimed.pt"))
    assert str(tmp_path) in one_line(error)


def test_unimed_clips_names_and_a_vocabulary_beside_the_file(tmp_path, monkeypatch):
    """Its text tower is called text_encoder; the hub is not needed where vocab.txt lies beside the checkpoint."""
    model, _ = shrink(monkeypatch, "UniMedCLIP", image_size=32, layers=1, width=64)
    state = {k.replace("text.", "text_encoder.", 1) if k.startswith("text.") else k: v
             for k, v in model.state_dict().items()}  # fmt: skip
    torch.save({"state_dict": state}, tmp_path / "unimed.pt")
    with pytest.raises(UserError, match=r"put its vocab\.txt"):
        backbones.load("UniMedCLIP", weights=str(tmp_path / "unimed.pt"))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    clip = backbones.load("UniMedCLIP", weights=str(tmp_path / "unimed.pt"))
    ids, last = clip.text.tokenize(["A photo of a cat.", "benign"])
    assert ids[0, :8].tolist() == [2, 5, 6, 7, 5, 8, 11, 3] and last.tolist() == [7, 3]
    with torch.no_grad():
        torch.testing.assert_close(
            clip.text.encode_strings(["A photo of a cat.", "benign"]), model.encode_text(ids), atol=1e-5, rtol=1e-5
        )


def test_the_demo_backbone():
    clip = backbones.load("demo")
    facts = backbones.input_facts("demo")
    assert facts == {"size": 64, "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic",
                     "resize_mode": "shortest"}  # fmt: skip
    assert (clip.name, clip.slug, clip.image_size, clip.mean) == ("demo", "demo", 64, (0.5,) * 3)
    assert backbones.load("demo").weights_hash == clip.weights_hash


# ---- random weights


@pytest.mark.parametrize(
    ("name", "text", "vision", "d", "context"),
    [("RN50", 512, None, 1024, 77), ("ViT-B/32", 512, 768, 512, 77), ("BiomedCLIP", 768, 768, 512, 256)],
)
def test_true_architectures_without_a_download(name, text, vision, d, context):
    clip = backbones.load(name, weights="random")
    assert (clip.text_width, clip.vision_width, clip.embed_dim, clip.context_length) == (text, vision, d, context)
    assert clip.slug.endswith("-random") and clip.text_layers == 12


def test_openai_names_are_quick_gelu():
    assert type(backbones.load("RN50", weights="random").text.blocks[0].act).__name__ == "QuickGELU"
    assert type(backbones.load("ViT-S-32-alt::random").text.blocks[0].act).__name__ == "GELU"


def test_random_weights_follow_their_seed_and_disturb_nothing():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    hashes = [backbones.load("ViT-S-32-alt", weights=w).weights_hash for w in ("random:1", "random:1", "random:2")]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_stand_in_tokenizer_is_deterministic_and_keeps_its_ends():
    ids = backbones.tokens.stand_in("bert", 2000)(["Malignant tumour!", "x" * 500], 32)
    again = backbones.tokens.stand_in("bert", 2000)(["malignant  tumour !"], 32)
    assert ids.shape == (2, 32) and torch.equal(ids[0], again[0])
    assert ids[:, 0].tolist() == [2, 2] and ids[1, -1] == 3 and int((ids[0] != 0).sum()) == 6
    sig = backbones.tokens.stand_in("siglip", 2000)(["a cat"], 8)[0]
    assert sig[2:].tolist() == [1] * 6 and (sig[:2] != 1).all()


# ---- bad input


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'ViT-B/16'") as error:
        backbones.load("ViT-B16")
    assert "BiomedCLIP" in one_line(error)


def test_bare_open_clip_name_lists_its_tags():
    with pytest.raises(UserError, match=r"ViT-B-32::TAG; tags: .*laion2b"):
        backbones.load("ViT-B-32")


def test_unknown_tag_and_model():
    with pytest.raises(UnknownName, match="did you mean 'openai'"):
        backbones.load("ViT-B-16::opena")
    with pytest.raises(UnknownName, match="did you mean 'ViT-B-16'"):
        backbones.load("ViT-B-166::openai")


@pytest.mark.parametrize("name", ["ViT-B/16", "BiomedCLIP", "SigLIP", "PubMedCLIP", "hf-hub:nobody/nothing"])
def test_no_network_is_one_line_at_once(name, monkeypatch):
    monkeypatch.setattr("dassl.utils.hub.cached", lambda *args: None)  # also where a developer has the weights
    with pytest.raises(UserError) as error:
        backbones.load(name)
    text = one_line(error)
    assert name in text and "BACKBONE=demo" in text and "MODEL.BACKBONE.WEIGHTS" in text


def test_missing_file(tmp_path):
    with pytest.raises(MissingFile, match="no such checkpoint file"):
        backbones.load(str(tmp_path / "nothing.pt"))
    with pytest.raises(MissingFile, match="no such checkpoint"):
        backbones.load("ViT-B/16", weights=str(tmp_path / "nothing.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_truncated_files(model, tmp_path, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    state = openai_layout(model)
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 1 else int(len(content) * keep)])
    with pytest.raises(UserError, match="cut") as error:
        backbones.load(str(path))
    assert str(path) in one_line(error)


def test_a_pickle_that_would_run_code_is_not_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        backbones.load(str(tmp_path / "trap.pt"))
    assert not (tmp_path / "ran").exists()


def test_torchscript_of_unknown_origin_is_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("its code must not be touched"))
    with pytest.raises(UserError, match="SHA-256 is none that OpenAI published") as error:
        backbones.load("ViT-B/16", weights=str(path))
    assert "MODEL.BACKBONE.WEIGHTS" in one_line(error)


def test_torchscript_with_a_published_hash_is_loaded(tmp_path, monkeypatch):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    digest = next(iter(published_hashes()))
    monkeypatch.setattr("cilmp.backbones.checkpoints.sha256_file", lambda _: digest)
    assert read_state(path).keys() == {"weight", "bias"}


def test_published_hashes_are_those_of_openais_addresses():
    hashes = published_hashes()
    assert hashes["5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"] == "ViT-B-16.pt"
    assert all(len(h) == 64 for h in hashes)


def test_weights_of_another_architecture_name_what_differs(model, tmp_path):
    torch.save(openai_layout(model), tmp_path / "small.pt")
    with pytest.raises(UserError, match="not a checkpoint of this architecture") as error:
        backbones.load("ViT-B/16", weights=str(tmp_path / "small.pt"))
    text = one_line(error)
    assert "missing" in text and "of another shape" in text and len(text) < 900, "a few examples, not all of them"


@pytest.mark.parametrize("how", ["pair", "weights", "config"])
def test_openais_own_weights_are_not_read_into_another_activation(model, tmp_path, how):
    """ViT-B-16 is open_clip's name of the GELU model; OpenAI's files, which carry their sizes, want quick GELU."""
    path = tmp_path / "openai.pt"
    gelu = {**OPENAI, "quick_gelu": False}
    torch.save(openai_layout(model), path)
    if how == "config":
        path.with_suffix(".json").write_text(json.dumps({"model_cfg": gelu}))
    name, weights = {"pair": (f"ViT-B-16::{path}", None), "weights": ("ViT-B-16", str(path)),
                     "config": (str(path), None)}[how]  # fmt: skip
    with pytest.raises(UserError, match="quick GELU") as error:
        backbones.load(name, weights)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(model, tmp_path, value):
    state = openai_layout(model)
    state["visual.proj"][3, 2] = value
    torch.save(state, tmp_path / "burst.pt")
    with pytest.raises(UserError, match=r"1 not finite \(visual\.proj\)") as error:
        backbones.load(str(tmp_path / "burst.pt"))
    assert "burst.pt" in one_line(error)


def test_a_folder_is_no_checkpoint_but_pmc_clips(tmp_path):
    with pytest.raises(UserError, match="is a folder") as error:
        backbones.load("ViT-B/16", weights=str(tmp_path))
    assert "PMC-CLIP" not in one_line(error)
    with pytest.raises(MissingFile, match="image_encoder"):
        backbones.load("PMC-CLIP", weights=str(tmp_path))


def test_weights_that_do_not_say_their_activation(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "x.pt")
    with pytest.raises(UserError, match="activation"):
        backbones.load(str(tmp_path / "x.pt"))


def test_file_without_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="holds no weights"):
        backbones.load(str(tmp_path / "x.pt"))


def test_wrong_precision_and_seed():
    with pytest.raises(ConfigError, match="fp8"):
        backbones.load("demo", precision="fp8")
    with pytest.raises(ConfigError, match="random:x"):
        backbones.load("demo", weights="random:x")


def test_known_names_have_a_line_each():
    names = dict(backbones.known())
    assert {"RN50", "ViT-B/16", "BiomedCLIP", "PubMedCLIP", "PMC-CLIP", "UniMedCLIP", "SigLIP", "demo"} <= names.keys()
    assert all(about and "\n" not in about for about in names.values())
