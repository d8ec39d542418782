"""The commands users type, as they type them: from another folder, with a blank in the path, twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dassl.utils.paths import REPO


def driver(output, *words, cwd=None, **environ):
    env = {k: v for k, v in os.environ.items() if k not in ("DATA", "SHOTS", "METHODS")}
    env |= {"OUTPUT": str(output), **environ}
    call = [sys.executable, str(REPO / "cilmp"), "run", *words]
    return subprocess.run(call, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """One base-to-new run of the demo, and where it lies."""
    folder = tmp_path_factory.mktemp("with a blank")
    done = driver(folder / "out put", "base2new", "CILMP", "phantom", "1", cwd=folder, EPOCHS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_main_job_ends_with_its_table(first):
    folder, printed = first
    place = folder / "out put" / "base2new" / "phantom"
    assert "ZeroshotCLIP" in printed and "CILMP" in printed and str(place / "table.md") in printed
    table = json.loads((place / "table.json").read_text())
    assert [row[0] for row in table["rows"]] == ["ZeroshotCLIP", "CoOp", "CILMP"]
    runs = sorted(place.glob("*/demo/shots16/*/seed1/*/results.json"))
    assert {p.parent.name for p in runs} == {"train_base", "test_new"} and len(runs) == 6
    results = [json.loads(p.read_text()) for p in runs]
    for subset in ("base", "new"):
        assert len({r["split_sha256"] for r in results if r["subset"] == subset}) == 1
    assert all((p.parent / "log.txt").is_file() and (p.parent / "config.yaml").is_file() for p in runs)


def test_second_call_repeats_nothing_and_force_does(first):
    folder, _ = first
    place = folder / "out put" / "base2new" / "phantom"
    stamps = {p: p.stat().st_mtime_ns for p in place.glob("*/demo/shots16/*/seed1/*/results.json")}
    again = driver(folder / "out put", "base2new", "CILMP", "phantom", "1", EPOCHS="1")
    assert again.returncode == 0 and "6 finished runs found" in again.stdout
    assert all(p.stat().st_mtime_ns == t for p, t in stamps.items())
    forced = driver(folder / "out put", "base2new", "CoOp", "phantom", "1", EPOCHS="1", FORCE="1", METHODS="CoOp")
    assert forced.returncode == 0
    changed = [p for p, t in stamps.items() if p.stat().st_mtime_ns != t]
    assert len(changed) == 2 and all("CoOp" in str(p) for p in changed)


def test_a_changed_setting_is_a_new_run(first):
    folder, _ = first
    done = driver(folder / "out put", "base2new", "CoOp", "phantom", "1", EPOCHS="2", METHODS="CoOp")
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "out put" / "base2new" / "phantom" / "CoOp" / "demo" / "shots16").iterdir())) == 2


def test_few_shot_and_full(tmp_path):
    done = driver(tmp_path, "few_shot", "CoOp", "phantom", "1", EPOCHS="1", SHOTS="1 2", METHODS="CoOp")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "few_shot" / "phantom" / "table.png").is_file()
    rows = json.loads((tmp_path / "few_shot" / "phantom" / "table.json").read_text())["rows"]
    assert [r[:2] for r in rows] == [["CoOp", "1"], ["CoOp", "2"]]
    done = driver(tmp_path, "full", "ZeroshotCLIP", "phantom", "1")
    assert done.returncode == 0 and (tmp_path / "full" / "phantom" / "table.md").is_file()


def test_interrupted_and_taken_up_again(tmp_path):
    env = os.environ | {"OUTPUT": str(tmp_path), "EPOCHS": "400", "METHODS": "CoOp"}
    call = [sys.executable, str(REPO / "cilmp"), "run", "base2new", "CoOp", "phantom", "1"]
    running = subprocess.Popen(call, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    logs = "base2new/phantom/CoOp/*/*/*/seed1/train_base/log.txt"
    while running.poll() is None and not any("epoch [" in path.read_text() for path in tmp_path.glob(logs)):
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=180)
    assert running.returncode == 130 and "goes on where it was" in errors and "Traceback" not in errors
    assert not list(tmp_path.glob("**/results.json"))
    done = driver(tmp_path, "base2new", "CoOp", "phantom", "1", EPOCHS="1", METHODS="CoOp")
    assert done.returncode == 0, done.stderr


def test_the_papers_setting_without_its_weights_says_what_to_set(shared_data, tmp_path):
    """At the door, before any method of the table trains."""
    done = driver(tmp_path, "base2new", "CILMP", "mixed_six", "1", DATA=str(shared_data), HF_HUB_OFFLINE="1")
    assert done.returncode != 0 and "Traceback" not in done.stderr + done.stdout
    assert "BACKBONE=" in done.stdout + done.stderr or "LLM=" in done.stdout + done.stderr
    assert not list(tmp_path.rglob("results.json")) and not list(tmp_path.rglob("log.txt"))


@pytest.mark.parametrize("script", sorted(p.relative_to(REPO).as_posix() for p in Path(REPO, "scripts").rglob("*.sh")))
def test_shell_scripts_parse(script):
    assert subprocess.run(["bash", "-n", str(REPO / script)], capture_output=True).returncode == 0
