"""Looking classes up: names, places, the official folders, and what is said when something is missing."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from cilmp import knowledge
from cilmp.knowledge import llms, names, official, shelf
from dassl.utils.errors import MissingFile, UnknownName, UserError
from dassl.utils.paths import REPO, cache_root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shelf, "SHIPPED", tmp_path / "shipped")


def put(rows, dataset="toys", llm="owner/model", name="rows", shipped=False, **facts):
    """A store as extraction writes it; facts: metadata, questions among them."""
    questions = facts.pop("questions", dict.fromkeys(rows, ""))
    folder = shelf.SHIPPED if shipped else cache_root() / "knowledge"
    path = folder / dataset.replace(" ", "-") / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"schema": "1", "llm": llm, "llm_hash": "rev1", "pool": "layers", "dtype": "fp32", **facts}
    save_file(rows, path, metadata={**metadata, "questions": json.dumps(questions)})
    return path


def filled(k, value, d=5):
    return torch.full((k, d), float(value))


def test_rows_come_in_the_order_asked_padded_with_zeros():
    put({"b": filled(2, 2), "a": filled(4, 1), "c": filled(3, 3)})
    h, lengths = knowledge.KnowledgeStore("toys", "owner/model").lookup(["c", "a", "b"])
    assert h.shape == (3, 4, 5) and lengths.tolist() == [3, 4, 2] and lengths.dtype == torch.int64
    assert h[:, 0, 0].tolist() == [3, 1, 2]
    assert h.sum().item() == 5 * (3 * 3 + 4 * 1 + 2 * 2)  # nothing beyond the rows


def test_the_constructor_does_no_work():
    knowledge.KnowledgeStore("no such set", "no such model")


@pytest.mark.parametrize("asked, stored", [
    ("melanoma", "Melanoma"), ("normal z line", "normal z-line"), (" normal_cecum ", "normal cecum"),
    ("vascular lesions", "Vascular lesion"), ("melanocytic nevi", "Melanocytic nevus"),
    ("actinic keratoses and intraepithelial carcinoma", "Actinic keratosis"),
    ("immature granulocytes", "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)"),
    ("age related macular degeneration", "age-related macular degeneration"), ("COVID-19", "covid"),
])
def test_other_spellings_resolve(asked, stored):
    put({stored: filled(2, 7), "something else": filled(2, 1)})
    assert knowledge.KnowledgeStore("toys", "owner/model").lookup([asked])[0][0, 0, 0] == 7


def test_the_exact_name_wins_then_the_normalised_one():
    assert names.match(["nevus", "Nevus"], ["Nevus", "nevus"], "x") == {"nevus": "nevus", "Nevus": "Nevus"}
    assert names.match(["melanocytic-nevi"], ["melanocytic nevus", "melanocytic nevi"], "x") == {
        "melanocytic-nevi": "melanocytic nevi"}


def test_two_names_with_one_key_are_refused():
    put({"Nevus": filled(1, 1), "nevus": filled(1, 2), "covid": filled(1, 3)})
    lookup = knowledge.KnowledgeStore("toys", "owner/model").lookup
    with pytest.raises(UserError, match="'NEVUS' fits both"):
        lookup(["NEVUS"])
    with pytest.raises(UserError, match="'covid' and 'COVID-19' both resolve to the stored 'covid'"):
        lookup(["covid", "COVID-19"])
    with pytest.raises(UserError, match="differ only in case"):
        names.check_distinct(["red cell", "red_cell"], "toys")


def test_a_missing_class_is_named_with_the_command_to_run():
    put({"benign": filled(1, 1)}, "my set")
    with pytest.raises(UnknownName) as error:
        knowledge.KnowledgeStore("my set", "owner/model").lookup(["benign", "malignant"])
    text = str(error.value)
    assert "'malignant'" in text and "'benign'" not in text and "\n" not in text
    assert text.endswith("cilmp extract --dataset 'my set' --llm owner/model")


def test_a_missing_rows_is_named_with_the_command_to_run():
    for call in (lambda s: s.lookup(["a"]), lambda s: s.answers(["a"]), lambda s: s.facts()):
        with pytest.raises(UnknownName, match=r"cilmp extract --dataset toys --llm smollm2-135m --pool tokens"):
            call(knowledge.KnowledgeStore("toys", "smollm2-135m", "tokens"))
    assert not knowledge.available("toys", "smollm2-135m", ["a"])


def test_the_cache_is_read_before_what_is_shipped_and_never_mixed_with_it():
    put({"a": filled(1, 1), "b": filled(1, 1)}, shipped=True)
    assert knowledge.KnowledgeStore("toys", "owner/model").lookup(["a"])[0][0, 0, 0] == 1
    put({"a": filled(1, 2)})
    assert knowledge.KnowledgeStore("TOYS", "owner/model").lookup(["a"])[0][0, 0, 0] == 2
    assert knowledge.KnowledgeStore("toys", "owner/model").lookup(["a", "b"])[0][:, 0, 0].tolist() == [1, 1]


QUESTIONS = {"a": "What is a?", "b": "What is b?"}


def test_rows_in_other_words_are_never_used_silently():
    path = put({"a": filled(1, 1), "b": filled(1, 2)}, questions=QUESTIONS)
    asked = {**QUESTIONS, "b": "What is b in a chest X-ray?"}
    assert knowledge.available("toys", "owner/model", ["a", "b"], questions=QUESTIONS)
    assert knowledge.available("toys", "owner/model", ["a"], questions=asked)
    rows_ = knowledge.KnowledgeStore("toys", "owner/model", questions=asked)
    assert rows_.missing(["a"]) == ""
    with pytest.raises(UnknownName) as error:
        rows_.lookup(["a", "b"])
    text = str(error.value)
    assert "no representation by owner/model for 'b' (" in text and "\n" not in text
    assert f"{path} has other words for 'b' ('What is b?' instead of 'What is b in a chest X-ray?')" in text
    assert text.endswith("cilmp extract --dataset toys --llm owner/model")
    assert knowledge.KnowledgeStore("toys", path).lookup(["b"])[0].unique().tolist() == [2]  # as it is, by its path


def test_where_two_fit_it_must_be_said_which():
    one = put({"a": filled(1, 1), "b": filled(1, 2)}, name="one", questions=QUESTIONS)
    two = put({"a": filled(1, 3), "b": filled(1, 4)}, name="two", questions={**QUESTIONS, "b": "And b?"})
    assert knowledge.KnowledgeStore("toys", "owner/model").path(["a"]) == one  # the same of it in both
    with pytest.raises(UserError, match=r"one\.safetensors and .*two\.safetensors differ in words \('What is b\?', "
                                        r"'And b\?' for 'b'\); say which one"):
        knowledge.KnowledgeStore("toys", "owner/model").lookup(["a", "b"])
    pinned = knowledge.KnowledgeStore("toys", "owner/model", questions={"b": "And b?"})
    assert pinned.path(["a", "b"]) == two
    put({"a": filled(1, 5), "b": filled(1, 6)}, name="three", questions=QUESTIONS, dtype="bf16")
    with pytest.raises(UserError, match=r"differ in dtype \(fp32, bf16\)|differ in dtype \(bf16, fp32\)"):
        knowledge.KnowledgeStore("toys", "owner/model", questions=QUESTIONS).lookup(["a", "b"])
    assert knowledge.KnowledgeStore("toys", "owner/model", questions=QUESTIONS, dtype="fp32").path(["a"]) == one
    lacking = knowledge.KnowledgeStore("toys", "owner/model", dtype="fp16").missing(["a", "b"])
    assert "has dtype fp32 instead of fp16" in lacking or "has dtype bf16 instead of fp16" in lacking
    assert lacking.endswith("--llm owner/model --dtype fp16")


def hub_cache(folder, name, *revisions, main=""):
    """A hub's cache that holds some revisions of a model."""
    model = folder / f"models--{name.replace('/', '--')}"
    for revision in revisions:
        (model / "snapshots" / revision).mkdir(parents=True)
        (model / "snapshots" / revision / "config.json").write_text("{}")
    if main:
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(main)


def test_a_hub_id_is_told_by_the_revision_that_is_here(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    put({"a": filled(1, 1)}, name="old", llm_hash="rev1")
    rows_ = knowledge.KnowledgeStore("toys", "owner/model")
    assert rows_.path(["a"]).stem == "old"  # no revision here: any under this id ...
    put({"a": filled(1, 2)}, name="new", llm_hash="rev2")
    with pytest.raises(UserError, match=r"differ in llm_hash"):  # ... but not either of two
        rows_.lookup(["a"])
    hub_cache(tmp_path / "hub", "owner/model", "rev1", "rev2", main="rev2")
    assert llms.identity("owner/model") == "rev2" and rows_.path(["a"]).stem == "new"
    hub_cache(tmp_path / "hub", "owner/other", "rev3")
    assert llms.identity("owner/other") == "rev3"  # the only one
    hub_cache(tmp_path / "hub", "owner/third", "rev4", "rev5")
    assert llms.identity("owner/third") == ""
    hub_cache(tmp_path / "hub", "meta-llama/Meta-Llama-3-8B", "rev6")
    put({"a": filled(1, 3)}, llm="meta-llama/Meta-Llama-3-8B", llm_hash="rev5")
    text = knowledge.KnowledgeStore("toys", "llama-3-8b").missing(["a"])
    assert "is by another LLM of that name (llm_hash rev5 instead of rev6)" in text


def test_an_llm_that_is_not_here_is_said():
    path = put({"a": filled(1, 1)}, llm="/models/some.gguf", llm_hash="0123")
    text = knowledge.KnowledgeStore("toys", "/moved/some.gguf").missing(["a"])
    assert f"{path} is by one of that name, but /moved/some.gguf is not here to compare" in text


def test_the_hash_is_of_the_rows_that_are_used(tmp_path):
    rows = {"a": filled(1, 1), "b": filled(2, 2)}
    path = put(rows, questions=QUESTIONS)
    rows_ = knowledge.KnowledgeStore("toys", "owner/model")
    whole = rows_.sha256(["a", "b"])
    assert len(whole) == 64 and whole == rows_.sha256(["b", "a"]) != rows_.sha256(["a"])
    put({**rows, "c": filled(1, 9)}, answers=json.dumps({"a": "x"}))
    assert rows_.sha256(["a", "b"]) == whole  # another class, other metadata: the same rows
    put({"b": rows["b"] + 1e-6, "a": rows["a"]})
    assert rows_.sha256(["a", "b"]) != whole and rows_.sha256(["a"]) == rows_.sha256(["a"])
    put({"b": rows["a"], "a": rows["b"]})
    assert rows_.sha256(["a", "b"]) != whole  # whose rows they are counts
    assert path.is_file()


def test_a_file_may_be_given_by_its_path(tmp_path):
    save_file({"a": filled(2, 4)}, tmp_path / "own.safetensors")
    given = knowledge.KnowledgeStore("whatever", tmp_path / "own.safetensors")
    assert given.lookup(["a"])[0][0, 0, 0] == 4 and given.answers(["a"]) == [""]
    with pytest.raises(UnknownName, match="has no representation for 'b'"):
        given.lookup(["b"])
    with pytest.raises(UnknownName, match="no file of representations"):
        knowledge.KnowledgeStore("x", tmp_path / "none.safetensors").lookup(["a"])


def test_rows_that_do_not_fit_are_refused():
    put({"a": filled(2, 1), "narrow": filled(2, 1, d=4), "flat": torch.ones(5), "nan": filled(2, float("nan"))})
    lookup = knowledge.KnowledgeStore("toys", "owner/model").lookup
    for bad in ("narrow", "flat"):
        with pytest.raises(UserError, match=f"class '{bad}' has shape"):
            lookup(["a", bad])
    with pytest.raises(UserError, match=r"class 'nan' has a row that is not finite"):
        lookup(["a", "nan"])


def test_a_damaged_file_is_one_line():
    path = put({"a": filled(2, 1)})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="not a readable file of representations"):
        knowledge.KnowledgeStore("toys", "owner/model").lookup(["a"])


@pytest.fixture
def folder(tmp_path):
    inner = tmp_path / "llm_representations" / "cpn_x_ray"
    inner.mkdir(parents=True)
    torch.save(filled(3, 1).half(), inner / "covid.pth")
    torch.save(filled(2, 2), inner / "normal (no finding).pth")
    return inner


def test_official_folders_are_read(folder):
    for place, dataset in ((folder, "anything"), (folder.parent, "CPN-X-RAY")):
        given = knowledge.KnowledgeStore(dataset, place)
        h, lengths = given.lookup(["normal (no finding)", "covid"])
        assert lengths.tolist() == [2, 3] and h[:, 0, 0].tolist() == [2, 1] and h.dtype == torch.float32
        assert given.answers(["covid"]) == [""]
    assert knowledge.available("cpn_x_ray", folder.parent, ["covid"])
    with pytest.raises(MissingFile, match="no folder 'busi'"):
        knowledge.KnowledgeStore("busi", folder.parent).lookup(["covid"])
    with pytest.raises(UnknownName, match="no representation for 'pneumonia'"):
        knowledge.KnowledgeStore("cpn", folder).lookup(["pneumonia"])


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_official_files_are_read_safely_and_checked(folder, capsys):
    torch.save(Evil(), folder / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth: not a file with a plain tensor"):
        official.read_pth(folder / "evil.pth")
    assert "must not run" not in capsys.readouterr().out
    numbers = torch.ones(2, 3, dtype=torch.int64)
    for wrong, found in (({"a": 1}, "dict"), (torch.ones(3), r"\(3,\)"), (numbers, "int64")):
        torch.save(wrong, folder / "wrong.pth")
        with pytest.raises(UserError, match=f"expected a float tensor .* found .*{found}"):
            official.read_pth(folder / "wrong.pth")
    (folder / "cut.pth").write_bytes((folder / "covid.pth").read_bytes()[:100])
    with pytest.raises(UserError, match=r"cut\.pth: not a file"):
        official.read_pth(folder / "cut.pth")


def test_reading_imports_no_llm_library():
    code = ("import sys, knowledge; knowledge.KnowledgeStore('phantom', 'smollm2-135m').lookup(['pneumonia']); "
            "print([m for m in ('transformers', 'huggingface_hub', 'gguf', 'accelerate') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_demo_has_its_rows_in_the_repository(monkeypatch):
    monkeypatch.setattr(shelf, "SHIPPED", REPO / "knowledge" / "stored")
    from cilmp.datasets.phantom import CLASSES

    shipped = knowledge.KnowledgeStore("phantom", "smollm2-135m")
    h, lengths = shipped.lookup(CLASSES)
    assert h.shape == (len(CLASSES), 30, 576) and set(lengths.tolist()) == {30}
    assert all(shipped.answers(CLASSES))
    assert sum(p.stat().st_size for p in (REPO / "knowledge" / "stored" / "phantom").iterdir()) <= 1_000_000
