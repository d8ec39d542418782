"""The report's page without a browser (tests/chromium has one): what is put in it, and what is kept out."""

import base64
import gzip
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cilmp.experiments import page, pictures, report
from cilmp.experiments.collect import records
from cilmp.experiments.page import mistakes, said
from cilmp.experiments.page.runs import Settings, listed, sparse
from dassl.utils.io import write_json

from . import made_up


@pytest.fixture
def out(tmp_path, monkeypatch):
    """Twelve runs of full and 12 of base2new; pictures are other tests'."""
    monkeypatch.setattr(pictures, "_pictures", lambda *_: ())
    made_up.make(tmp_path / "all", monkeypatch, 96)
    for name in ("full", "base2new"):
        shutil.move(tmp_path / "all" / name, tmp_path / "out" / name)
    return tmp_path / "out"


def content(path):
    """(data, details) of a page, as its script reads them."""
    text = path.read_text()
    data, packed = (re.search(rf'id="{name}">(.*?)</script>', text, re.S)[1] for name in ("data", "details"))
    return json.loads(data), json.loads(gzip.decompress(base64.b64decode(json.loads(packed))))


def made(out):
    report.main([out], out.parent / "report")
    return out.parent / "report" / "index.html"


def test_the_page_says_what_the_results_say(out):
    data, details = content(made(out))
    found = records(out)
    assert [t["protocol"] for t in data["tables"]] == ["base2new", "full"]
    rows = data["runs"]["rows"]
    assert sorted(rows["accuracy"]) == sorted(round(r["metrics"]["accuracy"], 3) for r in found)
    assert len(details["runs"]) == len(found) == len(set(rows["id"]))
    panel = data["tables"][1]["panels"][0]
    assert panel["rows"][0]["top"] and panel["answer"]["top"] == panel["rows"][0]["label"]
    assert [r["value"] for r in panel["rows"]] == sorted((r["value"] for r in panel["rows"]), reverse=True)
    told = [r["label"] for r in panel["rows"] if r["apart"] is False]
    assert panel["answer"]["same"] == told and panel["answer"]["cheapest"] in [panel["answer"]["top"], *told]
    i = rows["id"].index(f"{found[0]['key'][:10]}-{found[0]['seed']}")
    classes, confusion, _, _, _, folder, _ = details["runs"][i]
    assert details["classes"][classes] == found[0]["classes"] and confusion == sparse(found[0]["confusion"])
    assert folder.startswith(found[0]["spec"]["protocol"]) and str(out) not in json.dumps(details)


def test_equal_results_are_an_equal_page(out):
    assert made(out).read_bytes() == made(out).read_bytes()


def test_only_its_own_script_runs_and_no_name_is_markup(out):
    made_up.change(out, made_up.hostile)
    text = made(out).read_text()
    assert text.count("<script") == text.count("</script") == 3 and "<img" not in text
    policy = re.search(r"script-src '(sha256-[^']+)'", text)[1]
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    assert policy == "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in text and "unsafe-eval" not in text
    data, _ = content(out.parent / "report" / "index.html")
    assert any(made_up.NAMES[1] in m for m in data["runs"]["words"]["method"])


def test_markers_and_line_ends_in_names_stay_text():
    text = page.html({"x": "{{script}} {{details}} </script>\u2028 é \ud800"}, {})
    assert text.count("</script>") == 3 and "\\ud800" in text
    data = re.search(r'id="data">(.*?)</script>', text)[1]
    assert data.isascii() and json.loads(data)["x"].startswith("{{script}} {{details}} </script>")


def test_what_is_no_number_is_null():
    assert json.loads(page.plain_json({"a": [float("nan"), float("inf"), 1.5], "b": (True, None)})) == {
        "a": [None, None, 1.5], "b": [True, None]}  # fmt: skip


@pytest.mark.parametrize(("confusion", "kept"), [([[2, 0], [1, 3]], [0, 2, 2, 1, 3, 3]), (None, None), ([], None),
                                                 ([["a"]], None), (7, None)])  # fmt: skip
def test_a_confusion_is_kept_by_what_is_in_it(confusion, kept):
    assert sparse(confusion) == kept


def test_settings_are_what_is_unlike_most():
    runs = [{"group": str(i), "seed": s, "spec": {"settings": {"SEED": s, "A": 1, "B": "x" if i else "y"}}}
            for i in range(3) for s in (1, 2)]  # fmt: skip
    runs[-1]["spec"]["settings"].pop("A")
    found = Settings(runs)
    places = [found.place(r) for r in runs]
    kept = found.content()
    assert kept["usual"]["A"] == "1" and kept["usual"]["B"] == "x"
    assert [kept["settings"][p] for p in places[:3]] == [[{"B": "y"}, []], [{"B": "y"}, []], [{}, []]]
    assert kept["settings"][places[-1]] == [{}, ["A"]] and len(kept["settings"]) == 3


def test_results_of_before_have_a_page(tmp_path, monkeypatch):
    """No classes, confusion, interval, versions or predictions: the row is there, and what is unknown is empty."""
    spec = {"protocol": "full", "dataset": "d", "method": "CoOp", "backbone": "demo", "part": "train_all", "shots": -1,
            "label": "", "source": None, "settings": {"hash": "x"}}  # fmt: skip
    old = {"spec": spec, "dataset": "d", "method": "CoOp", "seed": 1, "key": "k" * 20, "group": "g", "split": "test",
           "metrics": {"accuracy": 50.0, "macro_f1": None}, "cost": {"trainable_parameters": 1}}  # fmt: skip
    table, details = listed([old], {}, mistakes.Worst())
    assert table["rows"]["accuracy"] == [50.0] and table["rows"]["macro_f1"] == [None]
    assert details["runs"][0][:3] == [0, None, None] and details["runs"][0][6] == []


def a_run(folder, paths, dataset="mine"):
    """A run of four images, of which the second and third are wrong, the third more surely so."""
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.2, 0.8]], np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "predictions.npz", paths=np.array(paths), labels=np.array([0, 0, 0, 1]), predictions=p.argmax(1),
             probabilities=p, classes=np.array(["a", "b"]))  # fmt: skip
    return {"folder": folder, "dataset": dataset, "split": "test"}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """mine(licence) -> a run on a data set of one's own under DATA, and its worst mistakes' collector."""
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    files = [f"a/{i}.png" for i in range(3)] + ["b/3.png"]

    def found(licence=None, where=tmp_path / "data" / "mine"):
        place = tmp_path / "data" / "mine"
        for file in files:
            for folder in {place, where}:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (200, 100), "teal").save(folder / file)
        rows = [[f, int(f[0] == "b"), f[0]] for f in files]
        write_json({"train": [rows[0], rows[3]], "val": [], "test": rows[1:3]}, place / "split.json")
        write_json({"licence": licence} if licence else {}, place / "dataset.json")
        worst = mistakes.Worst()
        return worst.of(a_run(tmp_path / "run", [str(where / f) for f in files])), worst.content()

    return found


def test_the_surest_mistakes_come_first(mine):
    wrong, content = mine()
    named = [[content["names"][place], *rest] for place, *rest in wrong]
    assert named == [["a/2.png", 0, 1, 900], ["a/1.png", 0, 1, 600]]


@pytest.mark.parametrize("licence", [None, "CC BY-NC 4.0", "CC BY 4.0 (unsure)", "all rights reserved"])
def test_images_are_kept_out_unless_the_licence_is_known_to_allow_them(mine, licence):
    _, content = mine(licence)
    assert content["pictures"] == {} and content["licences"]["mine"].startswith("Images are not shown")


def test_images_that_may_be_shown_are_small(mine):
    wrong, content = mine("CC BY 4.0")
    assert set(content["pictures"]) == {place for place, *_ in wrong} and "CC BY 4.0" in content["licences"]["mine"]
    jpeg = base64.b64decode(next(iter(content["pictures"].values())))
    assert jpeg[:2] == b"\xff\xd8" and len(jpeg) < 3000


def test_results_from_elsewhere_cannot_name_a_file_of_this_machine(mine, tmp_path):
    """An archive's paths are anybody's: images of other folders stay out, whatever the licence."""
    _, content = mine("CC0", where=tmp_path / "home" / "private")
    assert content["pictures"] == {}
    _, content = mine("CC0", where=tmp_path / "data" / "mine" / ".." / ".." / "home" / "private")
    assert content["pictures"] == {}


@pytest.mark.parametrize("change", [{"labels": [0, 0]}, {"predictions": [9, 9, 9, 9]}, {"probabilities": [[1.0]]}])
def test_predictions_of_no_use_have_no_mistakes(tmp_path, change):
    run = a_run(tmp_path, [f"/x/{i}.png" for i in range(4)])
    with np.load(tmp_path / "predictions.npz") as arrays:
        arrays = dict(arrays)
    np.savez(tmp_path / "predictions.npz", **arrays | {k: np.array(v) for k, v in change.items()})
    assert mistakes.Worst().of(run) == []
    (tmp_path / "predictions.npz").write_bytes(b"torn")
    assert mistakes.Worst().of(run) == []


def test_what_the_language_model_said_is_found_by_method(tmp_path):
    run = {"dataset": "phantom", "llm": "smollm2-135m", "classes": ["melanoma", "malaria"]}
    rows, sentences = ({"spec": {"method": m}} | run for m in ("CILMP", "BiomedCoOp"))
    found = said.of_runs([rows, sentences, {"llm": None}])
    cilmp, ensemble = (found[f"phantom|smollm2-135m|{m}"] for m in ("CILMP", "BiomedCoOp"))
    assert set(cilmp["classes"]) == {"melanoma", "malaria"} and "asked:" in cilmp["note"]
    assert "sentences of each class" in ensemble["note"] and ensemble["classes"]["malaria"]


def test_words_that_are_not_here_are_said_so():
    run = {"dataset": "nowhere", "llm": "none-such", "classes": ["a"], "spec": {"method": "CILMP"}}
    assert said.of_runs([run])["nowhere|none-such|CILMP"]["note"].startswith("Not found here")
