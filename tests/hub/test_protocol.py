"""The server of these tests speaks as the hub does: the hub's own client, told nothing, is content with it."""

import hashlib
from pathlib import Path

import pytest

from cilmp.tests.hub.server import TOKEN


@pytest.fixture
def served(hub, tmp_path):
    """A repository of one small and one large file, served twice: open and gated."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 2000)
    hub.add("owner/open", folder)
    hub.add("owner/gated", folder, gated=True)
    hub.add("dataset:owner/set", folder)
    return folder


def test_what_a_client_asks(hub, cache, served):
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    path = hf_hub_download("owner/open", "model.safetensors")
    content = (served / "model.safetensors").read_bytes()
    assert Path(path).read_bytes() == content
    assert [(r.method, r.host) for r in hub.asked("model.safetensors")] == [("HEAD", "hub"), ("GET", "cdn")]
    info = HfApi().model_info("owner/open", files_metadata=True)
    assert [s.rfilename for s in info.siblings] == ["config.json", "model.safetensors"]
    assert info.siblings[1].lfs.sha256 == hashlib.sha256(content).hexdigest() and info.sha in path
    assert [f.path for f in HfApi().list_repo_tree("owner/open")] == ["config.json", "model.safetensors"]
    folder = snapshot_download("owner/set", repo_type="dataset")
    assert Path(folder, "config.json").read_text() == '{"a": 1}'


def test_what_a_client_is_refused(hub, cache, served):
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError

    for token in (None, "hf_somebody"):
        with pytest.raises(GatedRepoError):
            hf_hub_download("owner/gated", "config.json", token=token)
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("owner/none", "config.json", token=token)
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("owner/open", "none.json")
    assert hf_hub_download("owner/gated", "model.safetensors", token=TOKEN)
    assert not [r for r in hub.requests if r.host == "cdn" and r.token], "a token leaves the hub"


def test_a_cut_download_goes_on_where_it_was(hub, cache, served):
    from huggingface_hub import hf_hub_download

    content = (served / "model.safetensors").read_bytes()
    with hub.fault("cut", "model.safetensors", times=1, at=200_000):
        path = hf_hub_download("owner/open", "model.safetensors")
    assert Path(path).read_bytes() == content
    first, second = [r for r in hub.requests if r.host == "cdn"]
    assert first.range is None and second.range == f"bytes={first.sent}-"
    assert first.sent + second.sent == len(content) and first.sent > 100_000
