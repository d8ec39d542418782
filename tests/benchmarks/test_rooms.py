"""Nothing that users run stands on the tests."""

import re

from dassl.utils.paths import REPO

ROOMS = ["backbones", "benchmarks", "dassl", "datasets", "knowledge", "scripts", "trainers"]


def test_no_room_imports_the_tests():
    files = [path for room in ROOMS for path in (REPO / room).rglob("*.py")]
    assert {path.parent.name for path in files} >= set(ROOMS), "all rooms were read"
    importing = [path for path in files if re.search(r"^\s*(from|import) tests\b", path.read_text(), re.M)]
    assert not importing
