"""LLMs from the hub: a Llama-3 in its true layout, gated, sharded; and those that are refused."""

import json

import pytest
import torch

from cilmp import knowledge
from cilmp.knowledge import language_model, llms
from cilmp.knowledge.store import read_metadata
from cilmp.tests.hub import repositories
from cilmp.tests.hub.server import TOKEN
from dassl.utils.errors import UserError

BASE, INSTRUCT = "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"
CLASSES = ["red spot", "normal cell"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("llamas")
    return {BASE: repositories.llama(place / "base", chat=False), INSTRUCT: repositories.llama(place / "instruct")}


@pytest.fixture
def served(hub, cache, folders, monkeypatch):
    """Both of Meta's repositories, gated, and a user who accepted their licence."""
    for name, folder in folders.items():
        hub.add(name, folder, gated=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return folders


def extracted(llm, **options):
    return knowledge.extract("toys", CLASSES, llm, max_new_tokens=4, progress=False, **options)


def line(llm):
    with pytest.raises(UserError) as error:
        language_model.LanguageModel(llm, llms.find(llm))
    text = str(error.value)
    assert "\n" not in text and str(llm) in text and "LLM=" in text
    return text


@pytest.mark.parametrize(("llm", "name"), [("llama-3-8b-instruct", INSTRUCT), ("llama-3-8b", BASE)])
def test_rows_of_a_llama_by_its_short_name(served, hub, llm, name, capsys):
    """The hub's copy says what the folder says; its revision is its identity; nothing needless is fetched."""
    assert llms.identity(llm) == ""
    path = extracted(llm)
    rows = knowledge.KnowledgeStore("toys", llm).lookup(CLASSES)[0]
    extracted(served[name])
    assert torch.equal(rows, knowledge.KnowledgeStore("toys", served[name]).lookup(CLASSES)[0])
    assert llms.identity(llm) == hub.repositories["models", name].commit
    assert read_metadata(path)["llm_hash"] == llms.identity(llm)
    asked = {r.path.rsplit("/", 1)[-1] for r in hub.asked(method="GET")}
    shards = {p.name for p in served[name].glob("model-*.safetensors")}
    assert len(shards) > 1 and shards <= asked and "consolidated.00.pth" not in asked
    bare = "has no chat template: it reads the bare question"
    assert (bare in capsys.readouterr().out) == (name == BASE)


def test_a_cached_llm_asks_nothing_even_offline(served, hub, monkeypatch):
    from huggingface_hub import constants

    language_model.LanguageModel(INSTRUCT, llms.find(INSTRUCT))
    asked = len(hub.requests)
    language_model.LanguageModel(INSTRUCT, llms.find(INSTRUCT))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    language_model.LanguageModel(INSTRUCT, llms.find(INSTRUCT))
    assert len(hub.requests) == asked
    assert "HF_HUB_OFFLINE" in line(BASE)


def test_a_fetch_that_was_interrupted_goes_on(served, hub):
    shards = sorted(p.name for p in served[INSTRUCT].glob("model-*.safetensors"))
    with hub.fault("half", shards[-1]):
        assert shards[-1] in line(INSTRUCT)
    before = len(hub.requests)
    language_model.LanguageModel(INSTRUCT, llms.find(INSTRUCT))
    again = {r.path.rsplit("/", 1)[-1] for r in hub.requests[before:] if r.host == "cdn"}
    assert again == {shards[-1]}, "what had arrived is not fetched twice"


def test_a_damaged_shard_is_fetched_again(served, hub, cache):
    language_model.LanguageModel(INSTRUCT, llms.find(INSTRUCT))
    (path, *_) = sorted(cache.rglob("snapshots/*/model-*.safetensors"))
    content = path.read_bytes()
    path.resolve().write_bytes(b"\0" * len(content))
    language_model.LanguageModel(INSTRUCT, llms.find(INSTRUCT))
    assert path.read_bytes() == content


def test_a_licence_that_was_not_accepted(served, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    text = line(BASE)
    assert "gated" in text and f"{hub.url}/{BASE}" in text and "HF_TOKEN" in text and "licence" in text


def test_an_llm_that_is_not_there(served):
    assert "no repository owner/none" in line("owner/none")


def test_a_hub_that_is_no_hub(served, hub):
    with hub.fault("html"):
        assert "HF_ENDPOINT" in line(BASE)


@pytest.mark.parametrize("where", ["hub", "folder"])
def test_code_that_a_repository_brings_is_not_run(hub, cache, tmp_path, where):
    """Refused before its weights are fetched, without a question on the terminal."""
    folder = repositories.llama(tmp_path / "own", code=True)
    hub.add("owner/own", folder)
    text = line("owner/own" if where == "hub" else str(folder))
    assert "code" in text and "never run" in text and not (tmp_path / "ran").exists()
    assert not [r for r in hub.requests if r.host == "cdn"]


def test_a_repository_without_weights(hub, cache, tmp_path):
    folder = repositories.llama(tmp_path / "bare")
    for path in folder.glob("model*"):
        path.unlink()
    hub.add("owner/bare", folder)
    assert "model.safetensors" in line("owner/bare")


def test_a_template_of_a_newer_kind(hub, cache, tmp_path):
    """chat_template.jinja beside the tokenizer, as transformers writes it now, or inside its configuration."""
    folder = repositories.llama(tmp_path / "llama")
    inside = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    repositories.write(folder / "tokenizer_config.json", inside | {"chat_template": repositories.CHAT})
    hub.add("owner/inside", folder)
    words = language_model.LanguageModel("owner/inside", llms.find("owner/inside"))
    text = words.tokenizer.decode(words.prompt("Hello."))
    assert text.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello.<|eot_id|>")
