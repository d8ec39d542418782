"""`cilmp report` over several sets: averages, source x target, cost, published figures, methods.md, and bad input."""

import csv
import json
import shlex

import numpy as np
import pytest
import yaml

from cilmp.datasets import TABLE
from cilmp.experiments import archive, commands, facts, formats, kinds, missing, published, report, study, tables
from cilmp.experiments.changed import changed
from cilmp.experiments.settings import CONFIGS, Request, base_config
from cilmp.protocols import PROTOCOLS
from dassl.evaluation.figures import METRICS
from dassl.utils.errors import UnknownName, UserError

from .test_statistics import rewrite, runs
from .test_tables import record

ELEVEN = ["BTMRI", "BUSI", "CHMNIST", "COVID_19", "CTKidney", "DERMAMNIST", "KneeXray", "KVASIR", "LungColon",
          "OCTMNIST", "RETINA"]  # fmt: skip


def cell(method, seed, accuracy, dataset="d", protocol="few_shot", part="train_all", source="", shots=4, **more):
    """A record without predictions."""
    made = record(method, seed, part, accuracy, dataset=dataset, shots=shots, settings={"SEED": 0},
                  group=f"{method}-{source or dataset}-{shots}", **more)  # fmt: skip
    made["spec"]["protocol"] = protocol
    made["spec"]["source"] = {"dataset": source, "shots": shots} if source else None
    for name in ("split_sha256", "test_sha256"):
        made[name] = f"{dataset}-{seed if name == 'split_sha256' else ''}-{part}"
    return made


def tables_of(found, protocol="few_shot", metrics=()):
    shown = report.showing(protocol, metrics)
    return shown, {key[1]: tables.build(shown, own, "t") for key, own in report.groups_of(found).items()}


def averaged(found, protocol="few_shot", backbone="ViT-B/16", metrics=()):
    shown, made = tables_of(found, protocol, metrics)
    return dict(kinds.of_protocol(shown, backbone, made, found))


def two_sets():
    """A: 10, 20 on d and 30, 40 on e with 1 and 4 shots; B lacks e with 4."""
    found = [cell(m, 1, v, d, shots=k) for m, d, k, v in (
        ("A", "d", 1, 10), ("A", "d", 4, 20), ("A", "e", 1, 30), ("A", "e", 4, 40),
        ("B", "d", 1, 50), ("B", "d", 4, 60), ("B", "e", 1, 70))]  # fmt: skip
    return found


def test_averages_over_sets_by_hand():
    table = averaged(two_sets())["average"]
    assert table["header"] == ["method", "1 shot acc", "4 shots acc", "1 shot F1", "4 shots F1"]
    assert table["rows"] == [["A", "20.0", "30.0", "10.0", "15.0"], ["B", "60.0", "-", "30.0", "-"]]
    assert any("No row is marked: 2 data sets" in n for n in table["notes"]) and table["best"] == {}
    (command,) = table["commands"]
    assert command == ("cilmp study --protocols few_shot --methods B --datasets e --shots 4 --seeds 1 --backbones "
                       "ViT-B/16")  # fmt: skip
    for text in (formats.markdown(table), formats.terminal(table), formats.as_json(table)):
        assert command in text


def test_one_set_has_no_average():
    assert averaged([r for r in two_sets() if r["dataset"] == "d"]) == {}


def test_marks_of_averages_are_those_of_tests_over_sets():
    rng = np.random.default_rng(0)
    found = [cell(m, 1, base + k + rng.random() / 10, f"set{k}") for k in range(12)
             for m, base in (("A", 50), ("B", 50), ("C", 10), ("D", 20))]  # fmt: skip
    table = averaged(found)["average"]
    assert {table["rows"][i][0] for i, k in table["best"] if k == 0} == {"A", "B"}
    assert kinds.MARKED in table["notes"]


def test_sets_side_by_side():
    found = [cell("A", s, v + s, d, "full", shots=-1) for d, v in (("d", 10), ("e", 30)) for s in (1, 2)]
    found += [cell("B", s, 50, "d", "full", shots=-1) for s in (1, 2)]
    table = averaged(found, "full")["sets"]
    assert table["header"] == ["method", "d", "e", "average"]
    assert table["rows"] == [["A", "11.5 ± 0.5", "31.5 ± 0.5", "21.5"], ["B", "50.0 ± 0.0", "-", "-"]]
    assert "--datasets e" in table["commands"][0] and "--shots" not in table["commands"][0]
    assert table["best"] == {(1, 0): "best", (0, 0): "second"}


def test_source_by_target():
    found = []
    for source, other, value in (("d", "e", 60), ("e", "d", 40)):
        for m, more in (("A", 0), ("B", 5)):
            found.append(cell(m, 1, value + more, source, "cross_dataset"))
            if (source, m) != ("e", "B"):
                found.append(cell(m, 1, value - 20 + more, other, "cross_dataset", f"test_{other}", source))
    table = averaged(found, "cross_dataset")["source-target"]
    assert table["header"] == ["source", "method", "d", "e", "average"]
    assert table["rows"] == [["d", "A", "60.0", "40.0", "40.0"], ["d", "B", "65.0", "45.0", "45.0"],
                             ["e", "A", "20.0", "40.0", "20.0"], ["e", "B", "-", "45.0", "-"]]  # fmt: skip
    assert table["best"][1, 0] == "best" and table["best"][3, 1] == "best" and table["fixed"] == 2
    (command,) = table["commands"]
    assert "--methods B --datasets e --shots 4 --seeds 1" in command and command.endswith("--targets d")


def test_targets_are_called_by_their_data_sets():
    """A part's name is a slug, and an external test's data set that of its training."""
    found = []
    for source, target in (("a_b", "c_d"), ("c_d", "a_b")):
        found.append(cell("A", 1, 60, source, "external"))
        found.append(cell("A", 1, 40, source, "external", f"test_{target.replace('_', '-')}", source))
        found[-1]["spec"]["settings"] = {"DATASET.TEST_ON": target}
    found.append(cell("B", 1, 60, "a_b", "external"))
    table = averaged(found, "external")["source-target"]
    assert table["header"] == ["source", "method", "a_b", "c_d", "average"]
    assert table["rows"][0] == ["a_b", "A", "60.0", "40.0", "40.0"]
    assert [c.rpartition(" ")[2] for c in table["commands"]] == ["c_d", "a_b"]


def test_cost():
    found = [cell("A", s, 50, d, steps=n, precision="amp", device_name="A100") for d, n in (("d", 10), ("e", 30))
             for s in (1, 2)]  # fmt: skip
    found[0]["cost"] |= {"train_seconds": 3.0, "trainable_parameters": 7}
    table = kinds.cost(PROTOCOLS["few_shot"], "ViT-B/16", [], found)
    assert dict(zip(table["header"], table["rows"][0])) == {
        "method": "A", "shots": "4 shots", "steps": "10-30", "learned": "5-7", "training s": "3.0", "s/step": "0.100",
        "images/s": "-", "peak MiB": "1", "precision": "amp", "device": "A100", "runs": "4"}  # fmt: skip
    other = cell("B", 1, 50, device="cpu")
    assert any("Devices differ" in n for n in kinds.cost(PROTOCOLS["few_shot"], "b", [], [*found, other])["notes"])


# ---- metrics


def test_any_recorded_metric_is_shown():
    found = two_sets()
    for r in found:
        r["metrics"] |= {"ece": 100 - r["metrics"]["accuracy"], "kappa": 0.1234, "own": 1.0}
    shown, made = tables_of(found, metrics=("ece", "kappa", "own"))
    assert made["d"]["header"][2:5] == ["test ECE", "test kappa", "test own"]
    assert made["d"]["rows"][0][2:5] == ["90.0", "0.123", "1.0"]
    assert "No percentage: kappa." in made["d"]["notes"] and shown.name == "few_shot"
    assert PROTOCOLS["few_shot"].metrics == ("accuracy", "macro_f1")
    table = averaged(found, metrics=("ece",))["average"]
    assert table["header"][1] == "1 shot ECE" and table["rows"][0][1] == "80.0"


def test_an_unknown_metric_is_one_line():
    with pytest.raises(UnknownName, match="unknown metric 'acuracy' - did you mean 'accuracy'"):
        report.check_metrics(["acuracy"], two_sets())


# ---- what is missing


def test_nothing_is_missing_of_whole_grids():
    assert missing.commands([r for r in two_sets() if r["spec"]["method"] == "A"]) == [] == missing.commands([])


def test_gaps_of_several_methods_sets_and_settings_are_few_commands():
    found = [cell(m, s, 50, d) for m in "ABC" for d in "xyz" for s in (1, 2, 3)]
    found = [r for r in found if (r["spec"]["method"], r["dataset"]) not in (("B", "x"), ("C", "x"), ("B", "y"),
                                                                             ("C", "y"))]  # fmt: skip
    found = [r for r in found if (r["spec"]["method"], r["dataset"], r["seed"]) != ("A", "z", 2)]
    plain, other = missing.commands(found)
    assert "--methods B C --datasets x y --shots 4 --seeds 1 2 3" in plain and "--methods A --datasets z" in other
    assert "--seeds 2 " in other
    for r in found[1:3]:  # of A, its third seed aside; a method that nobody knows
        r["spec"] |= {"hparams": "custom", "llm": "an llm", "weights": "/a b/w.pt"}
        r["group"] = "own"
    assert "--weights '/a b/w.pt' --llms 'an llm' --opts 'KEY VALUE ...'" in " ".join(missing.commands(found))


def resolved(**env):
    """A record of what a real Request makes."""
    request = Request("few_shot", "CoOp", "phantom", [1], {"SHOTS": "4", "METHODS": "CoOp", **env})
    made = cell("CoOp", 1, 50, "phantom")
    made["spec"] = request.specs(base_config())[0].record()
    made["group"] = str(env)
    return json.loads(json.dumps(made))


def test_changed_settings_are_found_again():
    assert changed(resolved()) == {}
    assert changed(resolved(OPTS="TRAINER.COOP.N_CTX 2 TRAINER.COOP.CTX_INIT 'an image of a'", EPOCHS="3")) == {
        "TRAINER.COOP.N_CTX": 2, "TRAINER.COOP.CTX_INIT": "an image of a", "OPTIM.MAX_EPOCH": 3}  # fmt: skip
    assert changed(resolved(OPTS="INPUT.TRANSFORMS \"['normalize']\"")) == {"INPUT.TRANSFORMS": ["normalize"]}
    assert changed(resolved() | {"spec": resolved()["spec"] | {"method": "Elsewhere"}}) is None


def test_commands_make_the_very_settings_again(monkeypatch):
    """Words of the command -> study -> specs: their settings are those of the runs that the table's row has."""
    asked = []
    monkeypatch.setattr(study, "run_study", lambda s, *_: asked.append(s) or 0)
    rows = [resolved(OPTS=f"TRAINER.COOP.N_CTX {n} INPUT.TRANSFORMS \"['normalize']\"") for n in (2, 8)]
    rows += [resolved(OPTS=f"TRAINER.COOP.CTX_INIT '{words}'") for words in ("", "one, two", "an image", "a")]
    whole = resolved()
    found = [*rows, whole, json.loads(json.dumps(whole)) | {"seed": 2}]
    for command in missing.commands(found):
        commands.study([*shlex.split(command)[2:], "--dry-run"])
    made = [s for one in asked for r in one.requests() for s in r.specs(base_config(r.plugins))]
    own = lambda settings: {k: v for k, v in settings.items() if k != "SEED"}  # noqa: E731
    wanted = [own(r["spec"]["settings"]) for r in rows]
    assert len(made) == 6 and all(s.seed == 2 for s in made)
    assert all(json.loads(json.dumps(own(s.settings))) in wanted for s in made)
    assert len({str(s.settings) for s in made}) == 6


def test_a_part_that_is_missing_names_its_run():
    found = [cell("A", s, 50, protocol="base2new", part=p, shots=16) for s in (1, 2)
             for p in ("train_base", "test_new")]  # fmt: skip
    for r in found:
        r["spec"]["source"] = {"dataset": "d", "shots": 16} if r["spec"]["part"] == "test_new" else None
    (command,) = missing.commands(found[:-1])
    assert "--methods A --datasets d --shots 16 --seeds 2 " in command


def test_commands_are_words_that_the_command_knows(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(study, "run_study", lambda s, *_: asked.append(s) or 0)
    found = [cell("CoOp", 1, 5, d, threads=2) for d in ("BUSI", "RETINA")] + [cell("CILMP", 1, 5, "BUSI")]
    found[-1]["spec"] |= {"hparams": "matched", "llm": "smollm2-135m"}
    (command,) = missing.commands(found)
    commands.study([*shlex.split(command)[2:], "--dry-run"])
    (one,) = asked
    assert (one.methods, one.datasets, one.protocols, one.shots) == (["CILMP"], ["RETINA"], ["few_shot"], ["4"])
    assert one.llms == ["smollm2-135m"] and one.variables["HPARAMS"] == "matched"


def test_hostile_words_stay_one_word_of_a_command():
    found = [cell("A;rm -rf ~", 1, 5, d) for d in ("$(id)\n", "e")] + [cell("B", 1, 5, "e")]
    words = shlex.split(missing.commands(found)[0])
    assert words[words.index("--datasets") + 1] == "$(id)" and "\n" not in missing.commands(found)[0]


# ---- published


def test_the_file_of_published_figures_has_its_form():
    methods = {p.name for p in (CONFIGS / "trainers").iterdir() if p.is_dir()}
    for one in published.tables():
        assert set(one["rows"]) <= methods and set(one["sets"]) <= set(TABLE), one["where"]
        assert PROTOCOLS[one["protocol"]].columns({"train_all": 1}) == one["columns"] and one["metric"] in METRICS
        assert one["backbone"] in ("BiomedCLIP", "ViT-B/16") and one["unit"] == "percent" and one["source"]


@pytest.mark.parametrize("change", [
    {"protocol": "few"}, {"metric": "acc"}, {"unit": "%"}, {"rows": {"CoOp": [1.0]}},
    {"rows": {"CoOp": [0.7] * 4 + [101]}}, {"source": "me"}, {"where": None}, {"seed": 1}])  # fmt: skip
def test_another_form_is_refused(tmp_path, change):
    content = yaml.safe_load(published.FILE.read_text())
    content["tables"][0] |= change
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=f"{next(iter(change))}.* has not the form of the other tables"):
        published.tables(path)


def test_published_figures_stand_beside_ours_where_all_fits():
    found = [cell("CoOp", 1, 50, d, backbone="BiomedCLIP", shots=k) for d in ELEVEN for k in (4, 16)]
    table = averaged(found, backbone="BiomedCLIP")["average"]
    theirs = {row[0]: row[1:] for row in table["rows"]}
    assert theirs["CoOp"] == ["50.0", "50.0", "25.0", "25.0"]
    assert theirs["CoOp (published)"] == ["59.8", "69.6", "-", "-"] and "CLIPSVD (published)" not in theirs
    assert any(n.startswith("(published): Koleilat et al., BiomedCoOp") and "7ceb5a89ce4c" in n for n in table["notes"])
    assert all(table["rows"][i][0] == "CoOp" for i, _ in table["best"])
    assert [d for d in table["data"] if "published" in d]
    fewer = averaged([r for r in found if r["dataset"] != "BUSI"], backbone="BiomedCLIP")["average"]
    assert [row[0] for row in fewer["rows"]] == ["CoOp"] and any("are of other sets" in n for n in fewer["notes"])
    for r in found:
        r["spec"]["backbone"] = "ViT-B/16"
    assert "published" not in str(averaged(found)["average"])


def test_published_base_new_and_h_are_of_16_shots():
    sets = [d for d in ELEVEN if d != "BUSI"]
    for shots, there in ((16, True), (4, False)):
        found = [cell("CoOp", 1, 50, d, "base2new", p, d if p == "test_new" else "", shots, backbone="BiomedCLIP")
                 for d in sets for p in ("train_base", "test_new")]  # fmt: skip
        rows = {row[0]: row[1:4] for row in averaged(found, "base2new", "BiomedCLIP")["average"]["rows"]}
        assert (rows.get("BiomedCoOp (published)") == ["76.3", "73.9", "75.1"]) == there


# ---- the whole report


def written(found, place):
    for run in found:
        run["folder"].mkdir(parents=True, exist_ok=True)
        run["key"] += run["dataset"]
        (run["folder"] / "results.json").write_text(json.dumps({k: v for k, v in run.items() if k != "folder"}))
    return place


def told(place, **more):
    assert report.main([place], **more) == 0
    return (place / "report" / "report.md").read_text()


def test_every_kind_of_bad_input_at_once(tmp_path):
    """What can be shown is; what is left out is said; names are text."""
    good = runs(tmp_path, {"A": 3.0, "B": 0.5})
    half = [r for r in runs(tmp_path / "h", {"<script>x</script>": 1.0}) if r["seed"] < 3]
    other = runs(tmp_path / "o", {"=cmd|'x'!A0": 1.0})
    rewrite(other[0], labels=np.zeros(120, int))
    (other[1]["folder"] / "predictions.npz").unlink()
    differing = runs(tmp_path / "s", {"A": 1.0, "B": 1.0}, dataset="two\nlines")
    differing[0]["split_sha256"] = "another"
    one = runs(tmp_path / "1", {"A": 1.0, "B": 1.0}, dataset="e", seeds=(1,))
    text = told(written([*good, *half, *other, *differing, *one], tmp_path))
    assert not any("<script>" in t for t in text.split("```")[::2]) and "&lt;script>x&lt;/script>" in text
    assert "two lines, ViT-B/16**: no table - " in text and "were not run on the same split" in text
    assert "Not compared, no predictions" in text and "Not compared, predictions of other images" in text
    assert "One seed, trained models are told apart" in text and "--seeds 3 4 5" in text
    assert "Rows differ in their seeds" in text
    with open(tmp_path / "report" / "full-d-ViT-B-16.csv", newline="") as f:
        cells = [c for row in csv.reader(f) for c in row]
    assert any(c.startswith("'=cmd") for c in cells) and not any(c[:1] in "=+@" for c in cells if c)
    methods = (tmp_path / "report" / "methods.md").read_text()
    assert "<script>" not in methods and "two lines" in methods


def test_runs_that_fit_no_table_are_said(tmp_path, capsys):
    found = runs(tmp_path, {"A": 1.0, "B": 0.5})
    orphan, foreign = found[0], found[1]
    orphan["spec"]["source"], orphan["group"] = {"dataset": "d", "shots": -1}, "no training"
    foreign["spec"]["protocol"] = "two\nshot<b>"
    text = told(written(found, tmp_path))
    for said in (text, capsys.readouterr().out):
        assert "Left out, 1 tests whose training run is not among the results: A, all images, seed 1" in said
        assert "Left out, 1 runs of protocol two shot" in said
    assert "<b>" not in text


@pytest.mark.parametrize("change", [
    {"metrics": {"accuracy": "high"}}, {"metrics": {"accuracy": float("nan")}}, {"metrics": [1]}, {"seed": "one"},
    {"cost": {}}, {"cost": 3}, {"spec": "A"}, {"spec": {}}, {"group": None}, {"n": None}, {"shots": "many"},
    {"per_class": 3}, {"versions": "2"}, {"reads": []}, {"parts": {"train": "x"}}])  # fmt: skip
def test_results_that_are_none_are_left_out_and_said(tmp_path, capsys, change):
    found = runs(tmp_path, {"A": 1.0, "B": 0.5}, seeds=(1, 2))
    written(found, tmp_path)
    path = found[0]["folder"] / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    text = told(tmp_path)
    assert f"warning: left out {path}: " in capsys.readouterr().out and "| B |" in text


def test_formats_and_metrics_of_the_command(tmp_path, capsys):
    place = written(runs(tmp_path), tmp_path)
    assert commands.report([str(place), "--formats", "csv", "terminal", "--metrics", "accuracy"]) == 0
    files = {p.name for p in (place / "report").iterdir() if p.suffix in (".csv", ".tex", ".json")}
    assert files == {"full-d-ViT-B-16.csv", "full-d-ViT-B-16-statistics.csv", "full-cost-ViT-B-16.csv"}
    assert "full on d, ViT-B/16\n" in capsys.readouterr().out
    with pytest.raises(UnknownName, match="unknown metric 'f1'"):
        commands.report([str(place), "--metrics", "f1"])


def test_text_alone_draws_no_pictures(tmp_path, capsys):
    """Before: 70 % of the time of `--formats terminal` went into pictures that a terminal does not show."""
    place = written(runs(tmp_path), tmp_path)
    assert commands.report([str(place), "--formats", "terminal"]) == 0
    assert "full on d, ViT-B/16\n" in capsys.readouterr().out
    assert not [p for p in (place / "report").iterdir() if p.suffix in (".svg", ".png")]
    assert "![" not in (place / "report" / "report.md").read_text() and (place / "report" / "index.html").is_file()


def test_methods_page_says_what_runs_know_and_what_not(tmp_path):
    found = runs(tmp_path, {"A": 1.0}, dataset="BUSI")
    for r in found:
        r |= {"ci_unit": "group", "per_class": {c: {"n": 40} for c in "abc"}, "versions": {"torch": "2.1"}, "n": 120,
              "device": "cuda", "device_name": "NVIDIA A100", "git": "abc123", "threads": 4, "tuned": True,
              "parts": {"train": 48, "val": 12, "test": 120}}  # fmt: skip
        r["spec"] |= {"settings": {"OPTIM.LR": 0.002, "OPTIM.NAME": "sgd", "DATASET.SHOT_SAMPLING": "balanced"},
                      "method": "CoOp"}  # fmt: skip
    told(written(found, tmp_path))
    text = (tmp_path / "report" / "methods.md").read_text()
    assert "| BUSI | all | 120 | 60 | 3 x 40 | 48 / 12 |" in text and TABLE["BUSI"].licence in text
    assert "seeds 1 2 3 4 5" in text and "bootstrap of 1,000 draws over patients" in text
    assert "KaiyangZhou/CoOp at ff61507c7904" in text and "| sgd | 0.002 |" in text
    assert "cuda: NVIDIA A100; threads 4; system **not known**" in text and "torch 2.1" in text and "abc123" in text
    assert "Ethics and data: **not known**" in text and "temperature scaling: not done" in text


def test_methods_page_compares_hashes_of_one_cell_alone():
    """Sources of one target are cells of their own, and results without a hash say nothing."""
    found = [cell("A", 1, 50, dataset="e", protocol="cross_dataset", part="test_e", source=source) for source in "dfg"]
    for r, own in zip(found, ("one", "two", None)):
        r["split_sha256"] = own
    said = "\n".join(facts._data(found))
    assert "they agree in every cell" in said and "DIFFER" not in said
    found[1]["spec"]["source"] = found[0]["spec"]["source"]
    assert "runs of one cell DIFFER" in "\n".join(facts._data(found))


def test_a_bundle_beside_its_run_hides_nothing_of_it(tmp_path):
    """A copy of a run without predictions, first by name."""
    place = written(runs(tmp_path), tmp_path)
    for path in sorted(place.rglob("results.json")):
        copy = place / "a_bundle" / path.parent.relative_to(place)
        copy.mkdir(parents=True)
        (copy / "results.json").write_bytes(path.read_bytes())
    found = archive.merged([place])
    assert found and all("a_bundle" not in r["folder"].parts for r in found)
