"""A study on a real SLURM of one node: submitted, followed, killed in the middle, without its data."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cilmp.experiments.collect import records
from cilmp.experiments.slurm import in_queue, last_word
from dassl.utils.paths import REPO

OPTS = "DATALOADER.TRAIN_X.BATCH_SIZE 4 DATALOADER.NUM_WORKERS 0"


@pytest.fixture
def study(tmp_path, tiny_split_dataset):
    """(folder, start): start(*words, **environment) -> the process of a `cilmp study` on two tiny sets."""
    classes = ("melanoma", "glaucoma", "pneumonia", "fracture")
    for name in ("first", "second"):
        tiny_split_dataset(name, classes, train=4)

    def start(*words, **env):
        every = {**os.environ, "OUTPUT": str(tmp_path / "out"), "CILMP_CACHE": str(tmp_path / "cache"),
                 "DATA": str(tmp_path / "data"), "OPTS": OPTS, "EPOCHS": "1", **env}  # fmt: skip
        command = [sys.executable, str(REPO / "cilmp"), "study", "--backbones", "demo", "--shots", "2", "--launcher",
                   "slurm", *words]  # fmt: skip
        return subprocess.Popen(command, env=every, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return tmp_path, start


def ended(process, seconds=300):
    out, errors = process.communicate(timeout=seconds)
    return process.returncode, out, errors


def test_the_script_is_shown_and_nothing_submitted(study):
    root, start = study
    words = ("--methods", "ZeroshotCLIP", "CoOp", "--datasets", "first", "--seeds", "1", "--print", "--partition",
             "short", "--gpus", "1", "--time", "2:00:00", "--at-once", "4")  # fmt: skip
    code, out, errors = ended(start(*words))
    assert code == 0, errors
    script = out[out.index("#!/bin/bash") :]
    for line in ("#SBATCH --array=0-1%4", "#SBATCH --partition=short", "#SBATCH --gpus-per-task=1", "#SBATCH --requeue",
                 "#SBATCH --time=2:00:00"):  # fmt: skip
        assert line in script.splitlines()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    tasks = sorted((root / "out" / "studies").glob("*/tasks/*/0.json"))
    assert [json.loads(p.read_text())["config"]["TRAINER"]["NAME"] for p in tasks] == ["ZeroshotCLIP", "CoOp"]
    assert not (root / "out" / "few_shot").exists() and "pickle" not in script


def test_without_slurm_it_says_so(study):
    _, start = study
    code, _, errors = ended(start("--methods", "ZeroshotCLIP", "--datasets", "first", "--seeds", "1", PATH="/nowhere"))
    assert code == 2 and "no sbatch here" in errors and "Traceback" not in errors


def test_a_task_without_its_data_is_named_and_the_rest_goes_on(slurm, study):
    root, start = study
    words = ("--methods", "ZeroshotCLIP", "CoOp", "--datasets", "first", "second", "--seeds", "1", "--protocols",
             "few_shot", "base2new", "--cpus", "1")  # fmt: skip
    process = start(*words)
    line = next(line for line in process.stdout if line.startswith("job "))
    (root / "data" / "second").rename(root / "data" / "away")  # the node does not have it
    code, out, errors = ended(process)
    script = Path(re.search(r": (\S+array\.sh);", line)[1]).read_text()
    assert "train --spec" in script
    names = [(r["method"], r["dataset"], r["spec"]["part"]) for r in records(root / "out")]
    assert {n[1] for n in names} == {"first"} and len(names) == 2 * (1 + 2), (names, out, errors)
    failed = r"ZeroshotCLIP, 2 shots, seed 1, train_all, few_shot, second: failed - .*second"
    assert code == 1 and re.search(failed, out), out
    (root / "data" / "away").rename(root / "data" / "second")
    code, out, errors = ended(start(*words))
    assert code == 0 and "6 finished runs found, not repeated" in out, out + errors
    assert len(records(root / "out")) == 12 and (root / "out" / "base2new" / "second").is_dir()


def test_a_task_that_is_requeued_resumes_and_gives_the_same(slurm, study):
    root, start = study
    words = ("--methods", "CoOp", "--datasets", "first", "--seeds", "1", "--epochs", "800", "--cpus", "1")
    process = start(*words, OUTPUT=str(root / "whole"))
    assert ended(process)[0] == 0
    process = start(*words)
    job = next(line for line in process.stdout if line.startswith("job ")).split()[1].rstrip(":")
    end = time.monotonic() + 240
    while not any("epoch [5/" in log.read_text() for log in (root / "out").rglob("log.txt")):
        assert time.monotonic() < end, "the task did not start"
        time.sleep(0.05)
    subprocess.run(["scontrol", "requeue", f"{job}_0"], check=True)  # what preemption does
    code, out, errors = ended(process)
    assert code == 0, out + errors
    (one,), (two,) = records(root / "whole"), records(root / "out")
    first, second = sorted(two["folder"].glob("log.txt*"))
    assert "epoch [800/800]" not in first.read_text() and "Found checkpoints" in second.read_text()
    assert one["metrics"] == two["metrics"] and in_queue(job) == []


def test_the_last_word_of_a_log(tmp_path):
    log = tmp_path / "0.log"
    assert "left no word" in last_word(log)
    log.write_text("warning: x\nerror: no data here\nslurmstepd: done\n")
    assert last_word(log) == "error: no data here"


def test_an_output_of_any_name(study, slurm):
    root, start = study
    output = root / 'my $HOME "runs" 5%a'
    code, out, errors = ended(start("--methods", "ZeroshotCLIP", "--datasets", "first", "--seeds", "1",
                                    OUTPUT=str(output)))  # fmt: skip
    assert code == 0, out + errors
    assert len(records(output)) == 1 and list((output / "studies").glob("*/logs/0.log"))
