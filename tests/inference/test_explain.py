"""cilmp explain and model.explain: rows, words, similar images, files; each fact compared with its plain form."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import cilmp
from cilmp.__main__ import main as command
from cilmp.backbones.rank import RankKV
from cilmp.inference import explain_maps as maps
from cilmp.inference import explain_rows as rows
from cilmp.inference.explain import as_text
from cilmp.tests.backbones.small_models import images, small
from cilmp.tests.inference.runs import NAMES, finished_run
from cilmp.tests.inference.test_explain_maps import model_of
from cilmp.tests.trainers import cilmp_cases as cases
from cilmp.tests.trainers import plain_methods as plain
from cilmp.trainers.coop import CoOp
from cilmp.trainers.learner import unit
from dassl.utils.errors import UnknownName, UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a CILMP run, image paths)."""
    return finished_run("CILMP", tmp_path_factory.mktemp("cilmp"))[:2]


@pytest.fixture(scope="module")
def model(run):
    return cilmp.load(run[0], device="cpu")


@pytest.fixture
def ragged():
    """What rows ask of a Model, of a small CILMP learner with 9, 11 and 8 rows."""
    learner = cases.learner(small("openai"), plain.NAMES[:3], cases.rows([9, 11, 8], 16)).eval()
    cases.wake(learner)
    found = model_of(learner)
    found.image_features = lambda x: unit(learner.visual.encode(x))
    return found


# ---- LLM rows


def test_rows_are_those_of_the_class(ragged):
    x = images("openai", 1)[0]
    for c, count in enumerate((9, 11, 8)):
        found = rows.rows_leaned_on(ragged, x, c)
        parts = ["prefix"] * 4 + ["between"] * (count - 8) + ["suffix"] * 4
        assert [r["row"] for r in found] == list(range(count)) and [r["part"] for r in found] == parts
        assert all(r["contribution"] != 0 for r in found)
        assert all((r["moved"] > 0) == (r["part"] != "between") == (r["moved_by_image"] > 0) for r in found)


def test_contributions_are_slopes(ragged, monkeypatch):
    """A little more of a class's attention to the prefix: its log-odds move by that share of the contributions."""
    x, learner, c, eps = images("openai", 1)[0], ragged.trainer.model, 1, 1e-2
    own, odds = RankKV.mix, []
    gains = rows.contributions(ragged, x, c)
    assert RankKV.mix is own and [len(g) for g in gains] == [4, 3, 4] and abs(gains[0].sum()) > 1e-3
    for sign in (1, -1):
        calls = itertools.count()

        def more(self, a, calls=calls, sign=sign):
            if next(calls) % 3 == 0:
                a = torch.cat([a[:, i : i + 1] * (1 + sign * eps * (i == c)) for i in range(a.shape[1])], dim=1)
            return own(self, a)

        monkeypatch.setattr(RankKV, "mix", more)
        with torch.no_grad():
            odds.append(maps.log_odds(learner(x[None]))[0, c])
    slope = float(odds[0] - odds[1]) / (2 * eps)
    assert slope == pytest.approx(float(gains[0].sum()), rel=0.02, abs=1e-3)


def test_how_the_gate_moved_a_row(ragged):
    """|e - h| / |h| of e written out, D numbers a row: e = h + R (W_s [h ; g * h] + b_s - R' h)."""
    learner, c = ragged.trainer.model, 2
    v = ragged.image_features(images("openai", 1))
    module, h, moved = learner.suffix, learner.h_suffix[c], []
    for j in range(learner.depth):
        R = module.rotate[j]
        g = module.up[j] @ (module.down[j] @ v[0] + module.down_bias[j]) + module.up_bias[j]
        q = torch.cat([h, g * h], dim=-1) @ module.source[j].T + module.source_bias[j]
        moved.append(((q - h @ R) @ R.T).norm(dim=-1) / h.norm(dim=-1))
    found, by_image = rows.interventions(learner, "suffix", v, c)
    assert torch.allclose(found, torch.stack(moved).mean(0), rtol=1e-4) and (by_image > 0).all()


def test_without_a_gate_no_image_moves_a_row():
    learner = cases.learner(small("openai"), plain.NAMES[:3], cases.rows([9, 11, 8], 16), CONDITIONAL=False).eval()
    x = images("openai", 1)
    moved, by_image = rows.interventions(learner, "prefix", unit(learner.visual.encode(x)), 0)
    assert [len(g) for g in rows.contributions(model_of(learner), x[0], 0)] == [4, 3, 4]
    assert (moved > 0).all() and not by_image.any()


# ---- words


@pytest.mark.parametrize("specific", [False, True])
def test_words_of_a_context(specific):
    """Contexts that are words are those words, at no distance; class-specific ones are the class's own."""
    options = {"CSC": True, "N_CTX": 3} if specific else {"CTX_INIT": "photo of skin"}
    ours = plain.learner(CoOp, **options)
    if specific:
        with torch.no_grad():
            ours.ctx[2] = ours.clip.text.embed_words("photo of skin")
    found = model_of(ours)
    found.trainer.node = ours.node
    near = rows.words(found, 2)
    assert [vector[0] for vector in near] == [("photo", 0.0), ("of", 0.0), ("skin", 0.0)]
    assert all(len(vector) == rows.NEAREST for vector in near)
    if specific:
        assert rows.words(found, 1) != near


def test_methods_without_rows_or_context(tmp_path):
    from cilmp.tests.trainers.test_every_method import learner

    found = model_of(learner("VPT", "openai", tmp_path))
    assert rows.words(found, 0) == [] == rows.rows_leaned_on(found, images("openai", 1)[0], 0)


# ---- what the language model said


def test_what_was_said(tmp_path):
    from safetensors.torch import save_file

    metadata = {"questions": json.dumps({"heart": "What is a heart?"}), "answers": json.dumps({"heart": "A muscle."})}
    save_file({"heart": torch.zeros(2, 3)}, str(tmp_path / "knowledge.safetensors"), metadata)
    found = SimpleNamespace(folder=tmp_path, kept={"knowledge_names": ["heart", "liver"]})
    assert rows.said(found, 0) == {"question": "What is a heart?", "answers": ["A muscle."]}
    assert rows.said(found, 1)["answers"] == []
    (tmp_path / "sentences.json").write_text(json.dumps({"heart": ["It beats."], "liver": []}))
    assert rows.said(found, 0)["answers"] == ["It beats."]


# ---- the whole


def test_explain_from_python(run, model):
    path = run[1][0]
    found = model.explain(path, among=run[1])
    assert found.probabilities[found.predicted] == pytest.approx(model.predict_proba([path])[0].max(), abs=1e-5)
    assert list(found.classes) == [found.predicted] == list(model.predict([path]))
    only = found.classes[found.predicted]
    assert only.heat.shape == (64, 64) and only.heat.max() <= 1 and len(only.rows) == 10 and len(only.words) == 4
    assert 0 < only.check["deletion"] < 1 and 0 < only.check["random"] < 1
    assert found.nearest[0] == (path, 1.0) and len(found.nearest) == 3
    assert np.abs(np.asarray(found.image, int) - np.asarray(next(seen_by_hand(model, path)), int)).max() <= 1
    again = model.explain(Image.open(path), classes=["heart", "liver"])
    assert list(again.classes) == ["heart", "liver"] and again.nearest is None
    assert np.array_equal(again.classes["liver"].heat, model.explain(path, ["liver"]).classes["liver"].heat)


def seen_by_hand(model, path):
    size = model.trainer.cfg.INPUT.SIZE[0]
    yield Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "why"
    words = ["explain", str(run[0]), run[1][0], "--out", str(out), "--class", "heart", "--device", "cpu"]
    assert command(words) == 0 and "Written" in capsys.readouterr().out
    files = ["explanation.json", "explanation.md", "heat-1-heart.png", "seen.png"]
    assert sorted(p.name for p in out.iterdir()) == files
    record, text = json.loads((out / "explanation.json").read_text()), (out / "explanation.md").read_text()
    assert list(record["probabilities"]) == NAMES and record["nearest"] is None and text == as_text(record)
    assert "--among" in text and "no medical device" in text and "(heat-1-heart.png)" in text
    assert Image.open(out / "heat-1-heart.png").size == (384, 384)
    with pytest.raises(UserError, match="not empty"):
        command(words)
    with pytest.raises(UserError, match="not empty"):
        cilmp.load(run[0], device="cpu").explain(run[1][0]).save(out)


@pytest.mark.parametrize("change, error, reason", [
    ({"class": "hearts"}, UnknownName, "unknown class 'hearts' - did you mean 'heart'"),
    ({"image": "no.png"}, UserError, "no.png"),
    ({"among": "nowhere"}, UserError, "no image, folder or table nowhere"),
])  # fmt: skip
def test_bad_input_leaves_nothing(change, error, reason, run, tmp_path):
    words = ["explain", str(run[0]), change.get("image", run[1][0]), "--out", str(tmp_path / "why"),
             "--class", change.get("class", "heart")]  # fmt: skip
    words += ["--among", change["among"]] if "among" in change else []
    with pytest.raises(error, match=reason) as refused:
        command(words)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())
