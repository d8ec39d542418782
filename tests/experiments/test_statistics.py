"""Statistics against hand-worked values, SciPy, scikit-learn and real resamplings; and what bad input gives."""

import json
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from cilmp.experiments import calibration, over_sets, pairs, report, statistics, tables
from cilmp.experiments.collect import records
from cilmp.protocols import PROTOCOLS
from dassl.evaluation.figures import METRICS

from .test_tables import record

CLASSES, N = 3, 120


def drawn(seed=0, classes=CLASSES, n=N, signal=1.0, runs=1):
    """labels (n,), probabilities (runs, n, classes)."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    z = rng.normal(size=(runs, n, classes)) + signal * np.eye(classes)[labels]
    p = np.exp(z)
    return labels, p / p.sum(2, keepdims=True)


def of(name, labels, p, units=None):
    return statistics.figure(name, labels, p.argmax(2), p, np.arange(len(labels)) if units is None else units)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", statistics.FIGURES)
def test_figures_are_those_of_results(name, classes):
    labels, p = drawn(classes=classes, runs=3)
    expected = [METRICS[name].compute(labels, one) for one in p]
    np.testing.assert_allclose(of(name, labels, p)[0], expected, atol=1e-9)


@pytest.mark.parametrize("name", statistics.FIGURES)
def test_figures_with_classes_that_no_image_has(name):
    labels, p = drawn(classes=4)
    there = labels < 2
    found, expected = of(name, labels[there], p[:, there]), METRICS[name].compute(labels[there], p[0, there])
    assert (found is None) == (expected is None) == (name == "auroc")
    assert found is None or found[0][0] == pytest.approx(expected)


@pytest.mark.parametrize("name", statistics.FIGURES)
def test_slopes_are_the_bootstraps_deviation(name):
    """Over patients of 1 to 4 images: as 1,000 real resamplings of whole patients, and none moves all figures."""
    labels, p = drawn(1, n=240)
    rng = np.random.default_rng(2)
    units = np.unique(rng.integers(0, 100, size=240), return_inverse=True)[1]
    slopes = of(name, labels, p, units)[1][0]
    members = [np.flatnonzero(units == g) for g in range(units.max() + 1)]
    values = []
    for _ in range(1000):
        again = np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])
        values.append(of(name, labels[again], p[:, again])[0][0])
    assert np.sqrt((slopes**2).sum()) == pytest.approx(np.std(values), rel=0.1)
    assert slopes.sum() == pytest.approx(0, abs=1e-9)


def test_auroc_deviation_is_delongs():
    """DeLong's variance from its structural components, by loops."""
    labels, p = drawn(3, classes=2)
    x, y = p[0, labels == 1, 1], p[0, labels == 0, 1]
    kernel = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    m, n = kernel.shape
    delong = kernel.mean(1).var(ddof=1) / m + kernel.mean(0).var(ddof=1) / n
    slopes = of("auroc", labels, p)[1][0] / 100
    inside = labels == 1
    mine = (slopes[inside] ** 2).sum() * m / (m - 1) + (slopes[~inside] ** 2).sum() * n / (n - 1)
    assert mine == pytest.approx(delong)


def test_one_seed_is_a_paired_t_test_over_images():
    labels, p = drawn(4, runs=2)
    values, slopes = of("accuracy", labels, p)
    found = statistics.compare(values[:1] - values[1:], slopes[:1] - slopes[1:])
    right = (p.argmax(2) == labels).astype(float)
    expected = stats.ttest_rel(100 * right[0], 100 * right[1])
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_seeds_by_hand():
    """Differences 1, 2, 6 (mean 3, M = 7), patients that move nothing: t = 3 / sqrt(7 / 3) on 2 degrees of freedom.
    Then patients' slopes (1, -1, 0, 0) of all seeds alike: c = 2 * 4/3, error^2 = 7/3 + 8/3 = 5."""
    values = np.array([1.0, 2.0, 6.0])
    still = statistics.compare(values, np.zeros((3, 40)))
    assert (still.difference, still.df) == (3, pytest.approx(2))
    assert still.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    moved = statistics.compare(values, np.tile([1.0, -1, 0, 0], (3, 1)))
    assert moved.error**2 == pytest.approx(5)
    assert moved.df == pytest.approx(5 / ((7 / 3) / 2 + (8 / 3) / 3))


def test_one_trained_model_in_place_of_all_seeds_is_one_seed():
    """A method without randomness gains nothing from more seeds."""
    labels, p = drawn(5, runs=2)
    values, slopes = of("macro_f1", labels, p)
    one = statistics.compare(values[:1] - values[1:], slopes[:1] - slopes[1:])
    ten = statistics.compare(np.repeat(values[0] - values[1], 10), np.repeat(slopes[:1] - slopes[1:], 10, 0))
    assert (ten.error, ten.p) == (pytest.approx(one.error), pytest.approx(one.p))


def test_who_is_first_changes_signs_alone():
    labels, p = drawn(6, runs=6)
    values, slopes = of("auroc", labels, p)
    a, b = (statistics.compare(s * (values[:3] - values[3:]), s * (slopes[:3] - slopes[3:])) for s in (1, -1))
    assert (a.difference, a.low, a.high, a.p) == pytest.approx((-b.difference, -b.high, -b.low, b.p))


def test_no_evidence_and_all_evidence():
    nothing = statistics.compare(np.zeros(3), np.zeros((3, 10)))
    assert (nothing.difference, nothing.p, nothing.low, nothing.high) == (0, 1, 0, 0)
    assert statistics.compare(np.full(3, 100.0), np.zeros((3, 4))).p == 2**-3  # 4 patients that all agree


def test_holm_by_hand():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]).shape == (0,)


def test_false_claims_by_hand():
    """3 images only A gets right, 1 only B: P(Beta(4, 2) < 1/2) = 6/32. Each twice, of the same patients: the same."""
    a, b = np.array([[1, 1, 1, 0, 1, 0]], bool), np.array([[0, 0, 0, 1, 1, 0]], bool)
    assert statistics.false_claim(a, b, np.arange(6)) == pytest.approx(6 / 32)
    assert statistics.false_claim(b, a, np.arange(6)) == pytest.approx(26 / 32)
    twice = partial(np.repeat, repeats=2, axis=1)
    assert statistics.false_claim(twice(a), twice(b), np.arange(6).repeat(2)) == pytest.approx(6 / 32)
    seeds = np.concatenate([a, b]), np.concatenate([b, a])
    assert statistics.false_claim(*seeds, np.arange(6)) == pytest.approx(0.5)  # averaged over seeds


def test_false_claims_are_those_of_a_dirichlet_posterior():
    rng = np.random.default_rng(7)
    a, b = rng.random((2, 1, 60)) < 0.6
    only_a, only_b = (a & ~b).sum(), (b & ~a).sum()
    draws = rng.dirichlet([only_a + 1, only_b + 1, 60 - only_a - only_b + 2], size=200_000)
    assert statistics.false_claim(a, b, np.arange(60)) == pytest.approx((draws[:, 0] <= draws[:, 1]).mean(), abs=0.005)


def test_friedman_and_nemenyi_of_demsars_example():
    """Demsar (2006), table 6: four methods on 14 sets, average ranks and critical difference as printed there (.9751:
    printed .975 twice, ranked 2 and 3)."""
    auc = np.array([
        [.763, .768, .771, .798], [.599, .591, .590, .569], [.954, .971, .968, .967], [.628, .661, .654, .657],
        [.882, .888, .886, .898], [.936, .931, .916, .931], [.661, .668, .609, .685], [.583, .583, .563, .625],
        [.775, .838, .866, .875], [1., 1., 1., 1.], [.940, .962, .965, .962], [.619, .666, .614, .669],
        [.972, .981, .9751, .975], [.957, .978, .946, .970]])  # fmt: skip
    p, ranks, reach = statistics.friedman(auc)
    np.testing.assert_allclose(ranks, [3.143, 2.0, 2.893, 1.964], atol=1e-3)
    assert p == pytest.approx(stats.friedmanchisquare(*auc.T).pvalue) and p < 0.05
    assert reach == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=2e-3)
    assert statistics.wilcoxon(auc)[0, 1] == pytest.approx(
        statistics.holm([stats.wilcoxon(auc[:, a] - auc[:, b]).pvalue for a, b in combinations(range(4), 2)])[0])


def test_calibration_by_hand():
    """Two images: 0.8 on the right class, 0.6 on the wrong one of two."""
    labels, p = np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]])
    assert calibration.nll(labels, p) == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert calibration.brier(labels, p) == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)
    assert calibration.ece(labels, p) == pytest.approx(100 * (0.2 + 0.6) / 2)
    assert calibration.classwise_ece(labels, p) == pytest.approx(100 * (0.2 + 0.6) / 2)
    assert np.isfinite(calibration.nll(labels, np.array([[1.0, 0.0], [1.0, 0.0]])))


def test_calibration_of_many_images():
    labels, p = drawn(8, n=600)
    assert calibration.nll(labels, p[0]) == pytest.approx(metrics.log_loss(labels, p[0]))
    assert calibration.ece(labels, p[0]) == pytest.approx(METRICS["ece"].compute(labels, p[0]), abs=1e-3)


def runs(tmp_path, methods=None, seeds=(1, 2, 3, 4, 5), protocol="full", part="train_all", patients=True, shots=-1,
         dataset="d", n=N):  # fmt: skip
    """Records with predictions beside: methods {name: signal}."""
    found = []
    for m, (method, signal) in enumerate((methods or {"A": 3.0, "B": 2.8, "C": 0.2}).items()):
        for seed in seeds:
            labels, p = drawn(100, n=n)  # what all methods share of an image
            z = np.log(p[0]) + np.random.default_rng([m, seed]).normal(size=p[0].shape) * 0.5
            p = np.exp(z + signal * np.eye(CLASSES)[labels])
            p /= p.sum(1, keepdims=True)
            made = record(method, seed, part, 100 * (p.argmax(1) == labels).mean(), shots=shots, dataset=dataset,
                          settings={"SEED": 0})  # fmt: skip
            made["spec"]["protocol"] = protocol
            made["folder"] = tmp_path / dataset / method / f"{shots}-{seed}-{part}"
            made["folder"].mkdir(parents=True)
            made["split_sha256"] = f"{dataset}-{part}-{seed}-{shots}"
            arrays = {"paths": [f"/x/{part}/{i:04d}.png" for i in range(n)], "labels": labels,
                      "predictions": p.argmax(1), "probabilities": p.astype(np.float32), "classes": ["a", "b", "c"],
                      "groups": [f"g{i // 2}" for i in range(n)] if patients else []}  # fmt: skip
            np.savez(made["folder"] / "predictions.npz", **{k: np.array(v) for k, v in arrays.items()})
            found.append(made)
    return found


def rewrite(run, **changes):
    path = run["folder"] / "predictions.npz"
    with np.load(path) as arrays:
        content = dict(arrays) | changes
    np.savez(path, **content)


def build(found, protocol="full"):
    return tables.build(PROTOCOLS[protocol], found, "a title")


def pair_of(table, a, b, figure="accuracy", column="test"):
    return next(p for p in table["pairs"] if (p["a"], p["b"], p["figure"], p["column"]) == (a, b, figure, column))


def test_all_that_cannot_be_told_apart_are_best(tmp_path):
    table = build(runs(tmp_path))
    assert table["best"] == {(0, 0): "best", (1, 0): "best", (2, 0): "second",
                             (0, 1): "best", (1, 1): "best", (2, 1): "second"}  # fmt: skip
    assert {p["unit"] for p in table["pairs"]} == {"patient"} and {p["units"] for p in table["pairs"]} == {60}
    assert any(n.startswith("Marked best (bold): all that can't be told apart") for n in table["notes"])
    (answer,) = pairs.answers(PROTOCOLS["full"], table)
    assert "A can't be told apart from the highest, B" in answer and "C" not in answer
    assert "5 seeds x 60 patients" in answer


def test_a_pair_is_compare_of_its_figures(tmp_path):
    found = runs(tmp_path)
    pair = pair_of(build(found), "A", "C", "macro_f1")
    loaded = {m: [np.load(r["folder"] / "predictions.npz") for r in found if r["spec"]["method"] == m] for m in "AC"}
    p, labels = [np.stack([one["probabilities"] for one in loaded[m]]) for m in "AC"], loaded["A"][0]["labels"]
    (a, slope_a), (c, slope_c) = (of("macro_f1", labels, one, np.arange(N) // 2) for one in p)
    expected = statistics.compare(a - c, slope_a - slope_c)
    assert [pair[k] for k in ("difference", "low", "high", "p")] == pytest.approx(
        [expected.difference, expected.low, expected.high, expected.p], rel=1e-5)  # fmt: skip


def test_holm_is_over_the_pairs_of_a_figure_a_column_and_shots(tmp_path):
    found = runs(tmp_path, protocol="few_shot", shots=1) + runs(tmp_path, protocol="few_shot", shots=4)
    table = build(found, "few_shot")
    assert len(table["pairs"]) == 2 * 3 * len(statistics.FIGURES)  # none between numbers of shots
    own = [p for p in table["pairs"] if p["shots"] == 4 and p["figure"] == "auroc"]
    np.testing.assert_allclose([p["holm"] for p in own], statistics.holm([p["p"] for p in own]))
    assert [table["best"].get((i, 0)) for i in range(6)].count("best") == 4  # two of each number of shots


def test_h_is_compared_over_both_halves(tmp_path):
    """dH/dbase = 2 new^2 / (base + new)^2: the delta method, by hand."""
    found = runs(tmp_path, protocol="base2new", part="train_base", shots=16)
    found += runs(tmp_path, {"A": 2.0, "B": 0.0, "C": 1.0}, protocol="base2new", part="test_new", shots=16)
    table = build(found, "base2new")
    h = pair_of(table, "A", "B", column="H")
    assert h["units"] == 60 and h["false_claim"] is None  # the same patients in both halves
    own = [{part: {r["seed"]: r["metrics"]["accuracy"] for r in found
                   if r["spec"]["method"] == m and r["spec"]["part"] == part}
            for part in ("train_base", "test_new")} for m in "AB"]  # fmt: skip
    figures = [PROTOCOLS["base2new"].figures(values)["H"][0] for values in own]
    assert h["difference"] == pytest.approx(figures[0] - figures[1], abs=1e-6)
    moved = []
    for values in own:
        base, new = (np.array(list(values[part].values())) for part in ("train_base", "test_new"))
        b, n = base.mean(), new.mean()
        moved.append((2 * n**2 * base + 2 * b**2 * new) / (b + n) ** 2)
    assert (h["high"] - h["low"]) / 2 > 1.96 * np.sqrt(np.var(moved[0] - moved[1], ddof=1) / 5)


def test_fewer_than_five_seeds_and_one_seed_are_said(tmp_path):
    assert any("Fewer than 5 seeds (3)" in n for n in build(runs(tmp_path / "a", seeds=(1, 2, 3)))["notes"])
    one = build(runs(tmp_path / "b", seeds=(7,)))
    assert any(n.startswith("One seed, trained models are told apart") for n in one["notes"])
    assert not any("seeds (" in n for n in build(runs(tmp_path / "c"))["notes"])


def test_a_method_with_half_its_runs_is_compared_on_them(tmp_path):
    found = runs(tmp_path, {"A": 3.6, "B": 2.6, "C": 0.2})
    found = [r for r in found if r["spec"]["method"] != "B" or r["seed"] in (2, 4)]
    table = build(found)
    assert (pair_of(table, "A", "B")["seeds"], pair_of(table, "A", "C")["seeds"]) == (2, 5)
    assert any("Fewer than 5 seeds (2)" in n for n in table["notes"])
    assert "2-5 seeds" in pairs.answers(PROTOCOLS["full"], table)[0]


def test_methods_without_a_common_seed_are_not_compared(tmp_path):
    found = runs(tmp_path, {"A": 3.6, "B": 2.6, "C": 0.2})
    table = build([r for r in found if (r["seed"] < 3) == (r["spec"]["method"] == "B")])
    assert {(p["a"], p["b"]) for p in table["pairs"]} == {("A", "C")}
    assert "not compared: B" in pairs.answers(PROTOCOLS["full"], table)[0]


def test_missing_predictions_keep_the_marks_and_are_said(tmp_path):
    found = runs(tmp_path)
    for run in found:
        (run["folder"] / "predictions.npz").unlink()
    table = build(found)
    assert table["pairs"] == [] and list(table["best"].values()).count("best") == 2  # one of each column
    assert any(n.startswith("Marked best (bold): the best figure alone") for n in table["notes"])
    assert "nothing can be said" in pairs.answers(PROTOCOLS["full"], table)[0]


@pytest.mark.parametrize("content", [b"", b"PK no zip", None])
def test_broken_predictions_are_left_out_and_said(tmp_path, content):
    found = runs(tmp_path)
    path = found[0]["folder"] / "predictions.npz"
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    table = build(found)
    assert pair_of(table, "A", "C")["seeds"] == 4
    assert any("can't be read" in n and "A, seeds 1" in n for n in table["notes"])


@pytest.mark.parametrize("change", [{"labels": np.full(N, 9)}, {"predictions": np.full(N, -1)}, {"labels": np.zeros(3)},
                                    {"probabilities": np.full((N, CLASSES), np.nan)}, {"paths": np.arange(N)},
                                    {"probabilities": np.zeros(N)}, {"groups": np.array(["a"])}])  # fmt: skip
def test_nonsense_is_left_out_and_said(tmp_path, change):
    found = runs(tmp_path)
    rewrite(found[0], **change)
    table = build(found)
    assert pair_of(table, "A", "C")["seeds"] == 4 and any("can't be read" in n for n in table["notes"])


def test_predictions_of_other_images_are_left_out_and_said(tmp_path):
    found = runs(tmp_path)
    rewrite(found[1], paths=np.array([f"/x/other/{i}.jpg" for i in range(N)]))
    rewrite(found[2], labels=np.load(found[2]["folder"] / "predictions.npz")["labels"][::-1])
    table = build(found)
    assert pair_of(table, "A", "C")["seeds"] == 3
    assert "Not compared, predictions of other images: A, seeds 2 3." in table["notes"]


def test_neither_the_order_of_images_nor_where_they_lay_matters(tmp_path):
    one, two = (build(found := runs(tmp_path / k)) for k in "ab")
    found = runs(tmp_path / "c")
    order = np.random.default_rng(0).permutation(N)
    with np.load(found[0]["folder"] / "predictions.npz") as arrays:
        moved = {k: v[order] for k, v in arrays.items() if k != "classes"}
    moved["paths"] = np.array([p.replace("/x/", "/elsewhere/there/") for p in moved["paths"]])
    rewrite(found[0], **moved)
    assert one["pairs"] == two["pairs"] == build(found)["pairs"]


def test_without_patients_images_are_resampled(tmp_path):
    table = build(runs(tmp_path, patients=False))
    assert {(p["unit"], p["units"]) for p in table["pairs"]} == {("image", N)}


def test_patients_that_older_predictions_do_not_hold_are_said(tmp_path):
    found = [{**r, "ci_unit": "group"} for r in runs(tmp_path, patients=False)]
    assert any(n.startswith("Patients are known, but these predictions") for n in build(found)["notes"])
    some = [{**r, "ci_unit": "group"} for r in runs(tmp_path / "b")]
    rewrite(some[0], groups=np.array([], dtype=str))  # one older run among others: the others' patients are its too
    table = build(some)
    assert {p["unit"] for p in table["pairs"]} == {"patient"} and not any("Patients are" in n for n in table["notes"])


def test_of_several_sets(tmp_path):
    made = {}
    for k in range(11):
        made[f"set{k}"] = build(runs(tmp_path, {"A": 3 + k / 10, "B": 1.5, "C": 0.0}, seeds=(1,), dataset=f"set{k}"))
    (two,) = over_sets.summaries(PROTOCOLS["full"], dict(list(made.items())[:2]))
    assert [r["rank"] for r in two["rows"]] == [1, 2, 3]
    mean = np.mean([made[s]["data"][0]["figures"]["accuracy"]["test"][0] for s in ("set0", "set1")])
    assert two["rows"][0]["average"] == pytest.approx(mean)
    assert "No test over data sets: 2 data sets" in two["notes"][0] and "friedman" not in two
    (six,) = over_sets.summaries(PROTOCOLS["full"], dict(list(made.items())[:6]))
    assert six["friedman"] < 0.01 and six["wilcoxon"] == [] and "it needs 10" in six["notes"][-1]
    (many,) = over_sets.summaries(PROTOCOLS["full"], made)
    assert len(many["wilcoxon"]) == 3 and all(w["holm"] < 0.05 for w in many["wilcoxon"])
    assert over_sets.summaries(PROTOCOLS["full"], {"set0": made["set0"]}) == []


def test_a_method_that_a_set_lacks_is_left_out_of_the_average(tmp_path):
    made = {k: build(runs(tmp_path, dict.fromkeys("AB" if k == "x" else "ABC", 1.0), dataset=k)) for k in "xy"}
    (found,) = over_sets.summaries(PROTOCOLS["full"], made)
    assert found["methods"] == ["A", "B"] and found["lacking"] == {"C": ["x"]}
    text, _ = over_sets.section(PROTOCOLS["full"], "demo", made, "s", tmp_path / "out")
    assert "Left out, as sets lack it: C (x)" in text and "2 data sets; Friedman's needs 6" in text


def test_runs_whose_splits_differ_have_neither_table_nor_statistics(tmp_path):
    found = runs(tmp_path)
    found[0]["split_sha256"] = "another"
    (key,) = report.groups_of(found)
    text, table = report.section(key, found, tmp_path / "report", False)
    assert table is None and "no table - " in text and "were not run on the same split" in text


def test_the_report_says_it(tmp_path):
    for dataset in ("d", "e"):
        for run in runs(tmp_path / "out", dataset=dataset):
            folder = run.pop("folder")
            (folder / "results.json").write_text(json.dumps(run))
    found = records(tmp_path / "out")
    report._write(report.groups_of(found), tmp_path / "report", [tmp_path])
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.count("can't be told apart from the highest") == 2 and "5 seeds x 60 patients" in text
    assert text.count("| method | shots | part | seeds | NLL | Brier | ECE | class-wise ECE |") == 2
    assert "**full over data sets, ViT-B/16**" in text and "No test over data sets: 2 data sets" in text
    saved = json.loads((tmp_path / "report" / "full-d-ViT-B-16-statistics.json").read_text())
    assert len(saved["pairs"]) == 12 and set(saved["pairs"][0]) == set(pairs.KEYS) and len(saved["calibration"]) == 3
    lines = (tmp_path / "report" / "full-d-ViT-B-16-statistics.csv").read_text().splitlines()
    assert lines[0] == ",".join(pairs.KEYS) and len(lines) == 13
    alone = [{**r, "ci_unit": "group"} for r in runs(tmp_path / "c")]
    for r in alone:  # each patient has one image
        rewrite(r, groups=np.array([f"p{i}" for i in range(N)]))
    table = build(alone)
    assert {p["unit"] for p in table["pairs"]} == {"image"} and not any("Patients are" in n for n in table["notes"])
