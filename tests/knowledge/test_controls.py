"""The kinds of KNOWLEDGE: what is asked for each, where its rows lie, what classes get of them."""

import pytest
import torch

from cilmp import datasets, knowledge
from cilmp.datasets.locate import DatasetInfo
from cilmp.experiments.reads import Knowledge
from cilmp.experiments.settings import base_config
from cilmp.knowledge import controls, shelf
from cilmp.tests.knowledge.tiny_llm import LAYERS, save_tiny
from cilmp.trainers.cilmp import CILMP
from dassl.utils.errors import ConfigError, UserError

CELLS = DatasetInfo("cells", ("red", "white"), "blood smear micrograph", {"red": "red blood cell", "white": "white"})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shelf, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "cache"


# ---- asking


def test_each_kind_asks_in_its_words():
    real = "In an image, describe the distinctive visual features of red blood cell in a blood smear micrograph."
    for kind in ("real", "shuffled", "random", "mean"):
        assert controls.questions(CELLS, ["red"], kind) == {"red": real}
    wrong = controls.questions(CELLS, ["red"], "wrong_modality")["red"]
    assert wrong == real.replace("blood smear micrograph", "chest X-ray image")
    assert controls.questions(CELLS, ["red", "white"], "name_only") == {"red": "red", "white": "white"}
    assert controls.template("name_only") == "{class}" and controls.template("wrong_modality") == knowledge.TEMPLATE


def test_no_class_keeps_a_word_of_its_modality():
    info = datasets.info("phantom")
    own, wrong = info.phrases(), controls.questions(info, info.classnames, "wrong_modality")
    for name in info.classnames:
        modality, (_, other) = info.modalities[name], wrong[name][:-1].rsplit(" in a", 1)
        other = other.removeprefix("n").strip()
        assert other in info.modalities.values(), "a set of several modalities swaps its own"
        assert not set(modality.lower().split()) & set(other.lower().split()) - {"image"}
        assert own[name].rsplit(" in a", 1)[0] in wrong[name]
    some = info.classnames[3:5]
    assert controls.questions(info, some, "wrong_modality") == {n: wrong[n] for n in some}


@pytest.mark.parametrize("name", sorted(datasets.TABLE.sets()))
def test_every_set_of_the_table_has_another_modality(name):
    modality = datasets.TABLE[name].modality
    other = controls.another(modality)
    assert other in controls.ELSEWHERE and not controls._telling(other) & controls._telling(modality)


def test_without_a_modality_there_is_no_other_one():
    bare = DatasetInfo("mine", ("a", "b"), wording={"a": "a", "b": "b"}, modalities={"a": "chest CT"})
    with pytest.raises(UserError, match=r"mine does not say the modality of class 'b'.*dataset.json") as said:
        controls.questions(bare, ["a", "b"], "wrong_modality")
    assert len(str(said.value).splitlines()) == 1
    with pytest.raises(UserError, match="does not say the modality"):
        controls.questions(None, ["a"], "wrong_modality")
    with pytest.raises(UserError, match="no modality differs in every word"):
        controls.another("chest dermoscopy fundus CT")
    assert controls.questions(None, ["a"], "name_only") == {"a": "a"}
    assert controls.questions(None, ["a"]) == knowledge.questions_for(["a"])


def test_rows_of_a_kind_are_made_on_demand_and_never_mixed_up(cache, tmp_path, monkeypatch, capsys):
    llm = str(save_tiny(tmp_path / "tiny"))
    monkeypatch.setattr("cilmp.experiments.reads.info_of", lambda cfg: CELLS)
    plain = knowledge.extract
    monkeypatch.setattr(knowledge, "extract", lambda *a: plain(*a, progress=False, max_new_tokens=4))

    def of(kind):
        cfg = base_config()
        cfg.TRAINER.NAME, cfg.DATASET.NAME, cfg.MODEL.LLM = "CILMP", "cells", llm
        cfg.TRAINER.CILMP.KNOWLEDGE = kind
        return Knowledge(CILMP, cfg)

    for number, kind in enumerate(("real", "wrong_modality", "name_only"), 1):
        why = of(kind).store().missing(["red"])
        assert kind == "real" or (why.endswith(f"--knowledge {kind}") and "LLM=" not in why)
        of(kind).ensure()
        assert "making it now" in capsys.readouterr().out
        of(kind).ensure()
        assert capsys.readouterr().out == "", "once is enough"
        assert len(list((cache / "knowledge" / "cells").iterdir())) == number
        facts = of(kind).store().facts(["red", "white"])
        assert facts["questions"] == controls.questions(CELLS, ["red", "white"], kind)
        assert facts["template"] == controls.template(kind)
    hashes = {kind: of(kind).sha256() for kind in controls.KINDS}
    assert len({of(kind).store().path(["red", "white"]) for kind in ("real", "wrong_modality", "name_only")}) == 3
    assert hashes["name_only"] != hashes["real"]  # (the tiny LLM's vocabulary knows no modality)
    assert hashes["shuffled"] == hashes["random"] == hashes["mean"] == hashes["real"]
    assert of("name_only").store().lookup(["white", "red"])[0].shape[1] == LAYERS


def test_a_file_of_rows_is_no_language_model(tmp_path):
    with pytest.raises(UserError, match="KNOWLEDGE name_only asks a language model in words of its own"):
        controls.store("cells", tmp_path / "rows.safetensors", CELLS, ["red"], "name_only")
    assert controls.store("cells", tmp_path / "rows.safetensors", CELLS, ["red"], "shuffled").kind == "shuffled"


def test_the_message_around_a_bare_name_is_the_chat_template_alone(cache, tmp_path):
    from cilmp.knowledge import language_model, llms

    llm = save_tiny(tmp_path / "tiny")
    model = language_model.LanguageModel("tiny", llms.find(llm))
    asked = controls.questions(CELLS, ["red"], "name_only")["red"]
    assert model.tokenizer.decode(model.prompt(asked)) == "<user> red <assistant>"


# ---- changing what was found


def rows(lengths, width=3):
    h = torch.arange(len(lengths) * max(lengths) * width).reshape(len(lengths), -1, width) + 1.0
    lengths = torch.tensor(lengths)
    return h * (torch.arange(h.shape[1]) < lengths[:, None])[..., None], lengths


def test_controls_of_the_rows():
    h, lengths = torch.zeros(3, 4, 2), torch.tensor([4, 3, 4])
    h[0], h[1, :3], h[2] = 1.0, 2.0, 6.0
    for kind in ("real", "wrong_modality", "name_only"):  # theirs were asked for otherwise
        assert controls.rows_of(h, lengths, kind)[0] is h
    shuffled, moved = controls.rows_of(h, lengths, "shuffled")
    assert shuffled[:, 0, 0].tolist() == [6, 1, 2] and moved.tolist() == [4, 4, 3]
    mean, _ = controls.rows_of(h, lengths, "mean")
    assert mean[0, 0, 0] == 3.0 and mean[0, 3, 0] == 3.5 and mean[1, 3, 0] == 0.0
    noise, _ = controls.rows_of(h, lengths, "random")
    torch.testing.assert_close(noise.norm(dim=-1), h.norm(dim=-1))
    assert torch.equal(noise, controls.rows_of(h, lengths, "random")[0])


def test_layers_by_number_are_those_rows():
    h, lengths = rows([4, 3])
    picked, count = controls.rows_of(h, lengths, "real", (0, 2))
    assert torch.equal(picked, h[:, [0, 2]]) and count.tolist() == [2, 2]
    assert controls.rows_of(h, lengths, "real", ("all",))[0] is h
    with pytest.raises(ConfigError, match="the shortest class has 3 rows"):
        controls.rows_of(h, lengths, "real", (3,))


@pytest.mark.parametrize("count, numbers", [(30, [0, 7, 14, 22, 29]), (32, [0, 7, 15, 23, 31]), (4, [0, 0, 1, 2, 3]),
                                            (1, [0] * 5)])  # fmt: skip
def test_a_word_is_one_layer_in_every_place(count, numbers):
    h, lengths = rows([count, max(1, count - 1)])
    for word, number in zip(controls.LAYERS, numbers):
        alone, kept = controls.rows_of(h, lengths, "real", (word,))
        assert torch.equal(kept, lengths) and alone.shape == h.shape
        assert torch.equal(alone[0], h[0, number].expand(count, -1)), word
        assert not alone[1, int(lengths[1]) :].any() and bool(alone[1, : int(lengths[1])].all())
    last = controls.rows_of(h, lengths, "real", ("last",))[0]
    assert torch.equal(last[1, 0], h[1, int(lengths[1]) - 1]), "of the class's own rows"


@pytest.mark.parametrize("kind, layers, said", [
    ("none", (), "KNOWLEDGE 'none': choose real, shuffled, random, mean, wrong_modality or name_only"),
    ("real", ("middle",), "'middle' does not fit; choose one of all, first, quarter, half, three_quarters, last"),
    ("real", ("first", "last"), "'first' does not fit"), ("real", (-1,), "-1 does not fit"),
])  # fmt: skip
def test_mistakes_are_one_line(kind, layers, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        controls.rows_of(*rows([2, 2]), kind, layers)
