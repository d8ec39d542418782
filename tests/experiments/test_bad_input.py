"""Bad input gets one clear line: what, where, how to mend it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cilmp.experiments import single as train
from dassl.utils.errors import UserError
from dassl.utils.paths import REPO


@pytest.fixture
def mydata(tmp_path):
    """DATA with a set `mydata`: two classes of 64-pixel noise. Returns (DATA, its split as a dict, a saver)."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    split = {"train": [], "val": [], "test": []}
    for label, name in enumerate(("melanoma", "glaucoma")):
        for part, count in (("train", 4), ("val", 1), ("test", 2)):
            for i in range(count):
                path = root / "mydata" / name / f"{part}{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
                split[part].append([f"{name}/{part}{i}.png", label, name])

    def save(changed):
        (root / "mydata" / "split.json").write_text(json.dumps(changed))

    save(split)
    return root, split, save


def call(*words, root="", out=None, trainer="CoOp", dataset="mydata", backbone="demo", opts=()):
    argv = ["--trainer", trainer, "--dataset", dataset, "--backbone", backbone, "--root", str(root), "--seed", "1"]
    argv += ["--config-file", str(REPO / "configs" / "trainers" / "demo.yaml"), *words]
    argv += ["--output-dir", str(out)] if out else []
    train.main([*argv, "OPTIM.MAX_EPOCH", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", *map(str, opts)])


def line(excinfo):
    text = str(excinfo.value)
    assert "\n" not in text and len(text) > 20
    return text


def fails(*args, **kwargs):
    with pytest.raises(UserError) as excinfo:
        call(*args, **kwargs)
    return line(excinfo)


def test_unknown_names_list_what_there_is_and_the_nearest(mydata, tmp_path):
    root, *_ = mydata
    assert "did you mean 'CoOp'" in fails(trainer="CoOpp", root=root, out=tmp_path / "a")
    text = fails(dataset="mydatta", root=root, out=tmp_path / "b")
    assert "did you mean 'mydata'" in text and "cilmp prepare folder" in text
    assert "did you mean 'demo'" in fails(backbone="demmo", root=root, out=tmp_path / "c")


def test_missing_data_root(tmp_path):
    text = fails(root=tmp_path / "nowhere", out=tmp_path / "o")
    assert str(tmp_path / "nowhere") in text and "cilmp prepare" in text


def test_split_mistakes(mydata, tmp_path):
    root, split, save = mydata
    save(split | {"test": [*split["test"], ["melanoma/none.png", 0, "melanoma"]]})
    assert "melanoma/none.png" in fails(root=root, out=tmp_path / "1")
    save({k: [[p, 2 * y, c] for p, y, c in v] for k, v in split.items()})
    assert "label" in fails(root=root, out=tmp_path / "2")
    save(split | {"train": [[split["train"][0][0], 0, "nevus"], *split["train"][1:]]})
    assert "nevus" in fails(root=root, out=tmp_path / "3")
    save(split | {"val": [split["train"][0]]})
    assert split["train"][0][0] in fails(root=root, out=tmp_path / "4")
    (root / "mydata" / "split.json").write_text("{")
    assert "not valid JSON" in fails(root=root, out=tmp_path / "5")


def test_unreadable_image_by_its_path(mydata, tmp_path):
    root, *_ = mydata
    broken = root / "mydata" / "melanoma" / "train1.png"
    broken.write_bytes(b"no image")
    assert str(broken) in fails(root=root, out=tmp_path / "a")
    call(root=root, out=tmp_path / "b", opts=["DATASET.ON_BAD_IMAGE", "skip", "DATALOADER.TRAIN_X.BATCH_SIZE", 2])
    assert (tmp_path / "b" / "results.json").is_file()


def test_class_without_representation_names_the_command(mydata, tmp_path):
    root, *_ = mydata
    text = fails("--llm", "smollm2-135m", trainer="CILMP", root=root, out=tmp_path / "o")
    assert "cilmp extract --dataset mydata --llm smollm2-135m" in text


def test_too_long_prompt_names_the_class(mydata, tmp_path):
    root, split, save = mydata
    long = "melanoma " * 80
    save({k: [[p, y, c if y else long.strip()] for p, y, c in v] for k, v in split.items()})
    text = fails(root=root, out=tmp_path / "o", opts=["TRAINER.COOP.N_CTX", 4])
    assert "melanoma melanoma" in text and "takes 77" in text


def test_config_keys_and_types(mydata, tmp_path):
    root, *_ = mydata
    assert "did you mean TRAINER.COOP.N_CTX" in fails(root=root, out=tmp_path / "o", opts=["TRAINER.COOP.NCTX", 4])
    assert "must be a whole number" in fails(root=root, out=tmp_path / "o", opts=["TRAINER.COOP.N_CTX", "many"])
    assert "choose fp32, amp, bf16, fp16" in fails(root=root, out=tmp_path / "o", opts=["TRAINER.COOP.PREC", "fp8"])


def test_checkpoints_and_folders_of_other_runs(mydata, tmp_path):
    root, *_ = mydata
    call(root=root, out=tmp_path / "coop", opts=["TRAINER.COOP.N_CTX", 4])
    text = fails(root=root, out=tmp_path / "coop", opts=["TRAINER.COOP.N_CTX", 8])
    assert "holds another run (TRAINER.COOP.N_CTX 4 there, 8 now" in text
    load = ["--eval-only", "--model-dir", str(tmp_path / "coop")]
    assert "another backbone, LLM, prompt length" in fails(*load, root=root, out=tmp_path / "e1",
                                                          opts=["TRAINER.COOP.N_CTX", 8])  # fmt: skip
    call(root=root, out=tmp_path / "csc", opts=["TRAINER.COOP.CSC", True])
    path = tmp_path / "csc" / "prompt_learner" / "model.pth.tar-1"
    path.write_bytes(path.read_bytes()[:1000])
    text = fails("--eval-only", "--model-dir", str(tmp_path / "csc"), "--load-epoch", "1", root=root,
                 out=tmp_path / "e2", opts=["TRAINER.COOP.CSC", True])  # fmt: skip
    assert "truncated" in text
    assert "no checkpoint" in fails(*load, "--load-epoch", "7", root=root, out=tmp_path / "e3",
                                    opts=["TRAINER.COOP.N_CTX", 4])  # fmt: skip


def test_missing_files_and_no_dataset(tmp_path):
    with pytest.raises(UserError, match="no configuration file"):
        train.main(["--trainer", "CoOp", "--config-file", str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match="give --dataset"):
        train.main(["--trainer", "CoOp"])
    with pytest.raises(UserError, match="no plugin file"):
        train.main(["--trainer", "CoOp", "--plugin", str(tmp_path / "none.py")])


def called(*words, **environ):
    """(exit code, lines printed) of a call in a process of its own."""
    done = subprocess.run([sys.executable, *map(str, words)], env=os.environ | environ, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text
    return done.returncode, text.splitlines()


def test_one_line_and_no_traceback_in_a_real_call(tmp_path):
    """Before: 300 lines of configuration, and then the error twice."""
    call = [REPO / "train.py", "--trainer", "CILM", "--dataset", "phantom", "--backbone", "demo"]
    code, lines = called(*call, "--output-dir", tmp_path)
    assert code == 2 and len(lines) == 1 and "did you mean 'CILMP'" in lines[0]
    code, lines = called(REPO / "train.py", "--trainer", "CoOp", "--dataset", "phantom", "--backbone", "demmo")
    assert code == 2 and len(lines) == 1 and "did you mean 'demo'" in lines[0]


def test_what_is_untrained_is_not_tested_as_the_method(mydata, tmp_path):
    """Before: --eval-only without --model-dir, and MAX_EPOCH -1, wrote untrained prompts as CoOp's results."""
    root, *_ = mydata
    assert "its prompts are untrained; give --model-dir" in fails("--eval-only", root=root, out=tmp_path / "a")
    assert "trains nothing" in fails(root=root, out=tmp_path / "b", opts=["OPTIM.MAX_EPOCH", -1])
    assert not list(tmp_path.glob("*/results*.json"))


def test_left_out_images_are_in_the_results(mydata, tmp_path):
    """Before: 10 of 25 unreadable test images were skipped, and neither table nor results said so."""
    root, *_ = mydata
    for name in ("melanoma/test0.png", "melanoma/train0.png"):
        (root / "mydata" / name).write_bytes(b"no image")
    call(root=root, out=tmp_path / "o", opts=["DATASET.ON_BAD_IMAGE", "skip", "DATALOADER.TRAIN_X.BATCH_SIZE", 2])
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    assert results["left_out"] == {"train": 1, "test": 1} and results["n"] == 3


@pytest.mark.parametrize("content, words", [
    ("raise RuntimeError('no luck today')", "RuntimeError: no luck today - plugin PATH, line 1"),
    ("x = 1\ndef broken(:\n", "SyntaxError: invalid syntax - plugin PATH, line 2"),
    ("import nowhere_to_be_found", "needs a module that is not installed: nowhere_to_be_found"),
    ("from dassl.engine import TRAINER_REGISTRY\n\n\n@TRAINER_REGISTRY.register()\nclass CoOp:\n    pass\n",
     "CoOp is registered"),
])  # fmt: skip
def test_a_plugin_that_does_not_load(tmp_path, content, words):
    plugin = tmp_path / f"plugin{abs(hash(content))}.py"
    plugin.write_text(content)
    with pytest.raises(UserError) as error:
        train.main(["--trainer", "CoOp", "--dataset", "phantom", "--plugin", str(plugin)])
    assert words.replace("PATH", str(plugin)) in line(error)


def test_places_and_sizes_that_cannot_be(mydata, tmp_path):
    root, *_ = mydata
    (tmp_path / "file").write_text("")
    assert "file" in fails(root=tmp_path / "file", out=tmp_path / "a")
    assert "INPUT.SIZE" in fails(root=root, out=tmp_path / "b", opts=["INPUT.SIZE", "(0, 0)"])
    key, words = "TRAINER.CILMP.LOW_RANK_DIMENSION", ("--llm", "smollm2-135m")
    assert key in fails(*words, trainer="CILMP", dataset="phantom", out=tmp_path / "c", opts=[key, 0])
    train_py, words = REPO / "train.py", ("--trainer", "ZeroshotCLIP", "--dataset", "phantom", "--backbone", "demo")
    code, lines = called(train_py, *words, "--output-dir", tmp_path / "file" / "below")
    assert code == 2 and len(lines) == 1 and "file" in lines[0]
    if Path("/proc/self").is_dir():  # nothing can be made there, not even by root
        code, lines = called(REPO / "cilmp", "run", "few_shot", "ZeroshotCLIP", "phantom", "1", OUTPUT="/proc/nowhere")
        assert code == 2 and lines[-1].startswith("error: /proc/nowhere")
