"""Real checkouts of the CoOp family, given by UPSTREAM=FOLDER[:FOLDER ...]: their train.py on our dassl, and their
files as plugins; every trainer and reader is listed with its outcome (pytest -s prints the table)."""

import os
from pathlib import Path

import pytest

from cilmp.tests.upstream.trial import Trial

CHECKOUTS = [Path(p).expanduser().resolve() for p in os.environ.get("UPSTREAM", "").split(":") if p]


@pytest.fixture(scope="module", params=CHECKOUTS or [None], ids=lambda p: p.name if p else "none")
def trial(request, tmp_path_factory, shared_data):
    if request.param is None:
        pytest.skip("no checkout to run: UPSTREAM=FOLDER[:FOLDER ...] names clones of CoOp and its relatives")
    return Trial(request.param, tmp_path_factory.mktemp("upstream"), shared_data / "oracle" / "peers" / "weights.py")


def show(trial, kind, name, way, outcome):
    if isinstance(outcome, list):
        outcome = "gives {} train, {} val, {} test images".format(*map(len, outcome))
    words = f"accuracy {outcome}" if isinstance(outcome, float) else outcome
    print(f"| {trial.root.name} | {kind} | {name} | {way} | {words} |", flush=True)


def test_every_trainer_runs_as_a_plugin_as_it_runs_by_its_own_train_py(trial):
    own = trial.own_trainers()
    assert set(own) == set(trial.facts["trainers"]), trial.said
    for name in own:
        show(trial, "trainer", name, "train.py", own[name])
    plugin = trial.plugin_trainers()
    for name in own:
        show(trial, "trainer", name, "plugin", plugin.get(name, "not run"))
    ran = {name: value for name, value in own.items() if isinstance(value, float)}
    assert {name: plugin.get(name) for name in ran} == ran, trial.said
    assert not [v for n, v in plugin.items() if n not in ran and isinstance(v, float)]
    assert set(plugin) == set(own) and "Traceback" not in trial.said


def test_every_reader_gives_its_lists_both_ways(trial):
    own = trial.own_readers()
    for name in own:
        show(trial, "reader", name, "train.py", own[name])
    plugin = {name: trial.plugin_reader(name) for name in own}
    for name in own:
        show(trial, "reader", name, "plugin", plugin[name])
    gave = {name: value for name, value in own.items() if isinstance(value, list)}
    assert gave and {name: plugin[name] for name in gave} == gave
    assert not [n for n, v in plugin.items() if n not in gave and isinstance(v, list)]
