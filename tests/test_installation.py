"""One import name, whichever way it comes: not installed, `pip install .`, `-e .`, a wheel; and what else is installed.

Environments of the test see the packages of the one that runs it (torch ...), but not its cilmp.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from dassl.utils.paths import REPO

ROOMS = ("backbones", "datasets", "experiments", "inference", "knowledge", "protocols", "trainers")
KINDS = ("none", "install", "editable", "wheel")


def listed(root, room):
    """Packages below a room as pyproject.toml must list them."""
    folders = {p.parent.relative_to(root) for p in (root / room).rglob("*.py")}
    return {".".join(f.parts) for f in folders}


def test_the_list_of_packages_is_whole():
    """A room added to the tree and not to pyproject.toml would be missing in the wheel alone."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    tool = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]
    wanted = {f"cilmp.{name}" for room in ROOMS for name in listed(REPO, room)} | listed(REPO, "dassl")
    assert set(tool["packages"]) == wanted | {"cilmp", "cilmp.configs"}
    assert {k: v.replace("/", ".") for k, v in tool["package-dir"].items()} == {
        name: name.removeprefix("cilmp.") for name in tool["packages"] if name.startswith("cilmp")
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository's files, so that building leaves nothing in it."""
    place = tmp_path_factory.mktemp("a blank") / "my repo"
    leave = shutil.ignore_patterns(".git", ".venv", "output", "__pycache__", "*.egg-info", "build", ".*_cache")
    shutil.copytree(REPO, place, ignore=leave, symlinks=True)
    return place


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", out, checkout)
    shutil.rmtree(checkout / "build", ignore_errors=True)
    (path,) = out.glob("cilmp-*.whl")
    return path


def pip(python, *words):
    done = subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", *map(str, words)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment(checkout, wheel, tmp_path_factory):
    """environment(kind) -> python of a fresh environment with cilmp installed in that way."""
    made = {}

    def make(kind):
        if kind not in made:
            place = tmp_path_factory.mktemp(kind)
            venv.create(place, with_pip=False, symlinks=True)
            python = place / "bin" / "python"
            site = Path(subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                                       capture_output=True, text=True, check=True).stdout.strip())  # fmt: skip
            # the running environment's packages; a path file in there (its editable cilmp) is not read
            (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
            what = {"install": [checkout], "editable": ["-e", checkout], "wheel": [wheel]}.get(kind)
            if what:
                pip(python, "install", "--no-deps", "--no-build-isolation", "-q", *what)
            made[kind] = python
        return made[kind]

    return make


def call(*words, cwd, code=0, **environ):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DATA", "OUTPUT")} | environ
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_the_wheel_holds(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"cilmp", "dassl"}
    assert not [n for n in names if "/tests/" in n or "/benchmarks/" in n or "/scripts/" in n]
    for needed in ("cilmp/configs/trainers/CILMP/vit_b16.yaml", "cilmp/backbones/demo/model.safetensors",
                   *(f"cilmp/experiments/page/page.{form}" for form in ("html", "css", "js")),
                   "cilmp/knowledge/stored/phantom/smollm2-135m-instruct-q4-1.safetensors"):  # fmt: skip
        assert needed in names
    assert wheel.stat().st_size < 20_000_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_root", [True, False])
def test_every_way_in(kind, at_root, checkout, environment, tmp_path):
    """train.py, -m cilmp and cilmp, from the root and from an empty folder; by its path cilmp needs no installation."""
    python, cwd = environment(kind), checkout if at_root else tmp_path
    assert "usage: train.py" in call(python, checkout / "train.py", "--help", cwd=cwd)
    assert call(python, checkout / "cilmp", "--version", cwd=cwd).startswith("cilmp 0.")
    if kind != "none" or at_root:
        assert call(python, "-m", "cilmp", "--version", cwd=cwd).startswith("cilmp 0.")
    if kind != "none":
        assert call(python.parent / "cilmp", "--version", cwd=cwd).startswith("cilmp 0.")


ALL = """
import cilmp, dassl.engine
from cilmp import backbones, datasets, knowledge, protocols, trainers
from cilmp.experiments import driver, extract, report, single, sweep
print(dassl.__file__)
print(trainers.__file__)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_the_rooms_import_and_are_ours(kind, checkout, environment, tmp_path):
    python = environment(kind)
    cwd = checkout if kind == "none" else tmp_path
    places = call(python, "-c", ALL, cwd=cwd).split("\n")
    home = str(checkout) if kind in ("none", "editable") else str(python.parents[1])
    assert places[0].startswith(home) and places[1].startswith(home)


def test_pytest_finds_this_checkout_installed_or_not(checkout, environment, tmp_path):
    for kind in ("none", "wheel"):
        words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/benchmarks/test_rooms.py")
        assert "passed" in call(environment(kind), *words, cwd=checkout)


def test_an_installed_one_runs_the_demo_where_one_stands(environment, tmp_path):
    said = call(environment("wheel").parent / "cilmp", "run", "few_shot", "ZeroshotCLIP", "--shots", "1", cwd=tmp_path,
                CILMP_CACHE=str(tmp_path / "cache"))  # fmt: skip
    assert (tmp_path / "output" / "few_shot" / "phantom" / "table.md").is_file() and "ZeroshotCLIP" in said


@pytest.fixture
def other_packages(tmp_path):
    """A folder for sys.path with a package `datasets`, as Hugging Face's is called."""
    (tmp_path / "site" / "datasets").mkdir(parents=True)
    (tmp_path / "site" / "datasets" / "__init__.py").write_text("HUGGING_FACE = True\n")
    return tmp_path / "site"


def test_datasets_of_others_stay_theirs(other_packages, checkout, environment, tmp_path):
    code = "{}import datasets; assert datasets.HUGGING_FACE; import cilmp.datasets, cilmp.trainers; "
    code += "import datasets as again; assert again is datasets and again is not cilmp.datasets; print('both')"
    for kind in ("editable", "wheel"):
        for first in ("", "import cilmp.datasets; "):
            said = call(environment(kind), "-c", code.format(first), cwd=tmp_path, PYTHONPATH=str(other_packages))
            assert "both" in said


STEP = """
import torch, transformers
class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Linear(2, 2)
    def forward(self, x, labels):
        return {"loss": torch.nn.functional.cross_entropy(self.w(x), labels)}
rows = [{"x": torch.zeros(2), "labels": torch.tensor(0)}] * 4
args = transformers.TrainingArguments("OUT", max_steps=1, report_to=[], use_cpu=True, save_strategy="no")
transformers.Trainer(Toy(), args, train_dataset=rows).train()
print("stepped")
from dassl.engine import TRAINER_REGISTRY, TrainerX
@TRAINER_REGISTRY.register()
class Stepped(TrainerX):
    pass
"""


def test_transformers_trainer_steps_beside_us(checkout, environment, tmp_path):
    """Before: our folder `datasets`, on the path of train.py, was taken for Hugging Face's."""
    plugin = tmp_path / "steps.py"
    plugin.write_text(STEP.replace("OUT", str(tmp_path / "out")))
    said = call(environment("none"), checkout / "train.py", "--list", "--plugin", plugin, cwd=checkout,
                CILMP_CACHE=str(tmp_path / "cache"))  # fmt: skip
    assert "stepped" in said


def test_two_dassls_are_one_line_that_names_both(environment, tmp_path):
    other = tmp_path / "theirs" / "dassl"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("__version__ = '0.6.3'\n")
    for code in ("import cilmp", "import dassl, cilmp"):
        said = call(environment("wheel"), "-c", code, cwd=tmp_path, code=1, PYTHONPATH=str(other.parent))
        last = said.strip().split("\n")[-1]
        assert last.startswith("ImportError: two packages are called dassl")
        assert str(other) in last and "site-packages" in last


def test_importing_cilmp_and_its_help_need_no_torch(checkout, environment):
    code = "import sys, cilmp; from cilmp.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    assert "prepare" in call(environment("editable"), "-c", code, cwd=checkout)
