"""Every page: links lead somewhere, commands exist, every page is reached from the door."""

import re
from functools import cache
from pathlib import Path

import pytest

from cilmp.__main__ import COMMANDS, main
from cilmp.experiments.commands import FLAGS
from cilmp.protocols import PROTOCOLS
from cilmp.tests.docs.pages import NOTEBOOK, PAGES, commands, prose, texts, words
from cilmp.trainers import methods
from dassl.utils.paths import REPO

TEXTS = [pytest.param(*found, id=found[0].relative_to(REPO).as_posix()) for found in texts()]
VARIABLES = {*FLAGS, "FORCE", "METHODS", "ALLOW_OVERLAP", "CILMP_CACHE", "RAW", "DATA", "OUTPUT"}


def links(text):
    """Targets of links and images that are not addresses of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(path):
    """What GitHub calls the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", prose(path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path, text", TEXTS)
def test_links_lead_somewhere(path, text):
    for target in links(text):
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists() and place.is_relative_to(REPO), target
        assert not anchor or anchor in anchors(place), target


def test_every_page_is_reached_from_the_door():
    seen, left = set(), [REPO / "docs" / "index.md"]
    while left:
        page = left.pop()
        if page not in seen and page.suffix == ".md":
            left += [(page.parent / t.partition("#")[0]).resolve() for t in links(page.read_text(encoding="utf-8"))]
        seen.add(page)
    assert {*PAGES, NOTEBOOK} <= seen


@cache
def help_of(word):
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        main([word, "--help"])
    return said.getvalue()


@pytest.mark.parametrize("path, text", TEXTS)
def test_commands_are_known(path, text):
    """Each `cilmp WORD`, its flags, and the protocol and methods behind `cilmp run`."""
    for line in [*commands(text), *words(prose(text))]:
        for word, rest in re.findall(r"(?:^|\s)cilmp ([a-z]\w*)([^;&]*)", line):
            assert word in COMMANDS, line
            for flag in re.findall(r"(?<!\S)(--[a-z][\w-]*)", rest):
                assert flag == "--help" or re.search(rf"{flag}\b", help_of(word)), line
            if word == "run" and (named := re.match(r"\s+([a-z]\w+)\s+([\w,]+)", rest)):
                known_run(named[1], named[2], line)


def known_run(protocol, method, line):
    assert protocol in PROTOCOLS, line
    assert all(m == "MyMethod" or m in {"METHOD", *methods()} for m in method.split(",")), line


@pytest.mark.parametrize("path, text", TEXTS)
def test_scripts_are_there_and_variables_known(path, text):
    for line in commands(text):
        for script, rest in re.findall(r"bash (scripts/\S+)([^;&]*)", line):
            assert (REPO / script).is_file(), line
            protocol = Path(script).stem
            if protocol in PROTOCOLS and Path(script).parent.name == "scripts":
                known_run(protocol, rest.split()[0], line)
        if set_here := re.match(r"(?:export )?((?:[A-Z_]+=(?:\"[^\"]*\"|'[^']*'|\S*)\s*)+)", line):
            for name in re.findall(r"([A-Z_]+)=", re.sub(r"\"[^\"]*\"|'[^']*'", "", set_here[1])):
                assert name in VARIABLES, line


def test_these_checks_can_fail():
    assert links("[a](b.md) ![c](d/e.png) [f](https://g) [h](#i)") == ["b.md", "d/e.png", "#i"]
    assert commands("```bash\ncilmp run x \\\n  y  # z\n```") == ["cilmp run x    y", ""]
    with pytest.raises(AssertionError):
        test_commands_are_known(None, "`cilmp fly`")
    with pytest.raises(AssertionError):
        test_commands_are_known(None, "```bash\ncilmp run few_shot CoOpp\n```")
    with pytest.raises(AssertionError):
        test_commands_are_known(None, "`cilmp check --wings`")
    with pytest.raises(AssertionError):
        test_scripts_are_there_and_variables_known(None, "```bash\nSHOT=1 bash scripts/few_shot.sh CoOp\n```")
    with pytest.raises(AssertionError):
        test_links_lead_somewhere(REPO / "README.md", "[a](docs/nowhere.md)")
