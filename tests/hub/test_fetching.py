"""What a hub can do wrong while weights are fetched: one line, and nothing broken is left in the cache."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from cilmp.backbones import hub as backbones_hub
from cilmp.tests.hub.server import TOKEN
from dassl.utils.errors import UserError

WEIGHTS = "open_clip_model.safetensors"
REPOSITORY = "owner/clip"


@pytest.fixture
def content():
    return bytes(range(256)) * 2000


@pytest.fixture
def served(hub, tmp_path, content):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(content)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 1}}))
    return hub.add(REPOSITORY, folder)


def fetch(*names, one=False):
    return backbones_hub.hub_files("my-name", REPOSITORY, names or (WEIGHTS,), one)


def refused(*words, names=(WEIGHTS,), one=False):
    """The one line that fetching ends in; it holds all of `words`, the backbone's name and what to do instead."""
    with pytest.raises(UserError) as error:
        fetch(*names, one=one)
    text = str(error.value)
    assert "\n" not in text and len(text) < 700, text
    for word in ("my-name", "BACKBONE=demo", *words):
        assert word in text, text
    return text


def kept(cache):
    """Files with content in the cache, locks and the client's notes apart."""
    blobs = [p for p in cache.rglob("*") if p.is_file() and p.parent.name == "blobs"]
    return blobs + [p for p in cache.rglob("snapshots/*/*")]


def test_what_arrives_is_what_was_announced(hub, cache, served, content):
    (path,) = fetch()
    assert Path(path).read_bytes() == content
    before = len(hub.requests)
    assert fetch() == [path] and len(hub.requests) == before, "a warm cache asks nothing"


def test_other_bytes_than_announced(hub, cache, served, content):
    """Same size, other content: the client compares sizes only."""
    with hub.fault("wrong", WEIGHTS):
        refused("SHA-256", served.hash_of(WEIGHTS)[:12], hub.url, REPOSITORY)
    assert kept(cache) == []
    assert Path(fetch()[0]).read_bytes() == content


def test_small_files_are_compared_by_git_s_hash(hub, cache, served):
    with hub.fault("wrong", "open_clip_config.json"):
        refused("open_clip_config.json", names=("open_clip_config.json",))
    assert kept(cache) == []


def test_a_file_damaged_on_this_machine_is_fetched_again(hub, cache, served, content):
    (path,) = fetch()
    with open(path, "r+b") as file:
        file.write(b"damaged")
    assert Path(fetch()[0]).read_bytes() == content


def test_half_a_file(hub, cache, served, content):
    with hub.fault("half", WEIGHTS):
        refused(hub.url, REPOSITORY, WEIGHTS)
    assert kept(cache) == []
    assert Path(fetch()[0]).read_bytes() == content


def test_a_connection_that_is_always_cut(hub, cache, served, content):
    with hub.fault("cut", WEIGHTS):
        refused(hub.url, REPOSITORY, WEIGHTS)
    assert kept(cache) == []
    with hub.fault("cut", WEIGHTS, times=2, at=200_000):
        assert Path(fetch()[0]).read_bytes() == content


def test_html_instead_of_an_answer(hub, cache, served):
    """A network's sign-in page, a proxy, an HF_ENDPOINT that is no hub: 200, and none of the hub's headers."""
    with hub.fault("html"):
        refused("HF_ENDPOINT", hub.url)
    with hub.fault("html", f"/{WEIGHTS}"), hub.fault("html", served.hash_of(WEIGHTS)):
        refused(hub.url)
    assert kept(cache) == []


def test_a_hub_that_is_not_well(hub, cache, served, content):
    with hub.fault("503"):
        refused("503", hub.url)
    with hub.fault("503", WEIGHTS, times=2):  # it recovers
        assert Path(fetch()[0]).read_bytes() == content


@pytest.mark.parametrize("where", ["the answer", "the content"])
def test_nothing_comes(hub, cache, served, where):
    with hub.fault("silent" if where == "the answer" else "stall", WEIGHTS, at=100_000):
        refused(hub.url, "HF_HUB_DOWNLOAD_TIMEOUT")
    assert len(hub.asked(WEIGHTS)) < 10 and kept(cache) == []


def test_nobody_there(hub, cache, served):
    hub.__exit__()
    refused(hub.url.removeprefix("http://"))


def test_a_licence_to_accept(hub, cache, served, monkeypatch):
    served.gated = True
    refused("gated", "licence", f"{hub.url}/{REPOSITORY}", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    refused("gated", "licence", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch()
    assert not [r for r in hub.requests if r.host == "cdn" and r.token]


def test_what_is_not_there(hub, cache, served):
    text = refused("none.safetensors", REPOSITORY, names=("none.safetensors", "none.bin"), one=True)
    assert "none.bin" in text
    hub.repositories.clear()
    refused("no repository", REPOSITORY, "HF_TOKEN")


def test_the_first_that_exists(hub, cache, served):
    assert fetch("none.safetensors", WEIGHTS, one=True)[0].endswith(WEIGHTS)


def test_no_room_is_said_before_anything_is_fetched(hub, cache, served, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused("HF_HOME", str(cache), "room")
    assert kept(cache) == [] and not [r for r in hub.requests if r.host == "cdn"]


def test_a_disk_that_fills_up_meanwhile(hub, cache, served, monkeypatch):
    from huggingface_hub import file_download

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    refused("HF_HOME", "No space left", str(cache))
    assert kept(cache) == []


def test_a_cache_that_cannot_be_written(hub, cache, served):
    cache.write_text("a file where the folder should be")
    refused("HF_HOME", str(cache))


def test_offline_with_a_warm_and_with_an_empty_cache(hub, cache, served, content, monkeypatch):
    from huggingface_hub import constants

    (path,) = fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert fetch() == [path]
    refused("HF_HUB_OFFLINE", str(cache), names=("open_clip_config.json",))
    assert len(hub.requests) == asked
