"""A backbone handed on as a folder: the same numbers without a hub, whatever its family and the form of its files."""

import pytest
import torch

from cilmp import backbones
from cilmp.backbones.hand_on import hand_on
from cilmp.tests.hub import repositories
from cilmp.tests.hub.test_backbones import QUICK, TEXTS, served  # noqa: F401 - a fixture
from dassl.utils.errors import UserError


@pytest.mark.parametrize("name", [
    pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in repositories.NAMES])  # fmt: skip
def test_the_same_numbers_without_a_hub(name, served, hub, tmp_path, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    served(name)
    wanted, facts = backbones.load(name), backbones.input_facts(name)
    hand_on(name, None, tmp_path / "alone")
    assert not [p for p in (tmp_path / "alone").iterdir() if p.suffix in (".bin", ".pt", ".pth")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    asked = len(hub.requests)
    place = f"local-dir:{tmp_path / 'alone'}"
    found = backbones.load(place)
    assert backbones.input_facts(place) == facts and len(hub.requests) == asked
    images = torch.randn(2, 3, facts["size"], facts["size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.text.encode_strings(TEXTS), wanted.text.encode_strings(TEXTS))
        assert torch.equal(found.image.encode(images), wanted.image.encode(images))
    assert torch.equal(found.scale(), wanted.scale())


def test_random_weights_are_no_file(tmp_path):
    with pytest.raises(UserError, match="there is no file to hand on"):
        hand_on("ViT-B/16", "random", tmp_path)
    assert not list(tmp_path.iterdir())
