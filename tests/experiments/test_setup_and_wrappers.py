"""scripts/setup.sh with a make-believe Python (nothing is installed), and the wrappers as a user types them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dassl.utils.paths import REPO

PYTHON = """#!/usr/bin/env bash
# `python -c` (the version check), --version, `-m venv [--clear] DIR`, `-m pip ...`; pip installs are counted.
case "$1 $2" in
  "-c "*) exit ${TOO_OLD:-0} ;;
  "--version "*) echo "Python 3.12.0" ;;
  "-m venv") mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  "-m pip") [ "$3" = --version ] || { echo install >> "$COUNT"; exit ${PIP_FAILS:-0}; } ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """(call, count): a repository "my repo" with setup.sh alone; call(**environ) runs it, count() counts installs."""
    repo, tools = tmp_path / "my repo", tmp_path / "bin"
    (repo / "scripts").mkdir(parents=True)
    tools.mkdir()
    shutil.copy(REPO / "scripts" / "setup.sh", repo / "scripts")
    (repo / "requirements.txt").write_text("one\n")
    (repo / "pyproject.toml").write_text("[project]\n")
    for tool in ("bash", "env", "dirname", "cksum", "cat", "mkdir", "cp"):
        (tools / tool).symlink_to(shutil.which(tool))
    (tools / "python3").write_text(PYTHON)
    (tools / "python3").chmod(0o755)
    counted = tmp_path / "count"

    def call(**environ):
        env = {"PATH": str(tools), "COUNT": str(counted), **environ}
        return subprocess.run([str(tools / "bash"), str(repo / "scripts" / "setup.sh")], cwd=tmp_path, env=env,
                              capture_output=True, text=True)  # fmt: skip

    return repo, call, lambda: len(counted.read_text().split()) if counted.exists() else 0


def test_sets_up_once_and_again_when_requirements_change(checkout):
    repo, call, installs = checkout
    done = call()
    assert done.returncode == 0 and "setting up" in done.stdout and str(repo / ".venv") in done.stdout
    assert (repo / ".venv" / "bin" / "python").is_file() and installs() == 1
    assert call().stdout == "" and installs() == 1
    for count, name in enumerate(("requirements.txt", "pyproject.toml"), start=2):
        (repo / name).write_text("one\ntwo\n")
        assert call().returncode == 0 and installs() == count


def test_old_python_is_one_clear_line(checkout):
    repo, call, installs = checkout
    done = call(TOO_OLD="1")
    assert done.returncode == 2 and installs() == 0 and not (repo / ".venv").exists()
    assert done.stderr.startswith("error: Python 3.10 or newer") and len(done.stderr.splitlines()) == 1


def test_failed_install_is_tried_again(checkout):
    _, call, installs = checkout
    assert call(PIP_FAILS="1").returncode == 2
    assert call().returncode == 0 and installs() == 2


def test_half_made_environment_is_made_anew(checkout):
    repo, call, installs = checkout
    broken = repo / ".venv" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/usr/bin/env bash\nexit 1\n")
    broken.chmod(0o755)
    assert call().returncode == 0 and installs() == 1


@pytest.fixture
def linked(tmp_path):
    """The repository under a path with a blank. Its scripts would mend an old .venv first: no work for a test."""
    stamp, wanted = REPO / ".venv" / ".requirements", "cat requirements.txt pyproject.toml | cksum"
    wanted = subprocess.run(["bash", "-c", wanted], cwd=REPO, capture_output=True, text=True).stdout.strip()
    if not stamp.is_file() or stamp.read_text() != wanted:
        pytest.skip("this checkout has no .venv of its own that is up to date (scripts/setup.sh makes it)")
    repo = tmp_path / "a blank" / "repo"
    repo.mkdir(parents=True)
    for item in REPO.iterdir():
        if item.name not in ("output", ".git", "data"):
            (repo / item.name).symlink_to(item)
    return repo


def wrapper(repo, script, *words, cwd, **environ):
    env = {k: v for k, v in os.environ.items() if k not in ("DATA", "OUTPUT", "SHOTS", "METHODS", "CILMP_CACHE")}
    return subprocess.run(["bash", str(repo / "scripts" / script), *words], cwd=cwd, env=env | environ,
                          capture_output=True, text=True, timeout=600)  # fmt: skip


def test_wrapper_from_another_folder_with_blanks(linked, tmp_path):
    """No word at all: the demo; OUTPUT is relative to where the user stands; arguments with blanks arrive whole."""
    done = wrapper(linked, "few_shot.sh", "zeroshotclip", cwd=tmp_path, OUTPUT="my results", SHOTS="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my results" / "few_shot" / "phantom" / "table.md").is_file()
    assert "over seeds 1 2 3" in done.stdout
    done = wrapper(linked, "full.sh", "ZeroshotCLIP", "my data", cwd=tmp_path, OUTPUT="my results")
    assert done.returncode == 2 and "unknown dataset 'my data'" in done.stderr


def test_a_script_a_protocol():
    from cilmp.protocols import PROTOCOLS

    for name in PROTOCOLS:
        for script, words in ((f"{name}.sh", f" {name} "), (f"cilmp/{name}.sh", f" {name} CILMP ")):
            text = Path(REPO, "scripts", script).read_text()
            assert words in text and len(text.splitlines()) == 2, script
