"""Bundles: they answer as their run does, and one changed byte, a pickle or a name that leads out is refused."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import cilmp
from cilmp.__main__ import main
from cilmp.inference import bundle
from cilmp.inference.export import _without_places, export
from cilmp.tests.inference.runs import NAMES, finished_run
from dassl.utils.errors import UserError
from dassl.utils.io import sha256_file, sha256_of
from dassl.utils.paths import REPO


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run folder, test images, its probabilities) of CILMP."""
    return finished_run("CILMP", tmp_path_factory.mktemp("cilmp"))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export(run[0], tmp_path_factory.mktemp("bundle") / "b", with_backbone=True)


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_it_answers_as_its_run(run, exported):
    assert np.abs(cilmp.load(exported).predict_proba(run[1]) - run[2]).max() < 1e-5
    again = export(exported, exported.parent / "again")
    assert np.array_equal(cilmp.load(again).predict_proba(run[1]), cilmp.load(run[0]).predict_proba(run[1]))


def test_what_is_in_it(exported, capsys):
    files = set(bundle.read(exported)["files"])
    assert files == {"README.md", "results.json", "kept.json", "knowledge.safetensors",
                     "VLPromptLearner/learner.safetensors", "backbone/open_clip_config.json",
                     "backbone/open_clip_model.safetensors"}  # fmt: skip
    card = (exported / "README.md").read_text()
    for said in ("No medical device", *NAMES, "95 % interval", "| accuracy |", "| heart | 6 | 0 |", "not calibrated"):
        assert said in card, said
    text = "".join(p.read_text() for p in exported.glob("*.json"))
    assert str(REPO) not in text and "/tmp" not in text, "a folder of this machine"


def test_it_runs_where_nothing_else_is(run, exported, tmp_path):
    """Another process, an empty cache and home, no run, no data; and no library is loaded that is not used."""
    packages = os.environ.get("PYTHONPATH")  # where what we need is not installed beside Python, it is here
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CILMP_CACHE": str(tmp_path / "cache"),
           "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
           "PYTHONPATH": os.pathsep.join([str(REPO), *filter(None, [packages])])}  # fmt: skip
    code = ("import sys; from cilmp.__main__ import main; code = main(sys.argv[1:])\n"
            "slow = {'peft', 'sklearn', 'pandas', 'matplotlib', 'accelerate'} & set(sys.modules)\n"
            "sys.exit(str(slow) if slow else code)")  # fmt: skip
    words = [sys.executable, "-c", code, "predict", str(exported), run[1][0], "--out", "o.json"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "o.json").read_text())["predictions"]
    assert [row[f"p({name})"] for name in NAMES] == pytest.approx(run[2][0].tolist(), abs=1e-5)


def test_one_changed_byte_is_named(copied):
    for name in [*bundle.read(copied)["files"], bundle.FILE]:
        path = copied / name
        whole = path.read_bytes()
        place = whole.index(b'"method"') + 12 if name == bundle.FILE else len(whole) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError) as error:
            cilmp.load(copied)
        assert str(path) in str(error.value) and "\n" not in str(error.value), str(error.value)
        path.write_bytes(whole)
    cilmp.load(copied)


def reseal(folder, change):
    """bundle.json as somebody would write it who knows how."""
    content = json.loads((folder / bundle.FILE).read_text())
    change(content)
    content["sha256"] = sha256_of({k: v for k, v in content.items() if k != "sha256"})
    (folder / bundle.FILE).write_text(json.dumps(content))


OUTSIDE = ["../secret.json", "/etc/passwd.json", "a/../../b.json", "C:\\b.json", "a\\..\\..\\b.json"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_refused(copied, name):
    reseal(copied, lambda content: content["files"].update({name: "0" * 64}))
    with pytest.raises(UserError, match="outside the bundle"):
        cilmp.load(copied)


def test_a_bundle_reads_nothing_beside_it(copied, exported, tmp_path):
    """Tensors and backbone of another folder, which a forged bundle may name, are not looked at."""
    reseal(copied, lambda content: content["backbone"].update(folder="../elsewhere"))
    with pytest.raises(UserError, match="names a backbone outside the bundle"):
        cilmp.load(copied)
    reseal(copied, lambda content: content["backbone"].update(folder=""))
    kept = json.loads((copied / "kept.json").read_text()) | {"source": "../elsewhere"}
    (copied / "kept.json").write_text(json.dumps(kept))
    reseal(copied, lambda content: content["files"].update({"kept.json": sha256_file(copied / "kept.json")}))
    assert cilmp.load(copied).learned_in == copied


class Trap:
    def __reduce__(self):
        return exit, (1,)


def test_a_pickle_is_never_opened(copied):
    import pickle

    learner = "VLPromptLearner/learner.safetensors"
    for write in (lambda p: p.write_bytes(pickle.dumps(Trap())), lambda p: torch.save({"ctx": torch.zeros(2)}, p)):
        write(copied / learner)
        with pytest.raises(UserError, match=r"learner\.safetensors was changed"):
            cilmp.load(copied)
        reseal(copied, lambda content: content["files"].update({learner: sha256_file(copied / learner)}))
        with pytest.raises(UserError, match=r"learner\.safetensors can't be read as safetensors"):
            cilmp.load(copied)
    reseal(copied, lambda content: content["files"].update({"more.pkl": "0" * 64}))
    with pytest.raises(UserError, match=r"'more\.pkl', and a bundle holds"):
        cilmp.load(copied)


def test_a_file_that_is_not_listed_or_not_there(copied):
    (copied / "calibration.json").write_text("{}")
    with pytest.raises(UserError, match=r"calibration\.json is no file of the bundle"):
        cilmp.load(copied)
    (copied / "calibration.json").unlink()
    (copied / "kept.json").unlink()
    with pytest.raises(UserError, match=r"kept\.json is missing"):
        cilmp.load(copied)


def test_where_it_may_not_go(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(UserError, match="not empty"):
        export(run[0], tmp_path / "full")
    with pytest.raises(UserError, match="USER/NAME"):
        main(["export", str(run[0]), str(tmp_path / "b"), "--push", "me"])
    assert [p.name for p in tmp_path.iterdir()] == ["full"], "nothing half-written"


def test_no_folder_of_this_machine_travels(tmp_path, monkeypatch):
    """Names of models have strokes, too: what leads nowhere stays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mrs_smith").mkdir()
    (tmp_path / "mrs_smith" / "w.pt").write_text("")
    there = ["mrs_smith/w.pt", "./w.pt", "../mrs_smith/w.pt", str(tmp_path / "w.pt"), "~/w.pt"]
    stay = ["ViT-B/16", "timm/vit_base_patch16_clip_224.openai", "red and/or blue", "x/" * 5000, 7, None]
    assert _without_places({"a": there, "b": [stay]}) == {"a": ["w.pt"] * 5, "b": [stay]}
