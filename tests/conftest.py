"""Shared by all tests: the repository on the path, and the small real sets where they are."""

import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))


@pytest.fixture(scope="session")
def shared_data():
    """The folder of small real-image sets beside the repository; the test is skipped where it is absent."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real-image trial sets are not here ({folder})")
    return folder
