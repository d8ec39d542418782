"""docs/results.md against real runs: keys of results.json, of its spec, costs, metrics, and the files of a folder."""

import json
import re

import pytest

from cilmp.experiments.driver import run_protocol
from cilmp.experiments.reads import WORDS
from cilmp.experiments.settings import Request
from cilmp.tests.docs.pages import rows, section, words
from cilmp.tests.experiments.test_finished import make_set
from dassl.utils.paths import REPO

PAGE = (REPO / "docs" / "results.md").read_text(encoding="utf-8")
KEYS = {words(row[0])[i]: row[1] for row in rows(section(PAGE, "## results.json")) for i in range(len(words(row[0])))}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(output folder, [results.json of a training, a zero-shot run, a test on other classes, one on another set])."""
    place, patch = tmp_path_factory.mktemp("pages"), pytest.MonkeyPatch()
    patch.setenv("CILMP_CACHE", str(place / "cache"))
    make_set(place / "data")
    make_set(place / "data", "other", seed=3)
    env = {"DATA": str(place / "data"), "BACKBONE": "demo", "EPOCHS": "1", "SHOTS": "2", "TARGETS": "other",
           "METHODS": "ZeroshotCLIP CoOp", "OPTS": "DATALOADER.TRAIN_X.BATCH_SIZE 4"}  # fmt: skip
    for protocol in ("base2new", "cross_dataset"):
        run_protocol(Request(protocol, "CoOp", "mydata", [1], env), output=place / "out")
    patch.undo()
    return place / "out", [json.loads(p.read_text()) for p in sorted(place.glob("out/**/results.json"))]


def test_the_keys_of_results_are_those_of_the_page(found):
    keys = set().union(*found[1])
    assert keys == set(KEYS), keys ^ set(KEYS)
    for r in found[1]:
        assert r["schema"] == 2 and set(KEYS) - set(r) <= {"source_sha256", "source_dataset"}


def test_a_test_says_the_steps_of_the_training_it_tests(found):
    tests = [r for r in found[1] if r["spec"]["source"]]
    assert {r["cost"]["steps"] for r in tests if r["method"] == "ZeroshotCLIP"} == {0}
    trained = {r["key"]: r["cost"]["steps"] for r in found[1]}
    for r in (r for r in tests if r["method"] == "CoOp"):
        assert r["cost"]["steps"] == trained[r["spec"]["source"]["key"]] > 0


@pytest.mark.parametrize("key", ["metrics", "cost", "per_class"])
def test_what_is_inside_is_named(found, key):
    for r in found[1]:
        inside = next(iter(r[key].values())) if key == "per_class" else r[key]
        assert set(inside) == set(words(KEYS[key])) - {"null"}


def test_the_spec_is_named(found):
    said = re.search(r"^`spec` holds (.*?)\n\n", PAGE, re.M | re.S)[1]
    source = re.search(r"`source` \((.*?)\)", said, re.S)
    named = set(words(said.replace(source[1], "")))
    for r in found[1]:
        assert set(r["spec"]) == named
        assert r["spec"]["source"] is None or set(r["spec"]["source"]) == set(words(source[1]))
    assert any(r["spec"]["source"] for r in found[1])


def test_what_is_read_is_named(found):
    named = set(words(KEYS["reads"]))
    assert {k for r in found[1] for k in r["reads"]} <= named
    assert {*WORDS, "split"} - {"root"} == named


def test_the_files_of_a_run_are_named(found):
    files = {f.relative_to(r.parent).as_posix() for r in found[0].rglob("results.json")
             for f in r.parent.rglob("*") if f.is_file()}  # fmt: skip
    named = [w for row in rows(PAGE.split("## results.json")[0]) for w in words(row[0])]
    for file in files:
        known = file in named or f"prompt_learner/{file.rpartition('/')[2]}" in named
        known |= file.startswith("tensorboard/") or file.startswith("prompt_learner/model.pth.tar-")
        assert known or file == "prompt_learner/checkpoint", file


def test_the_pages_python_runs(found, capsys, monkeypatch):
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
    monkeypatch.chdir(found[0].parent)
    exec(code.replace('"output"', '"out"'), {})
    assert capsys.readouterr().out.count("CoOp") >= 4
