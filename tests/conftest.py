"""Shared by all tests: the repository on the path, and the small real sets where they are."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))
# Tests write nothing into the repository's output; sub-processes inherit this.
os.environ["CILMP_CACHE"] = os.environ.get("CILMP_TEST_CACHE") or tempfile.mkdtemp(prefix="cilmp-tests-")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: run with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of small real-image sets beside the repository; the test is skipped where it is absent."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real-image trial sets are not here ({folder})")
    return folder
