"""Numbers of a table worked by hand, and the runs it refuses to compare."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dassl.utils.errors import UserError
from scripts.lib import table as tables
from scripts.lib.plan import Job


def job(tmp_path, method, seed, part, accuracy, split="s", note="", shots=16, **more):
    folder = Path(tmp_path) / method / str(seed) / part
    folder.mkdir(parents=True)
    subset = {"train_base": "base", "test_new": "new"}.get(part, "all")
    content = {
        "seed": seed, "subset": subset, "shots": shots, "dataset": "d", "split": "test", "hparams": "official",
        "metrics": {"accuracy": accuracy, "macro_f1": accuracy / 2}, "split_sha256": f"{split}-{seed}-{subset}",
        "cost": {"trainable_parameters": 5, "seconds_per_step": 0.1, "peak_memory_mib": 1.0},
        "source_note": note, "llm": None, **more,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(content))
    return Job(method, shots, seed, part, None, folder, key="k")


def request(**changes):
    base = {"protocol": "base2new", "dataset": "d", "backbone": "ViT-B/16", "seeds": [1, 2]}
    return SimpleNamespace(**base | changes)


def base2new(tmp_path, **more):
    numbers = {"A": [(60, 40), (80, 20)], "B": [(50, 50), (50, 50)]}
    return [job(tmp_path, m, s, part, value, **more) for m, seeds in numbers.items()
            for s, pair in enumerate(seeds, 1) for part, value in zip(("train_base", "test_new"), pair)]  # fmt: skip


def test_base_new_and_h_by_hand(tmp_path):
    """A: base 70 ± 10, new 30 ± 10, H of the means 42; the seeds' own H are 48 and 32."""
    table = tables.build(request(), base2new(tmp_path))
    assert table["header"] == ["method", "base acc", "new acc", "H acc", "base F1", "new F1", "H F1",
                               "learned", "s/step", "peak MiB"]  # fmt: skip
    assert table["rows"][0][-3:] == ["5", "0.100", "1"]
    assert table["rows"][0][:4] == ["A", "70.0 ± 10.0", "30.0 ± 10.0", "42.0 ± 8.0"]
    assert table["rows"][1][:4] == ["B", "50.0 ± 0.0", "50.0 ± 0.0", "50.0 ± 0.0"]
    figures = table["data"][0]["figures"]["accuracy"]
    assert figures["H_per_seed"] == {"1": pytest.approx(48), "2": pytest.approx(32)}
    assert tables.harmonic(0, 0) == 0


def test_markdown_marks_best_and_second(tmp_path):
    text = tables.markdown(tables.build(request(), base2new(tmp_path)))
    assert "| A | **70.0 ± 10.0** | <u>30.0 ± 10.0</u> | <u>42.0 ± 8.0</u> |" in text
    assert "dividing by n" in text and "H: harmonic mean" in text


def test_notes_travel(tmp_path):
    confounded = tables.build(request(), base2new(tmp_path / "a", note="source-confounded, not a clinical result"))
    for text in (tables.markdown(confounded), tables.latex(confounded), tables.terminal(confounded)):
        assert "source-confounded, not a clinical result" in text
    drawn = tables.build(request(), base2new(tmp_path / "c", weights="random"))
    assert "Backbone weights: random." in tables.markdown(drawn)
    demo = tables.build(request(backbone="demo"), base2new(tmp_path / "b"))
    assert "Demo numbers" in tables.terminal(demo)


def test_runs_on_different_splits_are_refused(tmp_path):
    jobs = [job(tmp_path, "A", 1, "train_base", 50), job(tmp_path, "B", 1, "train_base", 50, split="other")]
    with pytest.raises(UserError, match="not run on the same split"):
        tables.build(request(), jobs)


def test_values_tuned_for_the_very_data_set_are_marked(tmp_path):
    tuned = [job(tmp_path / "b", "C", 1, part, 50, tuned=True) for part in ("train_base", "test_new")]
    jobs = [*base2new(tmp_path / "a"), *tuned]
    table = tables.build(request(), jobs)
    assert [row[0] for row in table["rows"]] == ["A", "B", "C*"]
    assert "*: tuned by its authors for this very data set" in " ".join(table["notes"])
    assert "*:" not in " ".join(tables.build(request(), jobs[:-2])["notes"])


def test_unfinished_and_undefined_runs_are_named(tmp_path):
    jobs = base2new(tmp_path)
    jobs.append(Job("C", 16, 1, "train_base", None, tmp_path / "nothing"))
    jobs.append(Job("Probe", 16, 1, "train", None, tmp_path / "none", why_not="its weights belong to its classes"))
    notes = " ".join(tables.build(request(), jobs)["notes"])
    assert "Not finished: C, 16 shots, seed 1, train_base" in notes
    assert "Probe: not run here - its weights belong to its classes" in notes


def test_a_method_that_is_not_run_adds_no_column(tmp_path):
    jobs = [job(tmp_path, "C", 1, part, 50) for part in ("train_all", "test_b")]
    jobs.append(Job("Probe", 16, 1, "train", None, tmp_path / "none", why_not="its weights belong to its classes"))
    header = tables.build(request(protocol="cross_dataset", targets=[]), jobs)["header"]
    assert header[:5] == ["method", "test acc", "b acc", "test F1", "b F1"]


def test_files(tmp_path):
    table = tables.build(request(), base2new(tmp_path))
    tables.save(table, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"table.md", "table.tex", "table.csv", "table.json"}
    saved = json.loads((tmp_path / "out" / "table.json").read_text())
    assert saved["data"][0]["figures"]["accuracy"]["base"] == [70, 10]
    assert (tmp_path / "out" / "table.csv").read_text().splitlines()[1].startswith("A,70.0 ± 10.0")


def test_few_shot_rows_by_shots(tmp_path):
    jobs = [job(tmp_path / str(k), "A", s, "train_all", 10 * k + s, shots=k) for k in (1, 4) for s in (1, 2)]
    table = tables.build(request(protocol="few_shot"), jobs)
    assert [r[:3] for r in table["rows"]] == [["A", "1", "11.5 ± 0.5"], ["A", "4", "41.5 ± 0.5"]]
