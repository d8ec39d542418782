"""Prediction sets with a promise, temperature, the flag for unlike images: fitted once, used by predict and report."""

import json
import shutil
from fractions import Fraction
from math import ceil
from types import SimpleNamespace

import numpy as np
import pytest

import cilmp
from cilmp.experiments import archive, report
from cilmp.experiments.calibration import FILE
from cilmp.experiments.collect import records
from cilmp.experiments.driver import run_protocol
from cilmp.experiments.predictions import Predictions
from cilmp.experiments.settings import Request
from cilmp.inference import calibrate, calibration, conformal, unlike
from cilmp.inference.export import export
from cilmp.tests.experiments.test_calibration import drawn
from cilmp.tests.experiments.test_finished import make_set, place  # noqa: F401 - a fixture
from dassl.evaluation.figures import WHOLE_VAL
from dassl.utils.errors import UserError
from dassl.utils.io import write_json

pytest.importorskip("crepes", reason="crepes is not installed: pip install 'cilmp[test]'")
NAMES = ["a", "b", "c", "d"]


def predictions(n, seed, groups=()):
    labels, p = drawn(n, 2.0, seed)
    return Predictions(np.array([f"{i:04d}" for i in range(n)]), labels, p.argmax(1), p, np.array(groups, dtype=str))


# ---- sets


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 4, 9, 19, 20, 99, 150])
def test_the_threshold_is_the_order_statistic_of_the_literature(n, level):
    values = np.random.default_rng(n).random(n)
    k = ceil((n + 1) * Fraction(str(level)))
    if k > n:
        with pytest.raises(conformal.TooFew, match=f"it takes {conformal.needed(level)}"):
            conformal.threshold(values, level)
        assert n < conformal.needed(level)
    else:
        assert conformal.threshold(values, level) == np.sort(values)[k - 1] and n >= conformal.needed(level)


def test_how_many_images_a_level_takes():
    assert [conformal.needed(level) for level in (0.8, 0.9, 0.95, 0.99)] == [4, 9, 19, 99]


def test_equal_scores_only_add_to_the_coverage():
    assert conformal.threshold(np.array([0.1] * 5 + [0.5] * 5), 0.5) == 0.5
    assert conformal.threshold(np.full(20, 0.3), 0.9) == 0.3


def test_scores_by_hand():
    p = np.array([[0.2, 0.5, 0.3]])
    assert conformal.scores("lac", p)[0] == pytest.approx([0.8, 0.5, 0.7])
    assert conformal.scores("aps", p)[0] == pytest.approx([1.0, 0.5, 0.8])
    assert conformal.scores("raps", p)[0] == pytest.approx([1.2, 0.5, 0.9])
    assert conformal.scores("aps", p, u=[1.0])[0] == pytest.approx([0.8, 0.0, 0.5])


@pytest.mark.parametrize("method", conformal.METHODS)
@pytest.mark.parametrize("random", [False, True])
def test_coverage_over_many_calibrations(method, random):
    """Of 200 calibrations with 60 images each (of four classes), the mean coverage is the promised one."""
    labels, p = drawn(24_000, 2.0)
    rng, hits = np.random.default_rng(1), []
    u = rng.random(len(p)) if random else None
    for i in rng.permutation(len(p))[: 200 * 120].reshape(200, 120):
        a, b = i[:60], i[60:]
        q = conformal.thresholds(method, 0.8, labels[a], p[a], NAMES, None if u is None else u[a])
        inside = conformal.sets(method, q, p[b], None if u is None else u[b], never_empty=False)
        hits.append(inside[np.arange(60), labels[b]].mean())
    error = np.std(hits) / np.sqrt(len(hits))
    highest = 0.8 + (4 / 16 if method == "class" else 1 / 61)  # of class: 1 / (n of the class + 1), at most 1 / 4 or so
    assert 0.8 - 3 * error <= np.mean(hits) <= highest + 3 * error


def test_class_by_class_keeps_the_promise_where_lac_does_not():
    rng = np.random.default_rng(0)
    labels = (rng.random(6000) < 0.1).astype(int)  # a rare class that the model hardly believes in
    p1 = np.clip(np.where(labels == 1, 0.35, 0.1) + rng.normal(0, 0.1, 6000), 0.001, 0.999)
    p, a, b = np.stack([1 - p1, p1], 1), slice(0, 3000), slice(3000, None)
    covered = {}
    for method in ("lac", "class"):
        inside = conformal.sets(method, conformal.thresholds(method, 0.9, labels[a], p[a], NAMES[:2]), p[b])
        covered[method] = inside[np.arange(3000), labels[b]][labels[b] == 1].mean()
    assert covered["lac"] < 0.7 and covered["class"] > 0.86


def test_too_few_of_a_class_is_said_with_its_name():
    labels, p = np.repeat([0, 1, 2, 3], [9, 9, 8, 9]), np.full((35, 4), 0.25)
    with pytest.raises(conformal.TooFew, match=r"takes 9 calibration images of each class, and there are: c 8;"):
        conformal.thresholds("class", 0.9, labels, p, NAMES)


def test_one_image_a_patient_by_a_seed():
    units = np.array(list("aaabbc"))
    found = [tuple(units[conformal.one_each(units, seed)]) for seed in range(20)]
    assert set(found) == {("a", "b", "c")}
    assert len({tuple(conformal.one_each(units, seed)) for seed in range(20)}) > 3
    assert (conformal.one_each(units, 3) == conformal.one_each(units, 3)).all()


def test_a_set_is_never_empty():
    inside = conformal.sets("lac", [0.1], np.array([[0.5, 0.3, 0.2]]))
    assert inside.tolist() == [[True, False, False]]


def test_patients_not_images_are_counted():
    p = predictions(40, 0, np.repeat(np.arange(8), 5).astype(str))
    found = calibration.fitted(p, NAMES, "lac", 0.9, seed=0)
    assert found["sets"] is None and "8 calibration images are too few for a level of 0.9: it takes 9" in \
        found["why_no_sets"]  # fmt: skip
    assert found["temperature"]["images"] == 40 and found["temperature"]["patients"] == 8
    sets = calibration.fitted(p, NAMES, "lac", 0.8, seed=0)["sets"]
    assert (sets["n"], sets["unit"]) == (8, "patient")


def test_what_a_balanced_choice_took_away_is_told():
    whole = predictions(400, 0)
    left = whole.of(whole.labels != 0)
    sets = calibration.fitted(left, NAMES, "lac", 0.9, 0, whole)["sets"]
    assert sets["shift"] == pytest.approx((whole.labels == 0).mean()) and "87" not in str(sets["level"])
    assert calibration.fitted(whole, NAMES, "lac", 0.9, 0, whole)["sets"]["shift"] == 0


def test_coverage_on_test_is_a_mean_over_patients():
    p = predictions(300, 1, np.concatenate([np.zeros(200), np.arange(1, 101)]).astype(int).astype(str))
    sets = {"method": "lac", "level": 0.9, "thresholds": [0.6]}
    found = calibration.tested(p, sets)
    hit = 1 - p.probabilities[np.arange(300), p.labels] <= 0.6
    hit |= p.predictions == p.labels
    big = p.groups == "0"
    assert found["coverage"] == pytest.approx((hit[big].mean() + hit[~big].sum()) / 101)
    assert found["unit"] == "patient" and found["units"] == 101
    assert found["coverage_ci95"][0] < found["coverage"] < found["coverage_ci95"][1]


# ---- unlike


def test_what_is_far_is_flagged_and_few_of_the_like():
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    like = lambda n: unit(rng.normal([5.0, *[0.0] * 15], 1, (n, 16)))  # noqa: E731
    fitted = unlike.fitted(like(300), np.zeros(300, dtype=int))
    threshold = conformal.threshold(unlike.distances(*fitted, like(200)), unlike.LEVEL)
    assert (unlike.distances(*fitted, like(2000)) > threshold).mean() == pytest.approx(0.05, abs=0.04)
    assert (unlike.distances(*fitted, unit(rng.normal(0, 1, (200, 16)))) > threshold).mean() > 0.95


def test_the_distance_is_mahalanobis_to_the_nearest_class():
    rng = np.random.default_rng(0)
    labels = 2 * rng.integers(0, 2, 40_000)  # a class without images in between
    x = rng.normal(0, 1, (40_000, 3)) @ np.diag([3, 1, 0.5]) + 4 * np.eye(3)[labels]
    means, whitening = unlike.fitted(x, labels)
    assert means.shape == (2, 3)
    within = np.concatenate([x[labels == c] - x[labels == c].mean(0) for c in (0, 2)])
    precision = np.linalg.inv(np.cov(within.T, bias=True))
    far = [min((v - m) @ precision @ (v - m) for m in means) for v in x[:20]]
    assert unlike.distances(means, whitening, x[:20]) == pytest.approx(far, rel=0.02)


def test_fewer_training_images_than_dimensions():
    x = np.random.default_rng(0).normal(0, 1, (8, 64))
    assert np.isfinite(unlike.distances(*unlike.fitted(x, np.arange(8) % 4), x)).all()


# ---- a run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `data`, a set with five val images of each of four classes, and `out`, a run on it."""
    root = tmp_path_factory.mktemp("sure")
    make_set(root / "data")
    path = root / "data" / "mydata" / "split.json"
    split = json.loads(path.read_text())
    moved = [row for label in range(4) for row in [row for row in split["train"] if row[1] == label][:3]]
    split["train"] = [row for row in split["train"] if row not in moved]
    path.write_text(json.dumps(split | {"val": split["val"] + moved}))
    env = {"DATA": str(root / "data"), "BACKBONE": "demo", "EPOCHS": "1", "SHOTS": "2", "METHODS": "CoOp"}
    run_protocol(Request("few_shot", "CoOp", "mydata", (1,), env), output=root / "out")
    return root


@pytest.fixture
def a_run(made, tmp_path, monkeypatch):
    """(root of the data, folder of a run that is this test's own, below tmp_path/out)."""
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    shutil.copytree(made / "out", tmp_path / "out")
    return made, records(tmp_path / "out")[0]["folder"]


def read(folder):
    return json.loads((folder / FILE).read_text())


def test_calibrate_predict_report(a_run, tmp_path, capsys):
    root, folder = a_run
    assert cilmp.load(folder).calibration is None
    assert calibrate.main([str(folder), "--level", "0.8", "--method", "aps"]) == 0
    found, line = read(folder), capsys.readouterr().out
    assert found["sets"]["n"] == found["unlike"]["n"] == 20 and found["test"]["n"] == 8
    assert "aps sets that hold the class of 80 % of new images" in line
    assert set(found["hashes"]) == {"results.json", WHOLE_VAL}

    model = cilmp.load(folder)
    images = [str(p) for p in sorted((root / "data" / "mydata" / "melanoma").glob("*.png"))]
    _, logits, features = model.outputs(images, features=True)
    judged = model.judged(logits, features)
    p = model.predict_proba(images)
    inside = conformal.sets("aps", found["sets"]["thresholds"], p)
    assert [set(s) for s in judged["set"]] == [{c for c, m in zip(model.classes, row) if m} for row in inside]
    assert all(s[0] == name for s, name in zip(judged["set"], model.predict(images)))
    assert all(0.25 <= value <= 1 for value in judged["calibrated"])
    assert len(judged["unlike"]) == len(images)

    report.main([tmp_path / "out"], tmp_path / "r")
    text = (tmp_path / "r" / "report.md").read_text()
    assert "| in the set | set size |" in text and f"| {100 * found['test']['coverage']:.1f} |" in text
    archive.pack(tmp_path / "out", tmp_path / "mine.zip")
    report.main([tmp_path / "mine.zip"], tmp_path / "r2")
    assert (tmp_path / "r2" / "report.md").read_text() == text


def test_a_run_that_kept_nothing_of_val_gets_it_now(a_run):
    _, folder = a_run
    with np.load(folder / WHOLE_VAL) as arrays:
        before = {name: arrays[name] for name in arrays.files}
    (folder / WHOLE_VAL).unlink()
    calibrate.main([str(folder), "--level", "0.8", "--no-unlike"])
    with np.load(folder / WHOLE_VAL) as arrays:
        assert set(arrays.files) == set(before)
        assert arrays["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
        assert all((arrays[name] == before[name]).all() for name in ("paths", "labels", "used", "classes"))


def test_images_of_ones_own(a_run, tmp_path, capsys):
    root, folder = a_run
    split = json.loads((root / "data" / "mydata" / "split.json").read_text())
    table, lines = root / "data" / "mydata" / "ward.csv", [f"{path},{name}" for path, _, name in split["val"]]
    table.write_text("\n".join(["path,label", *lines]) + "\n")
    calibrate.main([str(folder), "--calibrate", str(table)])
    found = read(folder)
    assert found["on"] == str(table) and found["sets"]["n"] == 20 and found["sets"]["level"] == 0.9
    lines += [f"{path},{name}" for path, _, name in split["train"]]
    table.write_text("\n".join(["path,label", *lines]) + "\n")
    with pytest.raises(UserError, match="the model was trained or chosen on 8 of these images, as"):
        calibrate.main([str(folder), "--calibrate", str(table)])
    lines = [f"{path},{name}" for path, _, name in [*split["val"], *split["test"][:3]]]
    table.write_text("\n".join(["path,label", *lines]) + "\n")
    with pytest.raises(UserError, match=r"3 of these images, as .*, are the run's test images"):
        calibrate.main([str(folder), "--calibrate", str(table)])
    table.write_text("path,label\nmelanoma/0.png,wart\nmelanoma/1.png,melanoma\n")
    with pytest.raises(UserError, match="has the class 'wart', the run knows melanoma"):
        calibrate.main([str(folder), "--calibrate", str(table)])
    table.unlink()


def test_a_bundle_says_what_it_was_calibrated_on_and_no_folder(a_run, tmp_path):
    root, folder = a_run
    calibrate.main([str(folder), "--level", "0.8", "--no-unlike"])
    whole = export(folder, tmp_path / "val") / "README.md"
    assert "calibrated on the validation part of its data set" in whole.read_text()
    content = read(folder) | {"on": str(root / "ward.csv"), "why_no_flag": f"no data set in {root / 'data'}"}
    write_json(content, folder / FILE)
    bundle = export(folder, tmp_path / "ward")
    assert "calibrated on ward.csv" in (bundle / "README.md").read_text()
    assert str(root) not in "".join(p.read_text() for p in bundle.glob("*.json"))
    assert read(bundle)["sets"] == content["sets"] and cilmp.load(bundle).calibration["temperature"]


def test_too_few_images_give_no_promise(a_run, capsys):
    _, folder = a_run
    calibrate.main([str(folder), "--level", "0.99", "--no-unlike"])
    assert read(folder)["sets"] is None and read(folder)["test"] is None
    assert "no sets: " in (said := capsys.readouterr().out) and "it takes 99" in said
    assert "set" not in cilmp.load(folder).judged(np.zeros((1, 4), np.float32), None)


def test_data_that_are_gone_leave_temperature_and_sets(a_run, capsys):
    root, folder = a_run
    (root / "data").rename(root / "moved")
    try:
        calibrate.main([str(folder), "--level", "0.8"])
        assert read(folder)["sets"] and read(folder)["unlike"] is None and "no flag: " in capsys.readouterr().out
        calibrate.main([str(folder), "--level", "0.8", "--root", str(root / "moved")])
        assert read(folder)["sets"] and "no flag: " not in capsys.readouterr().out
    finally:
        (root / "moved").rename(root / "data")


def test_answers_given_together_get_no_sets(place):  # noqa: F811
    _, run = place
    (record,) = run("TransCLIP")
    calibrate.main([str(record["folder"]), "--level", "0.8", "--no-unlike"])
    found = read(record["folder"])
    assert found["sets"] is None and "answers all images at once" in found["why_no_sets"] and found["temperature"]


def test_what_can_not_be_calibrated_is_a_line(place, tmp_path):  # noqa: F811
    _, run = place
    new = next(r for r in run(protocol="base2new") if r["spec"]["source"])
    with pytest.raises(UserError, match="tests what another run trained: calibrate that one"):
        calibrate.main([str(new["folder"])])
    with pytest.raises(UserError, match="no finished run in"):
        calibrate.main([str(tmp_path / "nowhere")])
    for level in ("0", "1", "0.2"):
        with pytest.raises(UserError, match="--level"):
            calibrate.main([str(new["folder"]), "--level", level])


def test_without_crepes_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "crepes", None)
    with pytest.raises(UserError, match=r"pip install 'cilmp\[sure\]'"):
        calibrate.main(["anywhere"])


def test_judging_needs_no_crepes(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "crepes", None)
    content = {"classes": NAMES, "temperature": {"value": 2.0}, "unlike": None,
               "sets": {"method": "raps", "thresholds": [0.9], "level": 0.9}}  # fmt: skip
    found = calibration.judged(SimpleNamespace(), content, predictions(5, 2).probabilities, None)
    assert len(found["set"]) == 5 and set(found) == {"calibrated", "set"}


def test_the_benchmark_of_coverage_reads_runs(a_run, tmp_path, capsys):
    from cilmp.benchmarks import coverage

    assert coverage.main([str(tmp_path / "out"), "--level", "0.8", "--splits", "3", "--json", str(tmp_path / "c")]) == 0
    rows = json.loads((tmp_path / "c").read_text())["rows"]
    assert [r["method"] + " randomised" * r["randomised"] for r in rows] == [
        "lac", "aps", "aps randomised", "raps", "raps randomised", "class"]  # fmt: skip
    assert all(r["n"] == 20 and ("why_not" in r or 0 <= r["coverage"] <= 1) for r in rows)
    assert "| mydata | CoOp, 2 shots, seed 1 | 20 | lac |" in capsys.readouterr().out
