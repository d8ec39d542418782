"""Every named backbone, from its repositories to a training step."""

import pytest
import torch
from safetensors.torch import save_file

from cilmp import backbones
from cilmp.backbones.registry import BIOMED_BERT, ROWS
from cilmp.tests.hub import repositories
from cilmp.tests.trainers.test_features import config, run
from dassl.utils import sha256_file, sha256_of
from dassl.utils.errors import UserError

TEXTS = ["a photo of a cell.", "benign"]


@pytest.fixture
def served(hub, cache, tmp_path, monkeypatch):
    """stock(name): the small repositories of a name, served."""
    repositories.small(monkeypatch)
    return lambda name: repositories.stock(hub, tmp_path / "repositories", name)


def rows(folder, *classnames):
    """A file of make-believe knowledge."""
    path = folder / "rows.safetensors"
    save_file({c: torch.randn(8, 16, generator=torch.Generator().manual_seed(len(c))) for c in classnames}, path)
    return str(path)


QUICK = ("RN50", "ViT-B/16", "BiomedCLIP", "PMC-CLIP", "UniMedCLIP", "SigLIP", "MetaCLIP2")  # one a family and layout


@pytest.mark.parametrize("name", [
    pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in repositories.NAMES])  # fmt: skip
def test_a_step_of_every_name(name, hub, served, tmp_path, tiny_split_dataset):
    """CILMP where the image tower takes prompts, else CoOp; the identity is the SHA-256 that the hub announced."""
    weights = served(name)
    assert backbones.weights_sha256(name) == name
    prompts = backbones.load(name, weights="random").vision_width is not None
    cfg = config(tmp_path / "run", "CILMP" if prompts else "CoOp", **{
        "MODEL.BACKBONE.NAME": name, "MODEL.LLM": rows(tmp_path, "cat", "tawny owl"), "OPTIM.MAX_EPOCH": 1,
        "DATASET.NAME": "tiny", "DATASET.ROOT": str(tiny_split_dataset(classes=("cat", "tawny owl"))),
        "DATASET.NUM_SHOTS": 1, "DATALOADER.TRAIN_X.BATCH_SIZE": 2})  # fmt: skip
    _, learned = run(cfg)
    assert all(v.isfinite().all() for v in learned.values())
    parts = ROWS[name].hub[1] if ROWS[name].layout == "pmc_clip" else list(weights)
    digests = [sha256_file(weights[p]) for p in parts]
    assert backbones.weights_sha256(name) == (digests[0] if len(digests) == 1 else sha256_of(digests))
    assert all("hf_hub/" in r.agent for r in hub.asked("/resolve/"))


def test_the_first_run_knows_what_it_reads(served, tmp_path, tiny_split_dataset):
    """Weights that come during a run must not stand in its results by their name, or the next call finds others."""
    from cilmp.experiments import single

    weights = served("ViT-B/16")
    words = ["--trainer", "CoOp", "--dataset", "tiny", "--root", str(tiny_split_dataset()), "--backbone", "ViT-B/16"]
    spec = single.spec_of(single.parser().parse_args(words))
    assert [spec.reads["weights"]] == [sha256_file(path) for path in weights.values()]


def test_the_tokens_are_those_of_the_hub_s_vocabulary(served, hub):
    served("BiomedCLIP")
    clip = backbones.load("BiomedCLIP")
    words = (hub.repositories["models", BIOMED_BERT].folder / "vocab.txt").read_text().splitlines()
    ids, last = clip.text.tokenize(["Ab."])
    assert ids[0, : last[0] + 1].tolist() == [2, words.index("ab"), words.index("."), 3]


def test_siglips_texts_end_and_are_padded_alike(served):
    served("SigLIP")
    ids = backbones.load("SigLIP").text.tokenizer(["A cell."], 16)[0].tolist()
    assert ids[-1] == 1 and 1 not in ids[:2]


@pytest.mark.parametrize("name", ["ViT-B/16", "BiomedCLIP", "SigLIP", "SigLIP2", "MetaCLIP2"])
def test_an_open_clip_repository_by_its_own_name(name, served, hub):
    """hf-hub: reads the repository's configuration; BERT's comes with the registry or from its own repository."""
    served(name)
    repository = repositories.place_of(name)[0]
    ours, named = backbones.load(f"hf-hub:{repository}"), backbones.load(name)
    assert ours.weights_hash == named.weights_hash and ours.mean == named.mean
    assert torch.equal(ours.text.encode_strings(TEXTS), named.text.encode_strings(TEXTS))
    assert backbones.weights_sha256(f"hf-hub:{repository}") == backbones.weights_sha256(name)


def test_offline_everything_comes_from_the_cache(served, hub, monkeypatch):
    from huggingface_hub import constants

    name = "hf-hub:" + ROWS["BiomedCLIP"].hub[0]
    served("BiomedCLIP")
    before = backbones.load(name).text.encode_strings(TEXTS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert torch.equal(backbones.load(name).text.encode_strings(TEXTS), before)
    assert torch.equal(backbones.load("BiomedCLIP").text.encode_strings(TEXTS), before)
    assert len(hub.requests) == asked


def test_a_vocabulary_that_cannot_be_fetched(served, hub):
    served("BiomedCLIP")
    with hub.fault("503", "BiomedBERT"), pytest.raises(UserError, match="503") as error:
        backbones.load("BiomedCLIP")
    text = str(error.value)
    assert BIOMED_BERT in text and "vocab.txt" in text and "\n" not in text
    backbones.load("BiomedCLIP")


def test_a_configuration_that_is_none(served, hub):
    served("ViT-B/16")
    repository = "timm/vit_base_patch16_clip_224.openai"
    path = hub.repositories["models", repository].folder / "open_clip_config.json"
    for content in ("<html>", "[1]", '{"model_cfg": {"embed_dim": 1}}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"open_clip_config\.json") as error:
            backbones.load(f"hf-hub:{repository}")
        assert "\n" not in str(error.value)


def test_a_text_tower_that_is_no_bert(served, hub, tmp_path):
    """Its configuration may need code from the hub: refused before anything of it is read as code."""
    served("BiomedCLIP")
    folder, trace = hub.repositories["models", BIOMED_BERT].folder, tmp_path / "ran"
    repository = ROWS["BiomedCLIP"].hub[0]
    config_file = hub.repositories["models", repository].folder / "open_clip_config.json"
    config_file.write_text(config_file.read_text().replace(f'"hf_model_name": "{BIOMED_BERT}"',
                                                           '"hf_model_name": "owner/other"'))  # fmt: skip
    hub.add("owner/other", folder)
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\n")
    repositories.write(folder / "config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}})
    with pytest.raises(UserError, match=r"'own'.*owner/other.*BERT"):
        backbones.load(f"hf-hub:{repository}")
    assert not trace.exists()


def test_code_of_a_tokenizer_is_never_run(served, hub, tmp_path):
    """Not even where the repository's own configuration says that it may."""
    served("SigLIP")
    folder = hub.repositories["models", "timm/ViT-B-16-SigLIP"].folder
    trace = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\n"
                                   "from transformers import PreTrainedTokenizerFast as Own\n")  # fmt: skip
    about = (folder / "tokenizer_config.json").read_text().replace("PreTrainedTokenizerFast", "Own")
    about = about.rstrip().removesuffix("}") + ', "auto_map": {"AutoTokenizer": [null, "own.Own"]}}'
    (folder / "tokenizer_config.json").write_text(about)
    config_file = folder / "open_clip_config.json"
    config_file.write_text(config_file.read_text().replace('"clean"', '"trust_remote_code": true, "clean"'))
    with pytest.raises(UserError, match="timm/ViT-B-16-SigLIP") as error:
        backbones.load("hf-hub:timm/ViT-B-16-SigLIP")
    assert not trace.exists() and "code" in str(error.value)


# ---- local-dir: what open_clip writes to a folder


@pytest.fixture
def pushed(served, hub, tmp_path):
    """push(name, safe): open_clip's own push of a model, to a folder, and the model."""
    import open_clip
    from open_clip.push_to_hf_hub import save_for_hf

    def push(name, safe="both"):
        served(name)
        recipe = backbones.recipes.resolve(name, "random")
        model = backbones.factory.build(recipe.config, recipe.bert, seed=3)
        model.visual.image_mean, model.visual.image_std = recipe.mean, recipe.std
        source = recipe.config["text_cfg"].get("hf_tokenizer_name")
        place = str(hub.repositories["models", source].folder) if source else ""
        tokenizer = open_clip.tokenizer.HFTokenizer(place) if source else _NoTokenizer()
        save_for_hf(model, tokenizer, recipe.config, tmp_path / "pushed", safe_serialization=safe)
        return tmp_path / "pushed", model

    return push


class _NoTokenizer:
    def save_pretrained(self, folder):
        pass


@pytest.mark.parametrize(("name", "safe"), [("ViT-B/16", "both"), ("ViT-B/16", False), ("RN50", True),
                                            ("BiomedCLIP", True), ("SigLIP", True)])  # fmt: skip
def test_local_dir_takes_what_open_clip_writes(name, safe, pushed, hub):
    folder, model = pushed(name, safe)
    asked = len(hub.requests)
    clip = backbones.load(f"local-dir:{folder}")
    assert len(hub.requests) == asked, "all of it lies there"
    assert clip.name == "pushed" and clip.mean == backbones.input_facts(name)["mean"]
    ids = clip.text.tokenize(TEXTS)[0]
    if name == "BiomedCLIP":
        ids = ids[:, :64]
    with torch.no_grad():
        torch.testing.assert_close(clip.text.encode_strings(TEXTS), model.encode_text(ids), atol=1e-4, rtol=1e-4)
    file = folder / ("open_clip_model.safetensors" if safe else "open_clip_pytorch_model.bin")
    assert backbones.weights_sha256(f"local-dir:{folder}") == sha256_file(file)


def test_local_dir_that_is_none(tmp_path):
    for what, words in (("missing", "no such folder"), ("empty", r"open_clip_config\.json")):
        folder = tmp_path / what
        if what == "empty":
            folder.mkdir()
        with pytest.raises(UserError, match=words) as error:
            backbones.load(f"local-dir:{folder}")
        assert str(folder) in str(error.value)
    (tmp_path / "empty" / "open_clip_config.json").write_text('{"model_cfg": {}}')
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors"):
        backbones.load(f"local-dir:{tmp_path / 'empty'}")
