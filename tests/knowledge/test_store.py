"""Looking classes up: names, places, the official folders, and what is said when something is missing."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import knowledge
from dassl.utils.errors import MissingFile, UnknownName, UserError
from dassl.utils.paths import REPO
from knowledge import names, official, store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "SHIPPED", tmp_path / "shipped")


def put(rows, dataset="toys", llm="owner/model", place=store.cached_path):
    path = place(dataset, llm)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(rows, path, metadata={"schema": "1"})
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
    assert text.endswith("python scripts/extract_knowledge.py --dataset 'my set' --llm owner/model")


def test_a_missing_store_is_named_with_the_command_to_run():
    for call in (lambda s: s.lookup(["a"]), lambda s: s.answers(["a"]), lambda s: s.facts()):
        with pytest.raises(UnknownName, match=r"extract_knowledge\.py --dataset toys --llm smollm2-135m --pool tokens"):
            call(knowledge.KnowledgeStore("toys", "smollm2-135m", "tokens"))
    assert not knowledge.available("toys", "smollm2-135m", ["a"])


def test_the_cache_is_read_before_what_is_shipped_and_never_mixed_with_it():
    put({"a": filled(1, 1), "b": filled(1, 1)}, place=store.shipped_path)
    assert knowledge.KnowledgeStore("toys", "owner/model").lookup(["a"])[0][0, 0, 0] == 1
    put({"a": filled(1, 2)})
    assert knowledge.KnowledgeStore("TOYS", "owner/model").lookup(["a"])[0][0, 0, 0] == 2
    assert not knowledge.available("toys", "owner/model", ["a", "b"])


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
    monkeypatch.setattr(store, "SHIPPED", REPO / "knowledge" / "stored")
    from datasets.phantom import CLASSES

    shipped = knowledge.KnowledgeStore("phantom", "smollm2-135m")
    h, lengths = shipped.lookup(CLASSES)
    assert h.shape == (len(CLASSES), 30, 576) and set(lengths.tolist()) == {30}
    assert all(shipped.answers(CLASSES))
    assert sum(p.stat().st_size for p in (REPO / "knowledge" / "stored" / "phantom").iterdir()) <= 1_000_000
