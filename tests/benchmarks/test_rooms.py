"""The house: a room uses rooms below it, never above, never beside; nothing that users run stands on the tests."""

import ast
import importlib

import pytest

from dassl.utils.paths import REPO

FLOORS = [("dassl",), ("backbones", "knowledge", "datasets"), ("trainers",), ("protocols",), ("experiments",),
          ("inference",), ("cilmp", "scripts"), ("benchmarks",)]  # fmt: skip
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def imported(path):
    """Rooms that a file imports, by the names used in a checkout."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            room = name.split(".")[1:2] if name.startswith("cilmp.") else [name.split(".")[0]]
            yield from (r for r in room if r in FLOOR or r == "tests")


@pytest.mark.parametrize("room", FLOOR)
def test_a_room_uses_what_is_below_it(room):
    files = list((REPO / room).rglob("*.py"))
    assert files or room == "scripts"
    for path in files:
        for other in set(imported(path)) - {room, "cilmp"}:
            assert other != "tests" and FLOOR[other] < FLOOR[room], f"{path.relative_to(REPO)} imports {other}"


def test_nothing_but_the_entries_touches_the_search_path():
    entries = {"train.py", "cilmp/__main__.py", "cilmp/__init__.py"}
    files = [p for room in FLOOR for p in (REPO / room).rglob("*.py")] + [REPO / "train.py"]
    touching = {p.relative_to(REPO).as_posix() for p in files if "sys.path" in p.read_text()}
    assert touching <= entries


@pytest.mark.parametrize("path", sorted((REPO / "benchmarks").rglob("*.py")), ids=lambda p: p.stem)
def test_every_benchmark_imports(path):
    """A suite that nobody runs in the tests would break unseen when a room moves."""
    importlib.import_module(".".join(["cilmp", *path.relative_to(REPO).with_suffix("").parts]))
