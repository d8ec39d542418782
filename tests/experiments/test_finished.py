"""Finished means finished for exactly this: settings, split, weights, rows, code from outside, the source's training.

All runs are of one epoch on a few noise images, in this process.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from cilmp.experiments import sweep
from cilmp.experiments.collect import records
from cilmp.experiments.driver import run_protocol
from cilmp.experiments.run import Busy, claimed
from cilmp.experiments.settings import Request, base_config
from dassl.utils.errors import ConfigError, UserError
from dassl.utils.paths import REPO

NAMES = ("melanoma", "glaucoma", "pneumonia", "fracture")


def make_set(root, name="mydata", classes=NAMES, test=2, seed=0):
    """A set of noise images; `seed` says which of them are test images."""
    rng, split = np.random.default_rng(0), {"train": [], "val": [], "test": []}
    for label, classname in enumerate(classes):
        files = []
        for i in range(8 + test):
            path = Path(root, name, classname, f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
            files.append([f"{classname}/{i}.png", label, classname])
        order = np.random.default_rng(seed).permutation(len(files))
        for part, chosen in (("test", order[:test]), ("val", order[test : test + 2]), ("train", order[test + 2 :])):
            split[part] += [files[i] for i in sorted(chosen)]
    Path(root, name, "split.json").write_text(json.dumps(split))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """(DATA with `mydata`, run): run(method, protocol, seeds, **variables) -> records of the output."""
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    make_set(tmp_path / "data")

    def run(method="CoOp", protocol="few_shot", seeds=(1,), dataset="mydata", stem="table", output="out", **variables):
        env = {"DATA": str(tmp_path / "data"), "BACKBONE": "demo", "EPOCHS": "1", "SHOTS": "2", "METHODS": method,
               "OPTS": "DATALOADER.TRAIN_X.BATCH_SIZE 4"}  # fmt: skip
        run_protocol(Request(protocol, method, dataset, seeds, env | variables), stem, tmp_path / output)
        return records(tmp_path / output)

    return tmp_path, run


def times(found):
    return {str(r["folder"]): (r["folder"] / "results.json").stat().st_mtime_ns for r in found}


def test_the_same_is_not_repeated(place, capsys):
    _, run = place
    first = times(run())
    assert times(run()) == first and "1 finished runs found, not repeated" in capsys.readouterr().out


def test_a_data_set_prepared_anew_is_run_anew_beside_the_old(place, capsys):
    """Before: "2 finished runs found, not repeated"; a further seed then averaged two test sets into one cell."""
    root, run = place
    first = run(seeds=(1, 2))
    make_set(root / "data", seed=9)
    second = run(seeds=(1, 2, 3))
    said = capsys.readouterr().out
    assert "2 finished runs are not taken: their split has changed since; run anew beside them" in said
    assert len(second) == 5 and times(first).items() <= times(second).items()
    table = json.loads((root / "out" / "few_shot" / "mydata" / "table.json").read_text())
    assert len(table["rows"]) == 1 and len(table["data"][0]["parts"]["train_all"]["accuracy"]) == 3
    new = [r for r in second if str(r["folder"]) not in times(first)]
    assert len({r["test_sha256"] for r in new}) == 1 and first[0]["test_sha256"] != new[0]["test_sha256"]


def test_what_is_read_is_in_the_results(place):
    _, run = place
    (r,) = run()
    assert set(r["reads"]) == {"split", "groups", "weights"} and len(r["reads"]["weights"]) == 64
    assert r["spec"]["settings"]["OPTIM.MAX_EPOCH"] == 1 and r["key"] and r["spec"]["part"] == "train_all"


def test_a_method_that_draws_other_numbers_is_run_anew(place, capsys, monkeypatch):
    from cilmp.trainers.coop import CoOp

    _, run = place
    run()
    monkeypatch.setattr(CoOp, "draws", "another way")
    assert len(run()) == 2
    assert "1 finished runs are not taken: their way to draw random numbers has changed" in capsys.readouterr().out


def test_groups_are_read_too(place):
    root, run = place
    run()
    rows = [f"{c}/{i}.png,p{i}" for c in NAMES for i in range(10)]
    (root / "data" / "mydata" / "groups.csv").write_text("\n".join(["file,group", *rows]))
    assert len(run()) == 2


def test_replaced_weights_are_another_run(place):
    root, run = place
    weights = root / "model.safetensors"
    shutil.copy(REPO / "backbones" / "demo" / "model.safetensors", weights)
    run("ZeroshotCLIP", WEIGHTS=str(weights))
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    save_file({k: v * 1.01 if k == "logit_scale" else v for k, v in state.items()}, weights)
    assert len(run("ZeroshotCLIP", WEIGHTS=str(weights))) == 2


PLUGIN = '''
from dassl.engine import TRAINER_REGISTRY
from cilmp.trainers.coop import CoOp


@TRAINER_REGISTRY.register()
class {name}(CoOp):
    """An edited method."""
'''


def test_an_edited_plugin_is_another_run(place):
    """In processes of their own, as a plugin is loaded once a process."""
    root, _ = place
    plugin = root / "edited.py"

    def call():
        env = os.environ | {"DATA": str(root / "data"), "OUTPUT": str(root / "out"), "PLUGIN": str(plugin)}
        env |= {"SHOTS": "1", "BACKBONE": "demo", "EPOCHS": "1", "METHODS": "Edited CoOp"}
        words = [sys.executable, str(REPO / "cilmp"), "run", "few_shot", "Edited", "mydata", "1"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return [r["spec"]["method"] for r in records(root / "out")], done.stdout

    plugin.write_text(PLUGIN.format(name="Edited"))
    assert call()[0] == ["CoOp", "Edited"]
    plugin.write_text(PLUGIN.format(name="Edited") + "# a new thought\n")
    methods, said = call()
    assert methods == ["CoOp", "Edited", "Edited"] and "their plugin file has changed since" in said


def test_a_training_done_anew_is_tested_anew(place):
    _, run = place
    first = {r["spec"]["part"]: r for r in run(protocol="base2new")}
    path = first["train_base"]["folder"] / "results.json"
    path.write_text(path.read_text().replace('"schema"', '"edited": 1, "schema"'))
    before = times(first.values())
    after = times(run(protocol="base2new"))
    changed = [f for f in before if after[f] != before[f]]
    assert [Path(f).name for f in changed] == ["test_new"]


def test_a_resumed_run_does_not_take_up_another_split(place, monkeypatch):
    """Before: a run killed, the split made anew, resumed: trained on test images. By hand, in one folder: refused."""
    from cilmp.experiments import single as train

    root, _ = place
    argv = ["--trainer", "CoOp", "--dataset", "mydata", "--backbone", "demo", "--root", str(root / "data")]
    argv += ["--seed", "1", "--output-dir", str(root / "one"), "OPTIM.MAX_EPOCH", "1"]
    argv += ["DATALOADER.TRAIN_X.BATCH_SIZE", "4"]
    train.main(argv)
    make_set(root / "data", seed=5)
    with pytest.raises(UserError, match="holds a run that read another split than what is there now"):
        train.main(argv)


def test_folders_of_images_are_known_by_where_they_are(place):
    """Before: ImageFolder runs shared results across DATA; an X-ray result was shown for blood cells."""
    root, run = place
    for other in ("a", "b"):
        make_set(root / other, "images", classes=("x", "y"))
        (root / other / "images" / "split.json").unlink()
    run("ZeroshotCLIP", dataset="ImageFolder", DATA=str(root / "a" / "images"))
    assert len(run("ZeroshotCLIP", dataset="ImageFolder", DATA=str(root / "b" / "images"))) == 2


# ---- one owner for a fact


def test_opts_may_not_say_what_has_an_owner():
    with pytest.raises(ConfigError, match=r"DATASET.NUM_SHOTS has one owner; set SHOTS=3"):
        Request("few_shot", "CoOp", "phantom", [1], {"SHOTS": "1", "OPTS": "DATASET.NUM_SHOTS 3"})
    with pytest.raises(ConfigError, match="SEED has one owner"):
        Request("few_shot", "CoOp", "phantom", [1], {"OPTS": "SEED 3"})
    taken = Request("few_shot", "CILMP", "phantom", [1], {"OPTS": "MODEL.BACKBONE.NAME ViT-B/32 MODEL.LLM other"})
    spec = taken.spec(base_config(), "CILMP", 1, 1)
    assert (taken.backbone, spec.backbone, spec.llm) == ("ViT-B/32", "ViT-B/32", "other")
    assert spec.config.RUN.HPARAMS == "official" and spec.file != "demo"


def test_a_demo_run_says_demo():
    spec = Request("few_shot", "CoOp", "phantom", [1], {}).spec(base_config(), "CoOp", 1, 1)
    assert spec.config.RUN.HPARAMS == "demo"


def test_judged_on_val(place):
    """Before: TEST.SPLIT val trained and then failed on results.json."""
    root, run = place
    run(OPTS="TEST.SPLIT val DATALOADER.TRAIN_X.BATCH_SIZE 4")
    (r,) = records(root / "out", "val")
    assert r["split"] == "val" and r["n"] == 8 and records(root / "out") == []
    assert "Judged on val" in (root / "out" / "few_shot" / "mydata" / "table.md").read_text()


def test_a_sweep_chooses_on_val_and_tests_once(place, capsys):
    root, _ = place
    env = {"DATA": str(root / "data"), "BACKBONE": "demo", "EPOCHS": "1", "SHOTS": "2",
           "OPTS": "DATALOADER.TRAIN_X.BATCH_SIZE 4"}  # fmt: skip
    grid = ["OPTIM.LR=0.01,0.5"]
    assert sweep.main(root / "grid", "CoOp", "mydata", ["1", "2"], grid, "few_shot", "val", env) == 0
    assert len(records(root / "grid", "val")) == 4
    tested = records(root / "grid")
    assert len(tested) == 2 and {r["seed"] for r in tested} == {1, 2}
    rates = {r["spec"]["settings"]["OPTIM.LR"] for r in tested}
    assert len(rates) == 1 and f"chosen on val, 2 shots: LR={rates.pop()}" in capsys.readouterr().out
    tables = sorted(p.name for p in (root / "grid" / "few_shot" / "mydata").glob("*.md"))
    assert len(tables) == 2 and tables[0].endswith("-chosen.md")
    sweep.main(root / "grid", "CoOp", "mydata", ["1"], ["OPTIM.LR=0.02"], "few_shot", "test", env)
    assert len(list((root / "grid" / "few_shot" / "mydata").glob("*.md"))) == 3  # the first's table is kept


# ---- base to new


def test_three_classes_are_refused_before_anything_is_trained(place):
    """Before: a new half of one class and "new 100.0", counted into H."""
    root, run = place
    make_set(root / "data", "three", classes=NAMES[:3])
    with pytest.raises(UserError, match="needs at least four classes, two on each side: three has 3"):
        run(protocol="base2new", dataset="three")
    assert not (root / "out").exists()


READER = '''
from pathlib import Path
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum


@DATASET_REGISTRY.register()
class {name}(DatasetBase):
    def __init__(self, cfg):
        root = Path(cfg.DATASET.ROOT, "mydata")
        data = {{part: [Datum(str(p), label, label * 0, name) for label, name in enumerate({classes})
                        for i, p in enumerate(sorted((root / name).glob("*.png"))) if i % 3 == k]
                 for k, part in enumerate(("train", "val", "test"))}}
        super().__init__(train_x=data["train"], val=data["val"], test=data["test"])
'''


def test_a_reader_that_ignores_the_subset_is_given_it(place):
    """Before: a reader from the template trained and tested on all classes in both parts (58.9 / 58.9 / H 58.9)."""
    root, run = place
    plugin = root / "whole_reader.py"
    plugin.write_text(READER.format(name="WholeReader", classes=NAMES))
    found = {r["spec"]["part"]: r for r in run(protocol="base2new", dataset="WholeReader", PLUGIN=str(plugin))}
    base, new = (set(found[part]["classes"]) for part in ("train_base", "test_new"))
    assert base == set(NAMES[:2]) and new == set(NAMES[2:])
    assert found["test_new"]["n"] == 6 and found["test_new"]["reads"]["code"]
    few = root / "few_reader.py"
    few.write_text(READER.format(name="FewReader", classes=NAMES[:3]))
    with pytest.raises(UserError, match="nothing finished"):
        run(protocol="base2new", dataset="FewReader", PLUGIN=str(few), output="few")
    assert not [r for r in records(root / "few") if r["spec"]["part"] == "test_new"]


# ---- two at once


def test_a_run_folder_is_claimed_and_a_dead_holder_loses_it(tmp_path):
    folder = tmp_path / "a" / "run"
    code = f"import time; from cilmp.experiments.run import claimed\nwith claimed({str(folder)!r}):\n"
    code += "    print('in', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(Busy, match="another process is at work"), claimed(folder):
        pass
    holder.kill()
    holder.wait()
    with claimed(folder):
        pass


def test_two_commands_share_the_work_and_both_end_with_the_whole_table(place):
    root, _ = place
    env = os.environ | {"DATA": str(root / "data"), "OUTPUT": str(root / "out"), "BACKBONE": "demo", "EPOCHS": "2",
                        "SHOTS": "1 2", "METHODS": "CoOp"}  # fmt: skip
    call = [sys.executable, str(REPO / "cilmp"), "run", "few_shot", "CoOp", "mydata"]
    both = [subprocess.Popen([*call, *seeds], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for seeds in (("1", "2"), ("2", "1"))]  # fmt: skip
    said = [p.communicate(timeout=300)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    ran = sum(text.count("accuracy ") for text in said)
    assert ran == 4 and all("over seeds 1 2" in text for text in said), said
    assert "Not finished" not in "".join(said)


def test_waits_for_the_last_run_in_other_hands(place, capsys):
    root, run = place
    (r,) = run()
    (r["folder"] / "results.json").rename(root / "kept")
    lock = FileLock(r["folder"].parent / f".{r['folder'].name}.lock", thread_local=False)
    lock.acquire()
    import threading

    def finish():
        time.sleep(3)
        (root / "kept").rename(r["folder"] / "results.json")
        lock.release()

    threading.Thread(target=finish).start()
    run()
    said = capsys.readouterr().out
    assert "waiting for 1 runs that another process is at" in said and "finished by another process meanwhile" in said
