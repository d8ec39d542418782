"""Sentences a class: sampling them from a tiny Llama, keeping them, reading lists of one's own."""

import json
import re

import pytest

from cilmp import knowledge
from cilmp.knowledge import answers, shelf
from cilmp.tests.knowledge.tiny_llm import save_tiny
from dassl.utils.errors import UnknownName, UserError
from dassl.utils.paths import REPO


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shelf, "SHIPPED", tmp_path / "shipped")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("llm") / "tiny")


@pytest.fixture
def talkative(monkeypatch):
    """Every answer counts, as a sentence that names the class: a random model cannot speak."""
    monkeypatch.setattr(answers, "usable", lambda text, name: f"{name}: {text}.")


def test_sampling_gives_n_different_sentences_and_repeats(llm, talkative):
    path = knowledge.sample("toys", ["red", "blue"], llm, n=5, progress=False)
    red, blue = knowledge.PromptEnsembles("toys", llm).lookup(["red", "blue"], 5)
    assert len(set(red)) == len(set(blue)) == 5 and red[0].startswith("red: ")
    first = path.read_text()
    path.unlink()
    knowledge.sample("toys", ["blue"], llm, n=5, progress=False)  # does not depend on the classes before it
    assert knowledge.PromptEnsembles("toys", llm).lookup(["blue"]) == [blue]
    path = knowledge.sample("toys", ["red", "blue"], llm, n=5, progress=False)
    assert json.loads(path.read_text()) == {**json.loads(first), "__facts__": json.loads(path.read_text())["__facts__"]}
    other = knowledge.sample("toys", ["red", "blue"], llm, n=5, seed=2, progress=False)
    assert other != path and json.loads(path.read_text()) == json.loads(first)  # nothing was overwritten
    with pytest.raises(UserError, match=r"differ in seed \(., .\)"):
        knowledge.PromptEnsembles("toys", llm).lookup(["red"])
    assert knowledge.PromptEnsembles("toys", llm, seed=1).lookup(["red"]) == [red]
    assert knowledge.PromptEnsembles("toys", llm, seed=2).lookup(["red"]) != [red]
    assert knowledge.PromptEnsembles("toys", other).lookup(["red"]) != [red]


def test_sentences_of_two_llms_of_one_name_do_not_meet(llm, talkative, tmp_path):
    knowledge.sample("toys", ["red"], llm, n=3, progress=False)
    other = save_tiny(tmp_path / "tiny", seed=1)
    with pytest.raises(UnknownName, match="is by another LLM of that name"):
        knowledge.PromptEnsembles("toys", other).lookup(["red"])
    knowledge.sample("toys", ["red"], other, n=3, progress=False)
    ours, theirs = (knowledge.PromptEnsembles("toys", which) for which in (llm, other))
    assert ours.lookup(["red"]) != theirs.lookup(["red"]) and ours.sha256(["red"]) != theirs.sha256(["red"])


def test_the_hash_is_of_the_sentences_that_are_used(llm, talkative):
    knowledge.sample("toys", ["red", "blue"], llm, n=5, progress=False)
    said = knowledge.PromptEnsembles("toys", llm)
    assert said.sha256(["red", "blue"], 3) == said.sha256(["blue", "red"], 3) != said.sha256(["red", "blue"], 4)
    before = said.sha256(["red"], 5)
    knowledge.sample("toys", ["green"], llm, n=5, progress=False)
    assert said.sha256(["red"], 5) == before


def test_complete_classes_are_not_asked_again(llm, talkative, monkeypatch):
    asked, original = [], answers._sample_class
    monkeypatch.setattr(answers, "_sample_class", lambda m, name, *rest: asked.append(name) or original(m, name, *rest))
    for classes in (["red"], ["red", "blue"], ["blue"]):
        knowledge.sample("toys", classes, llm, n=3, progress=False)
    assert asked == ["red", "blue"]
    knowledge.sample("toys", ["red", "blue"], llm, n=3, phrases={"red": "red cell"}, progress=False)
    assert asked == ["red", "blue", "red"]  # other words for one
    knowledge.sample("toys", ["red", "blue"], llm, n=3, progress=False)
    assert asked == ["red", "blue", "red"]  # the first ones are still there
    said = knowledge.PromptEnsembles("toys", llm, phrases={"red": "red corpuscle"}).missing(["red", "blue"])
    assert re.search(r"has other words for 'red' \('red( cell)?' instead of 'red corpuscle'\)", said)  # either file


def test_an_llm_that_does_not_name_the_class_is_an_error(llm, monkeypatch):
    monkeypatch.setattr(answers, "ROUNDS", 1)
    with pytest.raises(UserError, match="gave 0 usable sentences about class 'glaucoma', 4 were asked"):
        knowledge.sample("toys", ["glaucoma"], llm, n=4, progress=False)


@pytest.mark.parametrize("text, kept", [
    ("A breast-cyst is a round dark shape. It is common.", "A breast-cyst is a round dark shape."),
    ('"A Breast Cyst is seen\n here on the left."', "A Breast Cyst is seen here on the left."),
    ("A round dark shape with a thin wall.", ""),  # does not name it
    ("A breast cyst is a round dark shape with", ""),  # cut off
    ("A breast cyst.", ""),  # says nothing
    ("The breast cyst " + "is very " * 20 + "dark.", ""),  # too long for a text tower
])
def test_which_sentences_count(text, kept):
    assert answers.usable(text, "breast cyst") == kept


def test_lists_of_ones_own_are_read_by_path(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"Glioma Tumor": ["a.", "b.", "c."], "normal": ["d.", "e."]}))
    own = knowledge.PromptEnsembles("btmri", path)
    assert own.lookup(["normal", "glioma tumor"], 2) == [["d.", "e."], ["a.", "b."]]
    assert own.lookup(["glioma_tumor"]) == [["a.", "b.", "c."]]
    with pytest.raises(UserError, match="has 2 sentences for 'normal', 3 were asked for"):
        own.lookup(["normal"], 3)
    with pytest.raises(UnknownName, match="no sentences for 'meningioma'"):
        own.lookup(["meningioma"])
    for bad in ("[]", '{"a": "text"}', '{"a": []}', '{"a": [" "]}', "{"):
        path.write_text(bad)
        with pytest.raises(UserError):
            own.lookup(["a"])


def test_missing_sentences_are_named_with_the_command_to_run():
    with pytest.raises(UnknownName, match=r"cilmp extract --dataset toys --llm smollm2-135m --sentences 50"):
        knowledge.PromptEnsembles("toys", "smollm2-135m").lookup(["a"])


def test_the_demo_has_its_sentences_in_the_repository(monkeypatch):
    monkeypatch.setattr(shelf, "SHIPPED", REPO / "knowledge" / "stored")
    from cilmp.datasets.phantom import CLASSES

    sentences = knowledge.PromptEnsembles("phantom", "smollm2-135m").lookup(CLASSES, 50)
    assert all(len(set(s)) == 50 for s in sentences)
    assert (REPO / "knowledge" / "stored" / "README.md").is_file()
