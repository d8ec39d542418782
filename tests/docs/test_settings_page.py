"""docs/settings.md says every variable, flag and owned key; nothing else."""

import re

from cilmp.experiments.commands import FLAGS
from cilmp.experiments.settings import AS_VARIABLE, OWNED, Request, base_config
from cilmp.tests.docs.pages import rows, section, words
from dassl.config import keys_of
from dassl.utils.paths import REPO

PAGE = (REPO / "docs" / "settings.md").read_text(encoding="utf-8")
WITHOUT_FLAG = {"METHODS", "ALLOW_OVERLAP", "CILMP_CACHE"}


def test_variables_and_flags_are_those_of_the_command():
    table = {words(row[0])[0]: words(row[1]) for row in rows(PAGE.split("## Who wins")[0])}
    assert {k for k, flags in table.items() if not flags} == WITHOUT_FLAG
    wanted = {name: [f"--{name.lower()}"] for name in (*FLAGS, "FORCE")}
    assert {k: v for k, v in table.items() if v} == wanted


def test_they_are_those_that_a_request_names():
    named = set(re.findall(r"\b[A-Z]{3,}\b", Request.__doc__))
    assert named == {*FLAGS, "FORCE", "METHODS"}


def test_the_readme_names_them_all():
    table = {word for row in rows(section((REPO / "README.md").read_text(encoding="utf-8"), "## Commands"))
             for word in words(row[0])}  # fmt: skip
    assert {*FLAGS, "FORCE", *WITHOUT_FLAG} <= table


def test_owned_keys_stand_with_their_owner():
    said = section(PAGE, "## Who wins")
    taken, refused = said.split("These it may not say")
    for key, owner in OWNED.items():
        assert f"`{key}`" in (taken if owner in AS_VARIABLE else refused), key
        assert not owner or f"`{owner}`" in said, key
    assert set(re.findall(r"`([A-Z]+(?:\.[A-Z_]+)+)`", said)) <= set(OWNED)


def test_keys_worth_knowing_exist():
    known = set(keys_of(base_config()))
    for row in rows(section(PAGE, "## Keys worth knowing")):
        for word in words(row[0]):
            key = word.split()[0].replace("<METHOD>", "COOP")
            assert key in known, word
