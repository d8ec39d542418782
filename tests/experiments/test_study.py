"""A study: the plan, what is run and shared, workers that die, files of specs. Runs are of an epoch on noise images."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cilmp.experiments import study as studies
from cilmp.experiments.collect import records
from cilmp.experiments.reads import Reads
from cilmp.experiments.spec_file import read_spec, write_spec
from cilmp.experiments.study import Plan, Study, estimate, run_study, study_of
from cilmp.experiments.workers import Memory, kind
from cilmp.knowledge import controls
from dassl.utils.errors import ConfigError, UnknownName, UserError
from dassl.utils.paths import REPO

from .test_finished import make_set

OPTS = "DATALOADER.TRAIN_X.BATCH_SIZE 4"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """(folder, make): make(**fields) -> a Study on the noise set `mydata`."""
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    make_set(tmp_path / "data")

    def make(methods=("ZeroshotCLIP", "CoOp"), seeds=("1", "2"), shots=("1", "2"), **fields):
        variables = {"DATA": str(tmp_path / "data"), "EPOCHS": "1", "OPTS": OPTS, **fields.pop("variables", {})}
        lists = {"datasets": ["mydata"], "protocols": ["few_shot"], "backbones": ["demo"], **fields}
        return Study("trial", list(methods), seeds=list(seeds), shots=list(shots), variables=variables, **lists)

    return tmp_path, make


def command(root, *words, **env):
    """`cilmp study` as a user types it; the finished process."""
    every = {**os.environ, "OUTPUT": str(root / "out"), "DATA": str(root / "data"), "OPTS": OPTS, "EPOCHS": "1", **env}
    words = [sys.executable, str(REPO / "cilmp"), "study", *map(str, words)]
    return subprocess.run(words, env=every, capture_output=True, text=True, timeout=300)


def test_a_study_is_the_product_of_its_axes(place):
    root, make = place
    plan = Plan(make(protocols=["few_shot", "base2new"], grid={"TRAINER.COOP.N_CTX": ["2", "4"]}), root / "out")
    few = [s for s in plan.specs if s.protocol == "few_shot"]
    new = [s for s in plan.specs if s.protocol == "base2new"]
    # two shots, two seeds; CoOp twice, as its key varies; zero-shot once, as it has no such key
    assert len(few) == 2 * 2 * (2 + 1) and len(new) == 2 * len(few)
    assert {s.config.TRAINER.COOP.N_CTX for s in few if s.method == "CoOp"} == {2, 4}
    assert [s.seed for s in plan.specs] == sorted(s.seed for s in plan.specs)  # tables fill up evenly
    header, rows = plan.table()
    assert dict(zip(header, rows[0]))["left"] == 12 and dict(zip(header, rows[0]))["about"] == "?"


def test_a_setting_of_one_method_leaves_others_as_they_are(place):
    """The untouched methods' runs are those of a study without the axis: nothing is run twice under another name."""
    root, make = place
    plain = {s.key for s in Plan(make(["ZeroshotCLIP"]), root / "out").specs}
    grid = Plan(make(grid={"TRAINER.COOP.N_CTX": ["2", "4"]}), root / "out").specs
    assert {s.key for s in grid if s.method == "ZeroshotCLIP"} == plain


def test_workers_give_the_same_results_as_one_process(place, capsys):
    root, make = place
    assert run_study(make(workers=2), root / "two") == 0
    assert "[8/8]" in capsys.readouterr().out
    assert run_study(make(), root / "one") == 0
    first, second = records(root / "one"), records(root / "two")
    assert len(first) == len(second) == 8
    for a, b in zip(first, second):
        assert (a["key"], a["seed"]) == (b["key"], b["seed"]) and a["metrics"] == b["metrics"]
    tables = [(root / out / "few_shot" / "mydata" / "trial.json") for out in ("one", "two")]
    one, two = ([row[:4] for row in json.loads(t.read_text())["rows"]] for t in tables)
    assert one == two and len(one) == 4
    run_study(make(workers=2), root / "two")
    assert "8 finished runs found, not repeated" in capsys.readouterr().out


def test_what_cannot_be_run_is_said_and_the_rest_goes_on(place, capsys):
    root, make = place
    study = make(datasets=["nowhere_to_be_found", "mydata"], seeds=["1"], shots=["1"])
    assert run_study(study, root / "out") == 1
    said = capsys.readouterr().out
    assert "not ready: unknown dataset 'nowhere_to_be_found'" in said and "(2 runs)" in said
    assert len(records(root / "out")) == 2
    assert "nowhere_to_be_found" in (root / "out" / "studies" / "trial-failed.txt").read_text()


def plugin(root, body):
    path = root / "crashing.py"
    path.write_text(
        "import os, signal, pathlib\n"
        "from dassl.engine import TRAINER_REGISTRY\n"
        "from cilmp.trainers.zsclip import ZeroshotCLIP\n"
        "@TRAINER_REGISTRY.register()\n"
        "class Crashing(ZeroshotCLIP):\n"
        f"    def test(self, split=None):\n        {body}\n        return super().test(split)\n"
    )
    return {"PLUGIN": str(path)}


def test_a_worker_that_is_killed_is_replaced_and_its_run_tried_again(place, capsys):
    root, make = place
    once = f"p = pathlib.Path({str(root / 'once')!r}); p.exists() or (p.touch(), os.kill(os.getpid(), signal.SIGKILL))"
    study = make(["Crashing", "ZeroshotCLIP"], ["1"], ["1"], workers=2, variables=plugin(root, once))
    assert run_study(study, root / "out") == 0
    said = capsys.readouterr().out
    assert "its worker was killed by SIGKILL (out of memory?); tried once more" in said
    assert len(records(root / "out")) == 2


def test_a_run_that_fails_twice_is_named_and_stops_nobody(place, capsys):
    root, make = place
    study = make(["Crashing", "ZeroshotCLIP"], ["1"], ["1"], variables=plugin(root, "raise RuntimeError('oh no')"))
    assert run_study(study, root / "out") == 1
    said = capsys.readouterr().out
    assert said.count("RuntimeError: oh no") == 3  # tried once more; failed; the list at the end
    assert "1 runs failed" in said and len(records(root / "out")) == 1


def test_killed_and_started_again_nothing_is_lost_or_run_twice(place):
    """kill -9 of the whole study in the middle, then the same command."""
    root, _ = place
    words = [sys.executable, str(REPO / "cilmp"), "study", "--methods", "ZeroshotCLIP", "CoOp", "--datasets", "mydata",
             "--backbones", "demo", "--shots", "1", "2", "--seeds", "1-2", "--workers", "2"]  # fmt: skip
    env = {**os.environ, "OUTPUT": str(root / "out"), "DATA": str(root / "data"), "OPTS": OPTS, "EPOCHS": "1"}
    first = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    while first.poll() is None and len(records(root / "out", quiet=True)) < 2:
        time.sleep(0.1)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(first.pid)], capture_output=True, text=True)
    for pid in [first.pid, *map(int, children.stdout.split())]:
        os.kill(pid, signal.SIGKILL)
    first.wait()
    before = {r["folder"]: (r["folder"] / "results.json").stat().st_mtime_ns for r in records(root / "out")}
    assert 2 <= len(before) < 8
    again = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(before)} finished runs found, not repeated" in again.stdout
    after = {r["folder"]: (r["folder"] / "results.json").stat().st_mtime_ns for r in records(root / "out")}
    assert len(after) == 8 and before.items() <= after.items()


def test_ctrl_c_ends_the_workers_too(place):
    root, _ = place
    words = [sys.executable, str(REPO / "cilmp"), "study", "--methods", "CoOp", "--datasets", "mydata", "--backbones",
             "demo", "--shots", "2", "--seeds", "1-2", "--workers", "2", "--epochs", "5000"]  # fmt: skip
    env = {**os.environ, "OUTPUT": str(root / "out"), "DATA": str(root / "data"), "OPTS": OPTS}
    started = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list((root / "out").rglob("log.txt")) and started.poll() is None:
        time.sleep(0.1)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(started.pid)], capture_output=True, text=True)
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=120)
    assert started.returncode == 130 and "nothing finished is lost" in errors and "Traceback" not in errors
    for pid in map(int, children.stdout.split()):
        assert not Path(f"/proc/{pid}").exists()


def test_a_spec_file_is_the_run(place):
    root, make = place
    spec = next(s for s in Plan(make(protocols=["base2new"]), root / "out").specs if s.source)
    write_spec(spec, root / "spec.json")
    read = read_spec(root / "spec.json", Reads())
    assert read.key == spec.key and read.folder("o") == spec.folder("o") and read.source.key == spec.source.key
    assert read.config == spec.config and str(read) == str(spec)
    make_set(root / "data", seed=9)
    with pytest.raises(UserError, match=r"the split has changed since .*spec\.json was written"):
        read_spec(root / "spec.json", Reads())
    content = json.loads((root / "spec.json").read_text())
    content["config"]["OPTIM"]["LR"] = 0.5
    (root / "spec.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="written by another version"):
        read_spec(root / "spec.json")
    (root / "spec.json").write_text("{}")
    with pytest.raises(UserError, match="not the file of a run"):
        read_spec(root / "spec.json")


def test_a_node_runs_a_spec_file(place):
    root, make = place
    spec = Plan(make(["ZeroshotCLIP"], ["1"], ["1"]), root / "out").specs[0]
    write_spec(spec, root / "spec.json")
    words = [sys.executable, str(REPO / "cilmp"), "train", "--spec", str(root / "spec.json")]
    env = {**os.environ, "OUTPUT": str(root / "out")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    assert [r["key"] for r in records(root / "out")] == [spec.key]
    (root / "data").rename(root / "moved")
    lost = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert lost.returncode == 2 and lost.stderr.startswith("error: ") and "Traceback" not in lost.stderr


def test_a_yaml_file_says_what_flags_say(place):
    root, _ = place
    tree = {"methods": ["zeroshotclip"], "datasets": ["mydata"], "backbones": ["demo"], "shots": [1], "seeds": "1-2"}
    (root / "mine.yaml").write_text(yaml.safe_dump(tree))
    done = command(root, root / "mine.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("few_shot"))
    assert row == ["few_shot", "mydata", "demo", "1", "2", "0", "2", "?"]
    assert not (root / "out").exists()  # a dry run writes nothing
    more = command(root, root / "mine.yaml", "--seeds", "1-3", "--dry-run")  # flags go before the file
    assert " 3 " in more.stdout


def test_what_a_run_makes_is_no_reason_against_it(place, capsys):
    """Before: rows that a run would make first kept its runs out of a dry plan."""
    root, make = place
    plan = Plan(make(["CILMP", "BiomedCoOp"], ["1"], ["1"], llms=["smollm2-135m"]), root / "out", make=False)
    plan.show()
    said = capsys.readouterr().out
    assert len(plan.specs) == 2 and not plan.cannot
    assert "made first: mydata: no representation by smollm2-135m for" in said
    assert "made first: mydata: no sentences by smollm2-135m for" in said
    lost = make(["BiomedCoOp"], ["1"], ["1"], variables={"OPTS": "TRAINER.BIOMEDCOOP.SENTENCES nowhere.json"})
    assert Plan(lost, root / "out", make=False).cannot  # a file of the user's own is nobody's to make


def test_a_list_of_grids_is_no_product(place):
    root, make = place
    grid = [{"TRAINER.COOP.N_CTX": ["2", "4"]}, {"TRAINER.COOP.CSC": ["True"], "OPTIM.LR": ["0.01", "0.02"]}]
    assert study_of({"set": grid}, "x").grid == grid and study_of({"set": grid[:1]}, "x").grid == grid[0]
    specs = Plan(make(methods=["CoOp"], seeds=["1"], shots=["1"], grid=grid), root / "out").specs
    found = [(s.config.TRAINER.COOP.N_CTX, s.config.TRAINER.COOP.CSC, s.config.OPTIM.LR) for s in specs]
    assert len(specs) == 2 + 2 and {f[:2] for f in found[2:]} == {(found[2][0], True)}
    for wrong in ("OPTIM.LR", ["OPTIM.LR=1", "OPTIM.LR=2"]):
        with pytest.raises(ConfigError, match="is no grid; write KEY"):
            study_of({"set": wrong}, "x")
    with pytest.raises(ConfigError, match="LR has no value"):
        study_of({"set": [{"OPTIM.LR": [0.1]}, {"OPTIM.LR": []}]}, "x")


def test_the_knowledge_preset_asks_what_the_rows_say_and_which_layer(tmp_path, monkeypatch):
    """Every kind with all rows, the real rows with each layer: no product; --set and --llms add to both grids."""
    from cilmp.experiments import commands

    asked = []
    monkeypatch.setattr(studies, "run_study", lambda study, *rest: asked.append(study))
    commands.study(["--preset", "knowledge", "--dry-run"])
    words = ["--llms", "smollm2-135m", "llama-3-8b", "--set", "OPTIM.LR=0.1"]
    commands.study(["--preset", "knowledge", "--dry-run", *words])
    plain, more = (study.requests() for study in asked)
    nodes = lambda requests: [tuple(r.opts) for r in requests if r.methods == ["CILMP"]]  # noqa: E731
    assert len(nodes(plain)) == len(controls.KINDS) + len(controls.LAYERS) and len(plain) == 1 + len(nodes(plain))
    assert {o[1] for o in nodes(plain)} == {*controls.KINDS, *controls.LAYERS}
    assert len(nodes(more)) == 2 * len(nodes(plain)) and all("OPTIM.LR" in o for o in nodes(more))


def test_bad_studies_are_one_line():
    for tree, error, words in (
        ({"method": ["CoOp"]}, UnknownName, "unknown key of a study .* did you mean 'methods'"),
        ({"seeds": []}, ConfigError, "seeds has no value"),
        ({"set": {"OPTIM.LR": []}}, ConfigError, "set: OPTIM.LR has no value"),
    ):
        with pytest.raises(error, match=words):
            study_of(tree, "mine.yaml")
    with pytest.raises(UnknownName, match="unknown protocol 'few-shots'"):
        Study(protocols=["few-shots"], methods=["CoOp"]).requests()
    with pytest.raises(UnknownName, match="unknown preset 'papr'"):
        studies.preset_file("papr")
    with pytest.raises(ConfigError, match="choose val or test"):
        Study(protocols=["full"], select="train").requests()


def test_what_is_left_out_is_said_and_no_failure(place, capsys):
    """Before: a set that a protocol is impossible on made every study with both end with exit code 1."""
    root, make = place
    asked = dict(protocols=["few_shot", "base2new"], seeds=["1"], shots=["1"])
    group = {"datasets": ["MyData"], "protocols": ["base2new"]}
    assert run_study(make(**asked, leave_out=[{**group, "datasets": ["mydata"]}]), root / "out") == 0
    said = capsys.readouterr().out
    assert "left out, as the study says: datasets mydata; protocols base2new" in said
    assert {r["spec"]["protocol"] for r in records(root / "out")} == {"few_shot"}
    some = Plan(make(**asked, leave_out=[{"methods": ["coop"], "protocols": ["base2new"]}]), root / "out").specs
    assert {(s.method, s.protocol) for s in some} == {("ZeroshotCLIP", "few_shot"), ("CoOp", "few_shot"),
                                                      ("ZeroshotCLIP", "base2new")}  # fmt: skip
    with pytest.raises(ConfigError, match="leave_out leaves nothing"):
        make(leave_out=[{"datasets": ["mydata"]}]).requests()


def test_mistakes_in_leave_out_are_one_line(place):
    root, _ = place
    (root / "mine.yaml").write_text("datasets: [mydata]\nleave_out: [{datasets: mydatta}]\n")
    done = command(root, root / "mine.yaml", "--dry-run")
    assert done.returncode == 2 and "unknown name in leave_out: datasets" in done.stderr, done.stderr
    assert "did you mean 'mydata'?" in done.stderr and done.stderr.count("\n") == 1
    for leave_out, words in (([{"sets": "BUSI"}], "unknown key of leave_out .* 'sets'"), (["BUSI"], "KEY: VALUE"),
                             ([{"datasets": []}], "leave_out: datasets has no value"), ([{}], "names nothing")):
        with pytest.raises(UserError, match=words):
            study_of({"leave_out": leave_out}, "mine.yaml")
    for preset in ("biomedcoop", "knowledge", "paper"):
        tree = yaml.safe_load(studies.preset_file(preset).read_text())
        asked = study_of(tree, preset)
        studies.check_leave_out(asked.leave_out, tree, preset)
        assert ("BUSI", "base2new") not in {(r.dataset, r.protocol.name) for r in asked.requests()}


def test_what_a_file_says_wrongly_is_never_taken_for_something_else():
    """Before: seeds 3-1 were 1 2 3, `force: false` repeated all runs, a key of no method of the study was ignored,
    and some mistakes were tracebacks."""
    for tree, words in (
        ({"seeds": "3-1"}, "seeds: '3-1' is no seed"), ({"seeds": "1-x"}, "'1-x' is no seed"),
        ({"slurm": 7}, "slurm: 7 says nothing; write KEY: VALUE"), ({"data": ["a", "b"]}, "data: .* is not one value"),
        ({"methods": {"CoOp": 1}}, "methods: .* is no word"), ({"shots": [1, [2]]}, r"shots: \[2\] is no word"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            study_of(tree, "mine.yaml")
    assert study_of({"force": False}, "x").variables == {} and study_of({"force": True}, "x").variables["FORCE"] == "1"
    for workers in (0, -1, "two"):
        with pytest.raises(ConfigError, match=f"--workers {workers}: give a whole number above 0"):
            study_of({"workers": workers, "protocols": ["few_shot"]}, "x").requests()
    for key in ("TRAINER.COOOP.N_CTX", "TRAINER.CILMP.LAYERS"):
        with pytest.raises(ConfigError, match=f"{key} is a setting of no method of this study"):
            study_of({"methods": ["CoOp"], "protocols": ["few_shot"], "set": {key: [1]}}, "x").requests()
    with pytest.raises(UserError, match="unknown configuration key 1"):
        asked = study_of({"methods": ["CoOp"], "protocols": ["few_shot"], "set": {1: [2]}}, "x")
        Plan(asked, "nowhere")


def test_lines_tell_runs_apart(place, capsys):
    """Before: one line for the runs of every data set, protocol, backbone and setting."""
    root, make = place
    make_set(root / "data" / "more")
    (root / "data" / "more" / "mydata").rename(root / "data" / "other")
    study = make(["CoOp"], ["1"], ["1"], datasets=["mydata", "other"], grid={"OPTIM.LR": ["0.1", "0.01"]})
    assert run_study(study, root / "out") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    named = [line.partition("] ")[2].partition(":")[0] for line in lines]
    assert len(set(named)) == 4 and "CoOp, 1 shot, seed 1, train_all, other, LR=0.01" in named


def test_a_kept_study_means_the_same_elsewhere(place, monkeypatch):
    """Before: `data: data` of the folder the study was started in, and FORCE, which repeated all that was done."""
    root, make = place
    monkeypatch.chdir(root)
    (root / "mine.py").write_text("")
    variables = {"DATA": "data", "PLUGIN": "mine.py", "FORCE": "1"}
    leave_out = [{"datasets": ["mydata"], "protocols": ["base2new"]}]
    studies.save(make(variables=variables, leave_out=leave_out), root / "out")
    kept = yaml.safe_load((root / "out" / "studies" / "trial.yaml").read_text())
    assert kept["data"] == str(root / "data") and kept["plugin"] == str(root / "mine.py") and "force" not in kept
    assert kept["leave_out"] == leave_out


def test_a_list_of_failures_goes_when_nothing_fails(place):
    root, make = place
    listed = root / "out" / "studies" / "trial-failed.txt"
    lost = make(["ZeroshotCLIP"], ["1"], ["1"], datasets=["nowhere_to_be_found", "mydata"])
    assert run_study(lost, root / "out") == 1 and listed.is_file()
    assert run_study(make(["ZeroshotCLIP"], ["1"], ["1"]), root / "out") == 0 and not listed.exists()


class Spec:
    def __init__(self, method):
        self.method, self.dataset, self.backbone, self.shots, self.source = method, "d", "b", 1, None


def test_times_and_memory_are_judged_by_runs_of_the_same_kind():
    known = {kind(Spec("A")): [10.0, 20.0, 90.0]}
    assert estimate([Spec("A"), Spec("A")], known, workers=2) == "0:00:20"
    assert estimate([Spec("A"), Spec("B")], known) == "0:00:20 + ?"
    assert estimate([Spec("B")], known) == "?" and estimate([], known) == "-"

    class Worker:
        def __init__(self, spec, device="0"):
            self.spec, self.device = spec, device

    memory = Memory("nowhere")
    memory._known = {kind(Spec("A")): [400.0], kind(Spec("B")): [600.0]}
    memory.size = lambda device: 1000.0
    idle = Worker(None)
    assert memory.fits(Spec("A"), idle, [Worker(Spec("A")), idle])  # 800 of 900
    assert not memory.fits(Spec("B"), idle, [Worker(Spec("A")), idle])  # 1000 of 900
    assert memory.fits(Spec("B"), idle, [Worker(Spec("A"), "1"), idle])  # on another GPU
    memory._known = {kind(Spec("A")): [150.0]}
    assert memory.fits(Spec("C"), idle, [Worker(Spec("A")), idle])  # not run yet: as four of what its backbone took
    assert not memory.fits(Spec("C"), idle, [Worker(Spec("B")), idle])  # 1200 of 900
    memory._known, memory.output = {}, "/nonexistent"
    assert not memory.fits(Spec("A"), idle, [Worker(Spec("A")), idle])  # never measured: alone first
    assert memory.fits(Spec("A"), idle, [idle])


def test_a_spec_file_does_not_speak_of_methods_it_does_not_run(place):
    """Before: a plugin that the writing process had loaded was an unknown key where the file was read."""
    root, make = place
    variables = plugin(root, "pass")
    spec = Plan(make(["ZeroshotCLIP"], ["1"], ["1"], variables=variables), root / "out").specs[0]
    write_spec(spec, root / "spec.json")
    trainers = json.loads((root / "spec.json").read_text())["config"]["TRAINER"]
    assert set(trainers) == {"NAME", "ZEROSHOTCLIP"} and read_spec(root / "spec.json").key == spec.key
