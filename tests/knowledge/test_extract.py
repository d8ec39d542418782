"""Asking a tiny Llama: what is stored, what is refused, and that an interrupted run goes on."""

import shutil

import pytest
import torch
from safetensors import safe_open

from cilmp import datasets, knowledge
from cilmp.knowledge import extraction, language_model, llms, shelf
from cilmp.tests.knowledge.tiny_llm import LAYERS, WIDTH, broken, huge, save_tiny, silent
from dassl.utils.errors import MissingFile, UnknownName, UserError
from dassl.utils.paths import REPO

CLASSES = ["normal cell", "red spot", "blue oval cell"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shelf, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("llm") / "tiny")


def ask(llm, classes=CLASSES, **options):
    return knowledge.extract("toys", classes, llm, **{"progress": False, "max_new_tokens": 6, **options})


def loaded(llm):
    return language_model.LanguageModel("tiny", llms.find(llm))


def test_rows_are_the_hidden_states_of_each_layer_at_the_end_token(llm):
    ask(llm, compute="fp32")  # on a GPU "auto" is bf16
    h, lengths = knowledge.KnowledgeStore("toys", llm).lookup(CLASSES)
    assert h.shape == (3, LAYERS, WIDTH) and lengths.tolist() == [LAYERS] * 3 and h.dtype == torch.float32

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(llm).eval(), AutoTokenizer.from_pretrained(llm)
    text = "<user> In an image, describe the distinctive visual features of red spot. <assistant>"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(6):  # greedy, written out
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        assert 0 not in ids  # no end token came by itself: it is appended
        states = model(torch.cat([ids, torch.zeros(1, 1, dtype=ids.dtype)], 1), output_hidden_states=True).hidden_states
    expected = torch.stack([s[0, -1] for s in states[1:]])
    near = {"rtol": 1e-4, "atol": 1e-5}  # `model` is on the CPU, the one that was asked where "auto" put it
    torch.testing.assert_close(h[1], expected, **near)
    # the last row is after the final norm: it gives the logits without another one
    torch.testing.assert_close(model.lm_head(h[1, -1]), model.lm_head(states[-1][0, -1]), **near)


def test_the_chat_template_is_used_where_there_is_one(llm, tmp_path):
    bare = loaded(save_tiny(tmp_path / "bare", chat=False))
    assert loaded(llm).tokenizer.decode(loaded(llm).prompt("red cell")) == "<user> red cell <assistant>"
    assert bare.tokenizer.decode(bare.prompt("red cell")) == "red cell"
    assert not bare.has_chat_template
    ask(tmp_path / "bare")
    assert knowledge.KnowledgeStore("toys", tmp_path / "bare").facts()["chat_template"] == "no"


def test_an_answer_ends_in_one_end_token(llm):
    model = loaded(llm)
    assert model._ended([5, 6, 0, 0, 0]) == [5, 6, 0]
    assert model._ended([5, 6, 7]) == [5, 6, 7, 0]
    model.eos = [0, 7]
    assert model._ended([5, 7, 9]) == [5, 7]


def test_metadata_say_how_it_was_made(llm):
    path = ask(llm)
    facts = knowledge.KnowledgeStore("toys", llm).facts()
    assert facts["dataset"] == "toys" and facts["pool"] == "layers" and facts["dtype"] == "fp32"
    assert facts["template"] == knowledge.TEMPLATE and facts["chat_template"] == "yes"
    assert facts["llm_hash"] == llms.find(llm).hash and len(facts["llm_hash"]) == 64
    assert facts["questions"]["red spot"] == "In an image, describe the distinctive visual features of red spot."
    assert "final norm" in facts["rows"] and set(facts["versions"]) == {"python", "torch", "transformers"}
    answers = knowledge.KnowledgeStore("toys", llm).answers(CLASSES)
    assert all(len(a.split()) == 6 for a in answers) and facts["answers"]["red spot"] == answers[1]
    with safe_open(path, "pt") as f:
        assert set(f.keys()) == set(CLASSES)


def test_token_rows_are_ragged_and_padded_with_zeros(llm):
    model = loaded(llm)
    path = ask(llm, pool="tokens")
    shorter = {"short": model.rows(model.prompt("red"), [14, 15, 0], "tokens")}
    assert shorter["short"].shape == (3, WIDTH)
    from safetensors.torch import save_file

    with safe_open(path, "pt") as f:
        rows, metadata = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()  # noqa: SIM118
    save_file({**rows, **shorter}, path, metadata=metadata)
    h, lengths = knowledge.KnowledgeStore("toys", llm, "tokens").lookup(["short", "red spot"])
    assert h.shape == (2, 7, WIDTH) and lengths.tolist() == [3, 7]  # 6 tokens and the end
    assert torch.equal(h[0, :3], shorter["short"]) and not h[0, 3:].any() and h[1, 6].any()


def test_batched_questions_get_the_same_rows(llm):
    ask(llm)
    one = knowledge.KnowledgeStore("toys", llm).lookup(CLASSES)[0]
    ask(llm, force=True, batch_size=3)
    torch.testing.assert_close(knowledge.KnowledgeStore("toys", llm).lookup(CLASSES)[0], one, rtol=1e-5, atol=1e-6)


def test_bf16_store_and_wider_reading(llm):
    ask(llm)
    exact = knowledge.KnowledgeStore("toys", llm).lookup(CLASSES)[0]
    path = ask(llm, dtype="bf16")
    with safe_open(path, "pt") as f:
        assert f.get_tensor("red spot").dtype == torch.bfloat16
    h, _ = knowledge.KnowledgeStore("toys", llm, dtype="bf16").lookup(CLASSES)
    assert h.dtype == torch.float32 and torch.equal(h, exact.bfloat16().float())


def test_an_empty_answer_names_the_class(tmp_path):
    with pytest.raises(UserError, match=r"answered nothing about class 'normal cell'") as error:
        ask(save_tiny(tmp_path / "silent", change=silent))
    assert "chat template" not in str(error.value)
    with pytest.raises(UserError, match="no chat template"):
        ask(save_tiny(tmp_path / "bare", chat=False, change=silent))


def test_a_row_that_is_not_finite_names_the_class(tmp_path):
    with pytest.raises(UserError, match=r"class 'normal cell'.*not finite"):
        ask(save_tiny(tmp_path / "broken", change=broken))


def test_fp16_only_after_a_range_check(tmp_path, llm):
    assert ask(llm, dtype="fp16").is_file()
    big = save_tiny(tmp_path / "huge", change=huge)
    with pytest.raises(UserError, match=r"class 'normal cell': the value .* does not fit fp16"):
        ask(big, dtype="fp16")
    assert not list((tmp_path / "cache" / "knowledge" / "toys").glob("huge*"))
    assert ask(big, dtype="bf16").is_file()


@pytest.fixture
def counted(monkeypatch):
    """The questions put to the LLM, in order."""
    asked, original = [], extraction._ask
    monkeypatch.setattr(extraction, "_ask", lambda model, names, *rest: (asked.extend(names),
                                                                         original(model, names, *rest)))
    return asked


def test_only_what_is_missing_is_asked(llm, counted):
    ask(llm, CLASSES[:2])
    ask(llm)
    assert counted == CLASSES
    ask(llm)
    assert counted == CLASSES
    ask(llm, CLASSES[:1], force=True)
    assert counted == [*CLASSES, CLASSES[0]]
    assert knowledge.available("toys", llm, CLASSES)  # the others are still there


def test_a_changed_question_is_asked_again_and_only_that(llm, counted):
    ask(llm)
    asked = knowledge.questions_for(CLASSES, phrases={"red spot": "red spot of blood"})
    assert knowledge.available("toys", llm, CLASSES)
    assert not knowledge.available("toys", llm, CLASSES, questions=asked)
    ask(llm, questions=asked)
    assert counted == [*CLASSES, "red spot"]
    assert knowledge.available("toys", llm, CLASSES, questions=asked)


@pytest.mark.parametrize("change", [{"template": "Describe {class}."}, {"max_new_tokens": 5}, {"dtype": "bf16"}])
def test_rows_of_other_settings_are_not_mixed_in(llm, counted, change):
    ask(llm)
    before = knowledge.KnowledgeStore("toys", llm).sha256(CLASSES)
    path = ask(llm, CLASSES[:1], **change)
    assert counted == [*CLASSES, CLASSES[0]]
    assert knowledge.KnowledgeStore("toys", llm).sha256(CLASSES) == before  # nothing was overwritten
    with pytest.raises(UserError, match=f"differ in .*{next(iter(change))}"):
        knowledge.KnowledgeStore("toys", llm).lookup(CLASSES[:1])
    assert knowledge.KnowledgeStore("toys", path).facts()[next(iter(change))] == str(next(iter(change.values())))


def test_two_llms_of_one_name_do_not_meet(llm, tmp_path, counted):
    """Two folders called `tiny`: each has its own rows, in files of its own."""
    ask(llm)
    before = knowledge.KnowledgeStore("toys", llm).lookup(CLASSES)[0]
    other = save_tiny(tmp_path / "tiny", seed=1)
    reason = knowledge.KnowledgeStore("toys", other).missing(CLASSES)
    assert "by another LLM of that name" in reason and not knowledge.available("toys", other, CLASSES)
    ask(other)
    assert counted == CLASSES * 2
    assert torch.equal(knowledge.KnowledgeStore("toys", llm).lookup(CLASSES)[0], before)
    assert not torch.equal(knowledge.KnowledgeStore("toys", other).lookup(CLASSES)[0], before)


def test_an_llm_is_the_same_wherever_it_lies(llm, tmp_path, counted):
    ask(llm)
    shutil.copytree(llm, tmp_path / "renamed")
    assert knowledge.available("toys", tmp_path / "renamed", CLASSES)
    ask(tmp_path / "renamed")
    assert counted == CLASSES


def test_weights_replaced_in_place_are_another_llm(tmp_path):
    """As many bytes, the same names and shapes: only the values differ."""
    folder = save_tiny(tmp_path / "tiny")
    ask(folder)
    save_tiny(folder, seed=1)
    assert not knowledge.available("toys", folder, CLASSES)


def test_looking_up_loads_and_fetches_no_llm(llm, monkeypatch):
    ask(llm)
    monkeypatch.setattr(language_model, "LanguageModel", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(llms, "_from_wheel", lambda *_: pytest.fail("fetched"))
    assert knowledge.available("toys", llm, CLASSES)
    monkeypatch.setattr(shelf, "SHIPPED", REPO / "knowledge" / "stored")
    from cilmp.datasets.phantom import CLASSES as drawn

    assert knowledge.available("phantom", "smollm2-135m", drawn)
    info = datasets.info("phantom")
    asked = knowledge.questions_for(drawn, phrases=info.phrases())
    path = knowledge.extract("phantom", drawn, "smollm2-135m", asked, compute="auto", device="cpu")
    assert shelf.is_shipped(path)


def test_words_that_come_and_go_are_asked_once(llm, counted):
    """Rows of other words stay; going back to them asks nothing."""
    plain = knowledge.questions_for(CLASSES)
    clear = knowledge.questions_for(CLASSES, phrases={"red spot": "red spot of blood"})
    one, two = ask(llm, questions=plain), ask(llm, questions=clear)
    assert one != two and counted == [*CLASSES, "red spot"]
    assert ask(llm, questions=plain) == one and ask(llm, questions=clear) == two
    for words, path in ((plain, one), (clear, two)):
        rows = knowledge.KnowledgeStore("toys", llm, questions=words)
        assert rows.path(CLASSES) == path and rows.facts(CLASSES)["questions"]["red spot"] == words["red spot"]
    assert counted == [*CLASSES, "red spot"]


def test_a_file_of_rows_is_no_llm_to_ask(llm, tmp_path):
    path = ask(llm)
    assert ask(path) == path
    with pytest.raises(UnknownName, match="has no representation for 'new'"):
        ask(path, ["new"])


def test_an_interrupted_run_keeps_its_rows(llm, monkeypatch, counted):
    original = language_model.LanguageModel.rows

    def interrupted(model, *args):
        if len(counted) == 3:
            raise KeyboardInterrupt
        return original(model, *args)

    with monkeypatch.context() as m:
        m.setattr(language_model.LanguageModel, "rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(llm)
    assert knowledge.available("toys", llm, CLASSES[:2]) and not knowledge.available("toys", llm, CLASSES)
    ask(llm)
    assert counted == [*CLASSES, CLASSES[2]]


def test_shipped_rows_are_used_and_never_written(llm, tmp_path, counted):
    made = ask(llm, CLASSES[:2])
    shipped = tmp_path / "shipped" / "toys" / made.name
    shipped.parent.mkdir(parents=True)
    made.rename(shipped)
    content = shipped.read_bytes()
    assert ask(llm, CLASSES[:2]) == shipped and counted == CLASSES[:2]
    own = ask(llm)
    assert tmp_path / "cache" in own.parents and counted == CLASSES  # the shipped rows were taken over
    assert shipped.read_bytes() == content
    assert knowledge.KnowledgeStore("toys", llm).path() == own


def test_bad_calls_get_one_line(llm, tmp_path):
    with pytest.raises(UserError, match="differ only in case"):
        ask(llm, ["red cell", "Red-Cell"])
    with pytest.raises(UserError, match=r"must hold \{class\}"):
        ask(llm, template="Describe it.")
    with pytest.raises(UserError, match="choose one of layers"):
        ask(llm, pool="mean")
    with pytest.raises(UserError, match="choose one of fp32"):
        ask(llm, dtype="int8")
    with pytest.raises(UnknownName, match="did you mean 'smollm2-135m'"):
        ask("smollm2-135")
    with pytest.raises(MissingFile, match="no such file or folder"):
        ask(tmp_path / "nowhere.gguf")
    (tmp_path / "fake.gguf").write_bytes(b"not it")
    with pytest.raises(UserError, match="not a GGUF file"):
        ask(tmp_path / "fake.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFile, match=r"no config\.json"):
        ask(tmp_path / "empty")


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch):
    import huggingface_hub

    calls = []

    def unreachable(self, name, **_):
        calls.append(name)
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nowhere")
    with pytest.raises(UserError, match=r"had here \(https\S+ cannot be reached\); set LLM=smollm2-135m") as e:
        ask("meta-llama/Meta-Llama-3-8B")
    assert calls == ["meta-llama/Meta-Llama-3-8B"] and "\n" not in str(e.value)


def test_low_bit_weights_need_bitsandbytes(llm, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="need bitsandbytes"):
        ask(llm, compute="8bit")


def test_slugs_of_llms():
    assert knowledge.llm_slug("smollm2-135m") == "smollm2-135m-instruct-q4-1"
    assert knowledge.llm_slug("meta-llama/Meta-Llama-3-8B") == knowledge.llm_slug("llama-3-8b")
    assert knowledge.llm_slug("meta-llama/Meta-Llama-3-8B") == "meta-llama-Meta-Llama-3-8B"
    assert knowledge.llm_slug("/models/Qwen2.5-0.5B.Q8_0.gguf") == "Qwen2.5-0.5B.Q8-0"
