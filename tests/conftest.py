"""Shared by all tests: this checkout's cilmp, and the small real sets where they are."""

import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def the_cilmp_of(repo):
    """Import cilmp from this checkout, installed or not, whatever other one is."""
    places = {"submodule_search_locations": [str(repo / "cilmp")]}
    spec = importlib.util.spec_from_file_location("cilmp", repo / "cilmp" / "__init__.py", **places)
    sys.modules["cilmp"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["cilmp"])
    sys.modules["cilmp"].off_path()  # `python -m pytest` puts the root there


if "cilmp" not in sys.modules:
    the_cilmp_of(REPO)
# Tests write nothing into the repository's output; sub-processes inherit this.
OWN_CACHE = None if os.environ.get("CILMP_TEST_CACHE") else tempfile.mkdtemp(prefix="cilmp-tests-")
os.environ["CILMP_CACHE"] = OWN_CACHE or os.environ["CILMP_TEST_CACHE"]
# A shell starts what it runs in the background with SIGINT ignored, and so would be the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Before torch is imported; equal threads, equal numbers. Of several processes each has one.
os.environ.setdefault("OMP_NUM_THREADS", "1" if os.environ.get("PYTEST_XDIST_WORKER") else "2")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_unconfigure():
    if OWN_CACHE:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: run with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def own_environment():
    """A command's flags are written into the environment (its runs read them there): no further than its test."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of small real-image sets beside the repository; the test is skipped where it is absent."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real-image trial sets are not here ({folder})")
    return folder


@pytest.fixture
def tiny_split_dataset(tmp_path):
    """make(name="tiny", classes=("cat", "dog"), train=2, val=1, test=2) -> DATA folder with <name>/split.json.

    Images are 12 x 12 PNGs, a class a colour; a further call adds a set beside the first.
    """
    from PIL import Image

    def make(name="tiny", classes=("cat", "dog"), train=2, val=1, test=2):
        folder = tmp_path / "data" / name
        (folder / "images").mkdir(parents=True)
        split = {"train": [], "val": [], "test": []}
        for label, classname in enumerate(classes):
            for part, count in (("train", train), ("val", val), ("test", test)):
                for i in range(count):
                    path = f"images/{part}_{label}_{i}.png"
                    colour = (60 * label % 256, 255 - 60 * label % 256, 20 * i % 256)
                    Image.new("RGB", (12, 12), colour).save(folder / path)
                    split[part].append([path, label, classname])
        (folder / "split.json").write_text(json.dumps(split))
        return tmp_path / "data"

    return make
