"""Resuming, failures of one run, hashes across data sets, reports and sweeps: through the commands users type."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from cilmp import backbones, datasets
from cilmp.experiments import reads, report, study, sweep
from cilmp.experiments.run import Ticker
from cilmp.experiments.settings import Request, base_config, method_files
from dassl.utils.errors import ConfigError, MissingFile
from dassl.utils.io import sha256_of
from dassl.utils.paths import REPO

VARIABLES = ("DATA", "SHOTS", "METHODS", "CILMP_CACHE", "OPTS", "EPOCHS", "FORCE", "PLUGIN", "BACKBONE", "LLM", "CFG")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One drawn demo for all runs here."""
    return str(tmp_path_factory.mktemp("cache"))


def command(output, cache, *words, **environ):
    env = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    env |= {"OUTPUT": str(output), "CILMP_CACHE": cache, "THREADS": "1", **environ}
    return {"args": [sys.executable, str(REPO / "cilmp"), *words], "env": env, "text": True}


def run(output, cache, *words, **environ):
    return subprocess.run(**command(output, cache, *words, **environ), capture_output=True, timeout=600)


def predictions(output):
    (path,) = Path(output).glob("few_shot/phantom/CoOp/demo/shots2/*/seed1/train_all/predictions.npz")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["probabilities"]


def test_interrupted_run_goes_on_and_ends_equal(tmp_path, cache):
    words = ("run", "few_shot", "CoOp", "phantom", "1")
    settings = {"EPOCHS": "40", "SHOTS": "2", "METHODS": "CoOp", "OPTS": "TRAIN.CHECKPOINT_FREQ 1"}
    assert run(tmp_path / "whole", cache, *words, **settings).returncode == 0
    running = subprocess.Popen(**command(tmp_path / "cut", cache, *words, **settings), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    deadline = time.time() + 120
    while not list((tmp_path / "cut").glob("**/model.pth.tar-3")) and time.time() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=180)
    assert running.returncode == 130 and "Traceback" not in errors and "goes on where it was" in errors
    assert not list((tmp_path / "cut").glob("**/model.pth.tar-40"))
    assert run(tmp_path / "cut", cache, *words, **settings).returncode == 0
    logs = [p.read_text() for p in sorted((tmp_path / "cut").glob("**/log.txt*"))]
    assert any("Found checkpoints" in text for text in logs)
    assert np.array_equal(predictions(tmp_path / "cut"), predictions(tmp_path / "whole"))


def test_one_failed_run_stops_nobody_else(tmp_path, cache):
    plugin = tmp_path / "my broken method.py"
    plugin.write_text(
        "from dassl.engine import TRAINER_REGISTRY\nfrom cilmp.trainers.coop import CoOp\n\n\n"
        "@TRAINER_REGISTRY.register()\nclass Broken(CoOp):\n    \"\"\"Fails.\"\"\"\n\n"
        "    def forward_backward(self, batch):\n        raise RuntimeError('out of luck')\n"
    )
    done = run(tmp_path, cache, "run", "base2new", "Broken", "phantom", "1", PLUGIN=str(plugin), EPOCHS="1")
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "Broken, 16 shots, seed 1, train_base: failed - RuntimeError: out of luck" in done.stdout
    assert "Broken, 16 shots, seed 1, test_new: not run" in done.stdout
    assert "out of luck" in next(tmp_path.glob("**/error.txt")).read_text()
    table = json.loads((tmp_path / "base2new" / "phantom" / "table.json").read_text())
    assert [row[0] for row in table["rows"]] == ["ZeroshotCLIP"]
    assert any("Not finished: Broken" in n for n in table["notes"])


def test_across_data_sets_report_and_sweep(tmp_path, cache, shared_data, capsys):
    where = {"DATA": str(shared_data), "BACKBONE": "demo", "EPOCHS": "1"}
    done = run(tmp_path, cache, "run", "cross_dataset", "CoOp", "blood_cells", "1", TARGETS="covid_xray", **where)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(p.read_text()) for p in tmp_path.glob("cross_dataset/*/CoOp/**/results.json")]
    parts = {r["spec"]["part"]: r for r in found}
    source, target = parts["train_all"], parts["test_covid-xray"]
    assert target["train_sha256"] == source["train_sha256"] and target["source_dataset"] == "blood_cells"
    assert target["test_sha256"] != source["test_sha256"] and target["shots"] == 16
    words = ("--output", str(tmp_path / "grid"), "--method", "coop", "--dataset", "covid_xray", "--seeds", "1,2")
    done = run(tmp_path, cache, "sweep", *words, "OPTIM.LR=0.01,0.02", "TRAINER.COOP.N_CTX=2", SHOTS="1", **where)
    assert done.returncode == 0, done.stdout + done.stderr
    text = next((tmp_path / "grid" / "few_shot" / "covid-xray").glob("sweep-*.md")).read_text()
    assert "LR=0.01 N_CTX=2" in text and "LR=0.02 N_CTX=2" in text
    assert "source-confounded, not a clinical result" in text and study.WARNING in text
    assert report.main([tmp_path / "grid"]) == 0 and report.main([tmp_path]) == 0
    made = {p.name for p in (tmp_path / "grid" / "report").iterdir()}
    assert {"report.md", "few-shot-covid-xray-demo.tex", "few-shot-covid-xray-demo.png"} <= made
    text = (tmp_path / "grid" / "report" / "report.md").read_text()
    assert "LR=0.01 N_CTX=2" in text and "LR=0.02 N_CTX=2" in text  # two settings of one method: told apart
    assert "cross_dataset on blood_cells" in (tmp_path / "report" / "report.md").read_text()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(MissingFile, match="no finished runs"):
        report.main([tmp_path / "nothing"])


def test_grid_in_order_and_its_mistakes():
    grid = sweep.axes(["OPTIM.LR=1,2", "INPUT.SIZE=(8,8),(9,9)"])
    assert grid == {"OPTIM.LR": ["1", "2"], "INPUT.SIZE": ["(8,8)", "(9,9)"]}
    opts = [r.opts for r in study.Study("s", ["CoOp"], protocols=["few_shot"], grid=grid).requests()]
    assert [words[1::2] for words in opts] == [["1", "(8,8)"], ["1", "(9,9)"], ["2", "(8,8)"], ["2", "(9,9)"]]
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        sweep.axes(["OPTIM.LR"])


def test_quiet_console_shows_warnings_and_an_epoch_line_now_and_then():
    console = io.StringIO()
    ticker = Ticker(console)
    ticker.write("a long config\nwarning: INPUT.SIZE is set\nepoch [1/9] batch")
    assert console.getvalue() == "    warning: INPUT.SIZE is set\n"
    ticker.last -= 31
    ticker.write(" [1/1] eta 0:00:08\nepoch [2/9] batch [1/1]\n")
    assert console.getvalue().endswith("    epoch [1/9] batch [1/1] eta 0:00:08\n")


def test_what_the_variables_mean():
    bare = Request("few_shot", "CILMP", "", [], {})
    assert (bare.dataset, bare.backbone, bare.llm, bare.seeds) == ("phantom", "demo", "smollm2-135m", [1, 2, 3])
    assert bare.methods == ["ZeroshotCLIP", "CoOp", "CILMP"]
    paper = Request("few_shot", "CoOp", "busi", ["0", "7", "0"], {"OPTS": "A.B 'two words'", "PLUGIN": "a b"})
    assert (paper.dataset, paper.backbone, paper.llm) == ("BUSI", "ViT-B/16", "meta-llama/Meta-Llama-3-8B")
    assert (paper.seeds, paper.methods, paper.shots) == ([0, 7], ["ZeroshotCLIP", "CoOp"], [1, 2, 4, 8, 16])
    assert paper.opts == ["A.B", "two words"] and paper.plugins == ("a", "b")
    assert Request("full", "CoOp", "busi", [], {"SHOTS": "4"}).shots == [-1]
    for protocol, variables in (("few_shot", {"SHOTS": "0"}), ("few_shot", {"SHOTS": "²"}), ("full", {"EPOCHS": "two"}),
                                ("full", {"HPARAMS": "x"})):  # fmt: skip
        with pytest.raises(ConfigError, match=next(iter(variables))):
            Request(protocol, "CoOp", "busi", [], variables)
    assert Request("full", "CoOp", "busi", ["1-3,7", "2"], {}).seeds == [1, 2, 3, 7]
    for word in ("one", "3-1", "1-", "-1", "1-2-3", "²"):
        with pytest.raises(ConfigError, match="further ones are seeds"):
            Request("full", "CoOp", "busi", [word], {})


@pytest.mark.parametrize(
    "method, protocol, backbone, shots, files, kind",
    [
        ("CoOp", "few_shot", "ViT-B/16", 16, ["vit_b16"], "official"),
        ("CoOp", "few_shot", "ViT-B/16", 1, ["vit_b16", "few_shot_shots1"], "official"),
        ("CoOp", "base2new", "ViT-B/16", 16, ["base2new"], "official"),
        ("CoOp", "cross_dataset", "ViT-B/16", 16, ["cross_dataset"], "official"),
        ("CILMP", "full", "BiomedCLIP", -1, ["vit_b16"], "official"),
        ("CoOp", "base2new", "demo", 16, ["demo", "demo"], "demo"),
        ("MaPLe", "few_shot", "ViT-B/16", 1, ["few_shot"], "official"),
        ("SomebodysOwn", "base2new", "ViT-B/16", 16, ["default"], "default"),
    ],
)
def test_files_of_a_method(method, protocol, backbone, shots, files, kind):
    paths, _, hparams = method_files(method, protocol, backbone, shots=shots)
    assert [p.stem for p in paths] == files and hparams == kind


def test_tuned_values_are_read_for_their_data_set_and_protocol_alone():
    base = base_config()
    for dataset, protocol, wanted in (("BUSI", "few_shot", 10.0), ("BUSI", "base2new", 8.0), ("ISIC", "few_shot", 8.0)):
        cfg = Request(protocol, "KgCoOp", dataset, [1], {}).spec(base, "KgCoOp", 16, 1).config
        assert wanted == cfg.TRAINER.KGCOOP.W and (wanted == 10.0) == cfg.RUN.TUNED
        assert ("random_flip" in cfg.INPUT.TRANSFORMS) == (wanted == 8.0)  # tuned without a flip
    matched = Request("few_shot", "KgCoOp", "BUSI", [1], {"HPARAMS": "matched"}).spec(base, "KgCoOp", 16, 1).config
    assert matched.TRAINER.KGCOOP.W == 10.0 and matched.RUN.TUNED


def test_tuned_values_are_read_on_the_backbones_they_were_tuned_on_alone():
    base = base_config()
    for backbone, rate, epochs, decay in (("BiomedCLIP", 0.009, 100, 0.0), ("ViT-B/16", 0.0004, 20, 0.01)):
        request = Request("base2new", "CLIPSVD", "BTMRI", [1], {"BACKBONE": backbone})
        cfg = request.spec(base, "CLIPSVD", 16, 1).config
        assert (rate, epochs, decay) == (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.WEIGHT_DECAY)
        assert (backbone == "BiomedCLIP") == cfg.RUN.TUNED and cfg.RUN.HPARAMS == "official"
        notes = request.notes()
        assert len(notes) == (not cfg.RUN.TUNED) and all("on BiomedCLIP, not on ViT-B/16" in n for n in notes)
    assert Request("base2new", "CLIPSVD", "ISIC", [1], {}).notes() == []  # nothing was tuned for it anywhere
    assert len(Request("base2new", "CLIPSVD", "BTMRI", [1], {"HPARAMS": "matched"}).notes()) == 1


def test_a_file_of_the_named_method_alone():
    """Before: zero-shot, which nobody named, had no such file, and nothing ran."""
    base = base_config()
    request = Request("few_shot", "MaPLe", "BTMRI", [1], {"CFG": "cross_dataset"})
    assert request.spec(base, "MaPLe", 16, 1).config.RUN.HPARAMS == "custom"
    assert request.spec(base, "ZeroshotCLIP", 16, 1).config.RUN.HPARAMS == "official"
    assert request.notes() == ["CFG=cross_dataset is no file of ZeroshotCLIP: their own settings."]
    named = Request("few_shot", "", "BTMRI", [1], {"CFG": "cross_dataset", "METHODS": "ZeroshotCLIP MaPLe"})
    of_nobody = Request("few_shot", "MaPLe", "BTMRI", [1], {"CFG": "corss_dataset"})
    of_all = Request("few_shot", "all", "BTMRI", [1], {"CFG": "corss_dataset"})
    for request, method in ((named, "ZeroshotCLIP"), (of_nobody, "MaPLe"), (of_all, "ZeroshotCLIP")):
        with pytest.raises(MissingFile, match=f"CFG={request.cfg}: no .*{method}"):
            request.spec(base, method, 16, 1)


def test_tuned_values_that_nobody_tuned_are_refused_where_they_are_asked_for():
    base, asked = base_config(), {"CFG": "tuned"}
    given = Request("few_shot", "CLIPSVD", "BTMRI", [1], {**asked, "BACKBONE": "BiomedCLIP"})
    assert given.spec(base, "CLIPSVD", 16, 1).config.RUN.TUNED
    assert not given.spec(base, "ZeroshotCLIP", 16, 1).config.RUN.TUNED  # beside it in the table, with nothing to tune
    for dataset, backbone, words in (
        ("BTMRI", "ViT-B/16", "tuned on BiomedCLIP, not on ViT-B/16; set BACKBONE"),
        ("BTMRI", "demo", "tuned on BiomedCLIP, not on demo"),
        ("ISIC", "BiomedCLIP", "tuned nothing for ISIC in few_shot"),
    ):
        request = Request("few_shot", "CLIPSVD", dataset, [1], {**asked, "BACKBONE": backbone})
        with pytest.raises(ConfigError, match=words) as refused:
            request.spec(base, "CLIPSVD", 16, 1)
        assert "\n" not in str(refused.value)


def test_every_tuned_value_names_a_backbone_a_data_set_and_a_key():
    base, known = base_config(), dict(backbones.known())
    for path in (REPO / "configs" / "trainers").glob("*/tuned.yaml"):
        for backbone, parts in yaml.safe_load(path.read_text()).items():
            assert backbone in known, f"{path}: {backbone}"
            for protocol, dataset in ((p, d) for p, sets in parts.items() for d in sets):
                assert dataset in datasets.TABLE, f"{path}: {dataset}"
                request = Request(protocol, path.parent.name, dataset, [1], {"BACKBONE": backbone})
                assert request.spec(base, path.parent.name, 16, 1).config.RUN.TUNED


@pytest.mark.parametrize(
    "method, opts, why",
    [
        ("TipAdapter", "", "cache holds the training images"),
        ("LinearProbe", "", "a row of weights belongs to a class"),
        ("CoOp", "TRAINER.COOP.CSC True TRAINER.COOP.CTX_INIT ''", "class-specific context"),
        ("CoOp", "", ""),
        ("FineTune", "TRAINER.FINETUNE.MODE ft_head", "a row of its head belongs to a class"),
        ("FineTune", "", ""),
    ],
)
def test_what_serves_no_other_classes_says_why(method, opts, why):
    request = Request("base2new", method, "phantom", [1], {"METHODS": method, "OPTS": opts})
    specs = request.specs(base_config())
    assert [s.part for s in specs] == (["train"] if why else ["train_base", "test_new"])
    assert why in specs[0].why_not and bool(why) == bool(specs[0].why_not)
    few = Request("few_shot", method, "phantom", [1], {"METHODS": method, "OPTS": opts, "SHOTS": "1"})
    assert not few.specs(base_config())[0].why_not


def test_official_is_a_run_on_published_sentences_alone(tmp_path, monkeypatch):
    base, path = base_config(), tmp_path / "lists.json"
    names = datasets.info("BUSI").classnames
    lists = {name: [f"{name}, sentence {k}" for k in range(50)] for name in names}
    path.write_text(json.dumps(lists))
    published = tmp_path / "configs" / "trainers" / "BiomedCoOp"
    published.mkdir(parents=True)

    def label(**variables):
        request = Request("few_shot", "BiomedCoOp", "BUSI", [1], variables)
        return request.spec(base, "BiomedCoOp", 16, 1).config.RUN.HPARAMS

    given = f"TRAINER.BIOMEDCOOP.SENTENCES {path}"
    assert label() == label(OPTS=given) == "official but for its sentences"
    monkeypatch.setattr(reads, "CONFIGS", tmp_path / "configs")
    (published / "sentences.json").write_text(json.dumps({"sha256": {n: sha256_of(s) for n, s in lists.items()}}))
    assert (label(OPTS=given), label()) == ("official", "official but for its sentences")
    assert label(OPTS=f"{given} OPTIM.LR 1") == label(OPTS=given, EPOCHS="3") == "custom"
    path.write_text(json.dumps(lists | {names[0]: ["another"] * 50}))
    assert label(OPTS=given) == "official but for its sentences"
