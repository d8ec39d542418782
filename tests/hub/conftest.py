"""The hub of tests/hub/server.py, and this process's own client pointed at it."""

import os
import time

import pytest

from cilmp.tests.hub.server import Hub


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


def at_the_hub(hub, folder, patch):
    """Point the client of this process at a hub, with an empty cache under `folder`, and take its pauses away."""
    from huggingface_hub import constants, file_download

    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_ETAG_TIMEOUT": 0.5,
        "HF_HUB_DOWNLOAD_TIMEOUT": 0.5,
        "DOWNLOAD_CHUNK_SIZE": 1 << 16,
    }.items():
        for module in (constants, file_download):  # before version 1 the latter holds copies
            if hasattr(module, name):
                patch.setattr(module, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        patch.delenv(name, raising=False)
    patch.setattr(time, "sleep", lambda seconds: None)
    return folder / "hub"


@pytest.fixture
def cache(hub, tmp_path, monkeypatch):
    """The cache folder of this process's client, which talks to `hub`."""
    return at_the_hub(hub, tmp_path, monkeypatch)


def command_environment(hub, home, **more):
    """Environment of a command whose hub is `hub` and whose home is a new folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    return kept | {"HF_ENDPOINT": hub.url, "HOME": str(home), "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME":
                   str(home / "cache"), "CILMP_CACHE": str(home / "cilmp"), "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                   "OMP_NUM_THREADS": "2", **more}  # fmt: skip
