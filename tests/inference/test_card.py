"""The model card: names are text in it, and every figure has its own number of digits."""

from cilmp.inference.card import card
from cilmp.inference.explain import as_text

NAMES = ["a | b", "<img src=x>", "[c](http://x)"]


def results():
    return {
        "spec": {"method": "CoOp", "dataset": "d", "backbone": "demo", "protocol": "few_shot", "part": "train_all",
                 "shots": 1, "seed": 1, "source": None, "llm": ""},
        "split": "test", "n": 9, "metrics": {"accuracy": 50.04, "kappa": 0.4567}, "ci_unit": "image",
        "ci95": {"accuracy": [40.0, 60.0], "kappa": [0.3123, 0.6123]},
        "per_class": {n: {"accuracy": 50.0, "precision": None, "f1": 0.0, "n": 3} for n in NAMES},
    }  # fmt: skip


def of(**more):
    kept = {"classes": NAMES, "modality": "scan",
            "trained_on": {"classes": NAMES, "labels": {"train_x": [0, 1, 2], "val": []}}}  # fmt: skip
    bundle = {"version": "1", "backbone": {"name": "demo", "folder": "", "sha256": "0"}, "data": {}}
    return card(results() | more, kept, bundle)


def test_names_of_classes_are_text():
    text = of(source_note="see <b>this</b>")
    assert r"| a \| b | 1 | 0 |" in text and r"| a \| b | 50.0 |  | 0.0 | 3 |" in text
    assert "<img" not in text and "<b>" not in text and "[c](" not in text


def test_a_kappa_and_its_interval_have_three_digits():
    assert "| kappa | 0.457 | 0.312 to 0.612 |" in of() and "| accuracy | 50.0 | 40.0 to 60.0 |" in of()


def test_names_and_answers_of_an_explanation_are_text():
    found = {"picture": "heat.png", "check": {"deletion": 0.1, "random": 0.2}, "words": [], "rows": [],
             "said": {"question": "what <i>is</i> it?", "answers": ["<script>alert(1)</script>\n# [x](http://x)"]}}
    text = as_text({"predicted": NAMES[1], "probabilities": {n: 1 / 3 for n in NAMES}, "image": "a_<b>.png",
                    "method": "CoOp", "run": "r", "note": "n", "classes": {n: found for n in NAMES},
                    "nearest": [("x|<b>", 0.5)]})  # fmt: skip
    assert r"| a \| b" in text
    for markup in ("<img", "<b>", "<i>", "<script", "[c](", "[x]("):
        assert markup not in text, markup
