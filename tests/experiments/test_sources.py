"""configs/sources.yaml: every file has a source or a reason, the page says the same, a difference is noticed."""

import os
import subprocess

import pytest
import yaml

from cilmp.experiments import sources
from cilmp.experiments.settings import CONFIGS
from cilmp.tests.docs.pages import rows, section
from dassl.utils.errors import ConfigError, MissingFile, UserError

TABLE = sources.sources()
TEXT = sources.PAGE.read_text(encoding="utf-8")
RATE = "OPTIM:\n  LR: 0.5\n"


def listed():
    """[(file, key, {there}, {here}, why)] of the page."""
    return [(file, key.strip("`"), {there}, {here}, why)
            for file, key, there, here, why in rows(section(TEXT, "## Differences"))]  # fmt: skip


def test_every_file_follows_another_or_says_why_not():
    files = {p.relative_to(CONFIGS / "trainers").as_posix() for p in (CONFIGS / "trainers").rglob("*.yaml")}
    assert files == set(TABLE["files"])
    for file, entry in TABLE["files"].items():
        assert ("ours" in entry) != bool(entry.get("follows")), file
        assert all(source["from"] in TABLE["repositories"] for source in entry.get("follows", ())), file


def test_the_page_says_what_the_table_says():
    count = int(TEXT.split(" values were compared")[0].split()[-1].replace(",", ""))
    assert sources.page(listed(), count) == TEXT
    wanted = [(file, key, sources.reason(why)) for file, entry in TABLE["files"].items()
              for key, why in entry.get("differs", {}).items()]  # fmt: skip
    assert [(file, key, why) for file, key, _, _, why in listed()] == wanted


def test_our_values_on_the_page_are_those_of_the_files():
    for file, key, _, here, _ in listed():
        found = {sources.ours(file, *case).get(key, "no such key") for _, *case in
                 sources.cases(file, TABLE["files"][file])}  # fmt: skip
        assert {sources.shown(found)} == here, (file, key)


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A checkout whose rate is 0.5, and a table in which CoOp's file follows it; returns (its folder, the table)."""
    folder = tmp_path / "Theirs"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y"]
    (folder / "a.yaml").write_text(RATE)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "a.yaml").write_text("OPTIM:\n  LR: 7\n")  # what is checked out now plays no part
    known = {key: "x" for key in sources.said("CoOp/few_shot_shots1.yaml")}
    entry = {"after": ["CoOp/vit_b16.yaml"], "follows": [{"from": "T", "path": "a.yaml"}], "beyond": known}
    table = {"repositories": {"T": {"at": "they/Theirs", "commit": commit}}, "reasons": {}, "not_compared": {},
             "beyond": [], "sets": {}, "files": {"CoOp/few_shot_shots1.yaml": entry}}  # fmt: skip
    monkeypatch.setattr(sources, "sources", lambda: table)
    return tmp_path, table


def test_a_difference_needs_a_reason_and_a_reason_a_difference(upstream):
    folder, table = upstream
    entry = table["files"]["CoOp/few_shot_shots1.yaml"]
    with pytest.raises(UserError, match=r"OPTIM.LR is 0.5 there, 0.002 here: say why"):
        sources.compare(str(folder))
    entry["differs"] = {"OPTIM.LR": "we like it slow"}
    found, count = sources.compare(str(folder / "Theirs"))
    assert count == 1 and found == [("CoOp/few_shot_shots1.yaml", "OPTIM.LR", {0.5}, {0.002}, "we like it slow")]
    entry["differs"]["OPTIM.NAME"] = "no difference"
    with pytest.raises(UserError, match=r"OPTIM.NAME does not differ"):
        sources.compare(str(folder))
    entry |= {"differs": {"OPTIM.LR": "slow"}, "beyond": {}}
    with pytest.raises(UserError, match=r"no source says OPTIM.MAX_EPOCH"):
        sources.compare(str(folder))


def test_what_is_missing_is_one_line(upstream):
    folder, table = upstream
    inside = folder / "Theirs" / ".git"
    for words, where in (("there is no folder", folder / "nowhere"), ("no checkout of they/Theirs", inside)):
        with pytest.raises(MissingFile, match=words):
            sources.compare(str(where))
    source = table["files"]["CoOp/few_shot_shots1.yaml"]["follows"][0]
    source["find"] = {"OPTIM.LR": "rate=(.*)"}
    with pytest.raises(ConfigError, match=r"nothing in a.yaml is like"):
        sources.compare(str(folder))
    table["repositories"]["T"]["commit"] = "0" * 40
    with pytest.raises(MissingFile, match=r"no a.yaml at commit 0000000000") as refused:
        sources.compare(str(folder))
    assert "\n" not in str(refused.value)


def test_a_literal_is_no_word():
    plain = sources._plain
    assert plain("1e-5") == 1e-5 == plain(0.00001) and plain([4, 5]) == (4.0, 5.0) == plain("(4, 5)")
    assert plain("fp16") == "fp16" and plain(True) is True and yaml.safe_load("1e-5") == "1e-5"


@pytest.mark.skipif("UPSTREAM" not in os.environ, reason="UPSTREAM names no checkouts of the authors' repositories")
def test_the_page_is_what_the_checkouts_give():
    assert sources.page(*sources.compare(os.environ["UPSTREAM"])) == TEXT
