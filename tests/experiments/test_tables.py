"""Numbers of a table worked by hand, and the runs it refuses to compare."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from cilmp.experiments import formats, pictures, tables
from cilmp.experiments.collect import records
from cilmp.protocols import PROTOCOLS
from dassl.evaluation.figures import METRICS, Metric, figures
from dassl.utils.errors import UserError


def record(method, seed, part, accuracy, split="s", note="", shots=16, label="", settings=None, group="", **more):
    subset = {"train_base": "base", "test_new": "new"}.get(part, "all")
    tested = part.startswith("test_")
    spec = {
        "protocol": "base2new", "part": part, "method": method, "dataset": more.pop("dataset", "d"), "shots": shots,
        "seed": seed, "subset": subset, "split": "test", "backbone": more.pop("backbone", "ViT-B/16"), "weights": "",
        "llm": "", "file": "vit_b16", "label": label, "settings": settings or {"SEED": seed},
        "hparams": more.pop("hparams", "official"),
        "source": {"dataset": "d", "shots": shots} if tested else None,
    }  # fmt: skip
    return {
        "spec": spec, "key": f"{method}{part}", "group": group or f"{method}{label}{shots}{settings}", "seed": seed,
        "subset": subset, "shots": shots, "dataset": spec["dataset"], "split": "test", "n": 10,
        "metrics": {"accuracy": accuracy, "macro_f1": None if accuracy is None else accuracy / 2},
        "split_sha256": f"{split}-{seed}-{subset}", "test_sha256": f"t-{subset}", "source_note": note, "llm": None,
        "cost": {"steps": more.pop("steps", 240), "trainable_parameters": 5, "seconds_per_step": 0.1,
                 "peak_memory_mib": 1.0}, **more,
    }  # fmt: skip


def base2new(**more):
    numbers = {"A": [(60, 40), (80, 20)], "B": [(50, 50), (50, 50)]}
    return [record(m, s, part, value, **more) for m, seeds in numbers.items() for s, pair in enumerate(seeds, 1)
            for part, value in zip(("train_base", "test_new"), pair)]  # fmt: skip


def build(found, protocol="base2new", **more):
    return tables.build(PROTOCOLS[protocol], found, f"{protocol} on d", **more)


def test_base_new_and_h_by_hand():
    """A: base 70 ± 10, new 30 ± 10, H of the means 42; the seeds' own H are 48 and 32: 40 ± 8."""
    table = build(base2new())
    assert table["header"] == ["method", "base acc", "new acc", "H acc", "base F1", "new F1", "H F1",
                               "steps", "learned", "s/step", "peak MiB"]  # fmt: skip
    assert table["rows"][0][-4:] == ["240", "5", "0.100", "1"]
    assert table["rows"][0][:4] == ["A", "70.0 ± 10.0", "30.0 ± 10.0", "42.0 ± 8.0"]
    assert table["rows"][1][:4] == ["B", "50.0 ± 0.0", "50.0 ± 0.0", "50.0 ± 0.0"]
    figures = table["data"][0]["figures"]["accuracy"]
    assert figures["H_per_seed"] == {"1": pytest.approx(48), "2": pytest.approx(32)}
    assert figures["H_of_seeds"] == (pytest.approx(40), pytest.approx(8))
    assert any("deviation is of the seeds' own H" in n and "H_of_seeds" in n for n in table["notes"])


def test_rows_of_other_seeds_are_not_said_to_be_of_all():
    """Before: "over seeds 1 2 3" above rows of two seeds or one, and no word on whose are whose."""
    found = [record(m, s, "train_all", 50 + s, shots=k) for m, s, k in
             (("A", 1, 1), ("A", 2, 1), ("A", 10, 1), ("B", 1, 1), ("A", 1, 4), ("B", 1, 4))]  # fmt: skip
    notes = build(found, "few_shot")["notes"]
    assert notes[0] == "Mean ± standard deviation (dividing by n) over each row's own seeds, percent."
    assert "Rows differ in their seeds, compare with care - 1: B, A (4 shots); 1 2 10: A (1 shot)." in notes
    half = [r for r in base2new() if (r["spec"]["part"], r["seed"]) != ("test_new", 2)]
    assert build(half)["notes"][0].endswith("over seeds 1 2 of train_base, 1 of test_new, percent.")
    assert "over seeds 1 2, percent" in build(base2new())["notes"][0]


def test_h_of_zero_and_zero():
    assert build([record("Z", 1, p, 0) for p in ("train_base", "test_new")])["rows"][0][3] == "0.0"


def test_markdown_marks_best_and_second():
    text = formats.markdown(build(base2new()))
    assert "| A | **70.0 ± 10.0** | <u>30.0 ± 10.0</u> | <u>42.0 ± 8.0</u> |" in text
    assert "dividing by n" in text and "H: harmonic mean" in text


def test_less_calibration_error_is_better(monkeypatch):
    monkeypatch.setattr(PROTOCOLS["full"], "metrics", ("ece",), raising=False)
    found = [record(m, 1, "train_all", 50) | {"metrics": {"ece": e, "accuracy": 1}} for m, e in (("A", 3), ("B", 9))]
    assert build(found, "full")["best"] == {(0, 0): "best", (1, 0): "second"}


def test_a_metric_is_one_row_that_results_and_tables_read(monkeypatch):
    monkeypatch.setitem(METRICS, "error", Metric("err", lambda y, p: 100.0 * (p.argmax(1) != y).mean()))
    found = figures(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert found["error"] == 50
    monkeypatch.setattr(PROTOCOLS["full"], "metrics", ("error", "accuracy"))
    here, before = (record(m, 1, "train_all", 50) for m in ("A", "B"))  # B: of before the metric was there
    table = build([here | {"metrics": found}, before | {"metrics": {"accuracy": 1}}], "full")
    assert table["header"][1:3] == ["test err", "test acc"] and [row[1] for row in table["rows"]] == ["50.0", "-"]


def test_notes_travel():
    confounded = build(base2new(note="source-confounded, not a clinical result"))
    for text in (formats.markdown(confounded), formats.latex(confounded), formats.terminal(confounded)):
        assert "source-confounded, not a clinical result" in text
    assert "\\toprule" in formats.latex(confounded) and "\\hline" not in formats.latex(confounded)
    assert "Demo numbers" in formats.terminal(build(base2new(backbone="demo")))


@pytest.mark.parametrize("facts", [{"backbone": "ViT-B-16::random"}, {"backbone": "random"}])
def test_random_weights_are_said(facts):
    assert "never trained" in formats.markdown(build(base2new(**facts)))


def test_precision_is_named_and_a_mixture_said():
    assert "Precision: amp." in build(base2new(precision="amp"))["notes"]
    other = [record("C", 1, part, 50, precision="bf16") for part in ("train_base", "test_new")]
    mixed = [*base2new(precision="fp32"), *other]
    note = next(n for n in build(mixed)["notes"] if "precision" in n)
    assert "Rows differ in precision" in note and "bf16: C" in note and "fp32: A, B" in note


def test_dropout_mode_is_named():
    assert "CILMP dropout: shared." in build(base2new(dropout_mode="shared"))["notes"]


def test_left_out_images_are_said():
    notes = " ".join(build(base2new(left_out={"test": 10}, n=15))["notes"])
    assert "Unreadable images were left out: 10 of test (15 were judged)." in notes


def test_runs_on_different_splits_are_refused():
    with pytest.raises(UserError, match="were not run on the same split"):
        build([record("A", 1, "train_base", 50), record("B", 1, "train_base", 50, split="other")])


def test_seeds_tested_on_different_images_are_not_averaged():
    two = [record("A", 1, "train_all", 50), record("A", 2, "train_all", 60, test_sha256="another")]
    with pytest.raises(UserError, match="seed 2, train_all and A, 16 shots, seed 1, train_all were not run on the same "
                       "test images"):  # fmt: skip
        build(two, "few_shot")


def test_steps_of_every_row():
    """A number, from-to where seeds differ, "fitted"; older results do not say."""
    steps = {"A": (5, 5), "B": (1000, 40), "C": ("fitted", "fitted"), "D": (0, 0), "E": (7, 7)}
    found = [record(m, s, "train_all", 50, steps=n) for m, two in steps.items() for s, n in enumerate(two, 1)]
    for r in found[-2:]:
        del r["cost"]["steps"]
    table = build(found, "full")
    assert table["header"][-4] == "steps"
    assert [row[-4] for row in table["rows"]] == ["5", "40-1,000", "fitted", "0", "unknown"]
    assert any("steps: of the optimiser (fitted: no optimiser)" in n for n in table["notes"])
    assert not any("fitted" in n for n in build(found[:4], "full")["notes"])


def test_whose_hyper_parameters_rows_have():
    found = [record("A", 1, "train_all", 50, hparams="matched"), record("B", 1, "train_all", 50, hparams="matched")]
    notes = build(found, "full")["notes"]
    assert "Hyper-parameters: matched." in notes
    assert "matched: CoOp's number of steps, all else a method's own." in notes
    notes = build([*found, record("C", 1, "train_all", 50)], "full")["notes"]
    assert "Hyper-parameters: matched: A, B; official: C." in notes
    notes = build([record("C", 1, "train_all", 50)], "full")["notes"]
    assert "Hyper-parameters: official." in notes and not any(n.startswith("matched") for n in notes)


def test_values_tuned_for_the_very_data_set_are_marked():
    found = [*base2new(), *(record("C", 1, part, 50, tuned=True) for part in ("train_base", "test_new"))]
    table = build(found)
    assert [row[0] for row in table["rows"]] == ["A", "B", "C*"]
    assert "*: tuned by its authors for this very data set" in " ".join(table["notes"])
    assert "*:" not in " ".join(build(found[:-2])["notes"])


def test_methods_that_see_all_test_images_at_once_are_marked(tmp_path):
    found = [*base2new(), *(record("C", 1, part, 50, transductive=True) for part in ("train_base", "test_new"))]
    table = build(found)
    assert [row[0] for row in table["rows"]] == ["A", "B", "C†"]
    assert "†: sees all test images at once" in " ".join(table["notes"])
    assert "†" not in str(build(found[:-2])["notes"])
    formats.save(table, tmp_path)
    assert all("sees all test images at once" in p.read_text() for p in tmp_path.iterdir())
    assert "C$\\dagger$ &" in (tmp_path / "table.tex").read_text()


def test_unfinished_and_undefined_runs_are_named():
    probe = SimpleNamespace(method="Probe", why_not="its weights belong to its classes")
    notes = " ".join(build(base2new(), missing=["C, 16 shots, seed 1, train_base"], not_run=[probe])["notes"])
    assert "Not finished: C, 16 shots, seed 1, train_base" in notes
    assert "Probe: not run here - its weights belong to its classes" in notes


def test_columns_of_targets():
    found = [record("C", 1, part, 50) for part in ("train_all", "test_b")]
    assert build(found, "cross_dataset")["header"][:5] == ["method", "test acc", "b acc", "test F1", "b F1"]


def test_files(tmp_path):
    formats.save(build(base2new()), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"table.md", "table.tex", "table.csv", "table.json"}
    saved = json.loads((tmp_path / "out" / "table.json").read_text())
    assert saved["data"][0]["figures"]["accuracy"]["base"] == [70, 10]
    assert (tmp_path / "out" / "table.csv").read_text().splitlines()[1].startswith("A,70.0 ± 10.0")


def test_few_shot_rows_by_shots():
    found = [record("A", s, "train_all", 10 * k + s, shots=k) for k in (1, 4) for s in (1, 2)]
    assert [r[:3] for r in build(found, "few_shot")["rows"]] == [["A", "1", "11.5 ± 0.5"], ["A", "4", "41.5 ± 0.5"]]


def test_rows_of_one_method_are_told_apart_by_what_differs():
    found = [record("A", 1, "train_all", 50, settings={"OPTIM.LR": lr, "SEED": 1}) for lr in (0.1, 0.2)]
    assert [r[0] for r in build(found, "full")["rows"]] == ["A (LR=0.1)", "A (LR=0.2)"]
    lengths = {"matched": [50, 32], "official": []}
    found = [record("A", 1, "train_all", 5, settings={"OPTIM.BUDGET": b, "RUN.HPARAMS": h}) for h, b in lengths.items()]
    assert [r[0] for r in build(found, "full")["rows"]] == ["A (HPARAMS=matched)", "A (HPARAMS=official)"]
    same = [record("A", 1, "train_all", 50, group=g, split=g) for g in ("g1", "g2")]
    same[1]["seed"] = 2
    assert [r[0] for r in build(same, "full")["rows"]] == ["A (vit_b16-g1)", "A (vit_b16-g2)"]


def test_a_long_title_is_wrapped_in_the_picture(tmp_path):
    table = build(base2new(note="source-confounded, not a clinical result " * 4))
    assert pictures.draw(PROTOCOLS["base2new"], table, tmp_path / "p.png").is_file()
    assert pictures.draw(PROTOCOLS["full"], build([record("A", 1, "train_all", 5)], "full"), tmp_path / "q.png") is None


def test_results_of_before_and_broken_ones(tmp_path, capsys):
    """Schema 1 had its protocol and part in the path alone; a file that is no result is named and left out."""
    for seed, value in ((1, 50.0), (2, 60.0)):
        folder = tmp_path.joinpath("few_shot/d/CoOp/demo/shots4/demo-0123abcd", f"seed{seed}", "train_all")
        folder.mkdir(parents=True)
        old = {
            "schema": 1, "method": "CoOp", "dataset": "d", "protocol": "few_shot", "subset": "all", "split": "test",
            "shots": 4, "seed": seed, "backbone": "demo", "llm": None, "hparams": "custom", "tuned": False, "n": 9,
            "metrics": {"accuracy": value, "macro_f1": value}, "split_sha256": str(seed), "train_sha256": str(seed),
            "test_sha256": "t", "cost": {"trainable_parameters": 1, "seconds_per_step": 1.0, "peak_memory_mib": 1.0},
        }  # fmt: skip
        (folder / "results.json").write_text(json.dumps(old))
    for name, text in (("a", "[1]"), ("b", "{"), ("c", '{"spec": {}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    found = records(tmp_path)
    assert capsys.readouterr().out.count("warning: left out") == 3
    table = build(found, "few_shot")
    assert table["rows"][0][:3] == ["CoOp", "4", "55.0 ± 5.0"]
