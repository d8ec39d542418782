"""Image towers that no visual prompt reaches (ConvNeXt, EVA): what prompts the text alone runs, the rest says so."""

import pytest
import torch

from cilmp.tests.backbones.small_models import OTHER_TOWERS
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_every_method import METHODS, TOWERS, learner
from dassl.utils.errors import ConfigError

WITHOUT = {  # settings with which a method leaves the image tower alone
    **dict.fromkeys(("CILMP", "IVLP", "PromptSRC", "BiomedDPT"), ("N_CTX_VISION", 0)),
    **dict.fromkeys(("CLIPLoRA", "CLIPSVD", "TwoSFS"), ("ENCODER", "text")),
}
OTHERS = [f for f in OTHER_TOWERS if f != "resnet"]  # test_every_method has the ResNet


def runs(ours, family):
    """Training lowers nothing here, it reaches what is learned; evaluation gives logits."""
    x, y = plain.batch(family)
    if hasattr(ours, "fit"):
        features = torch.nn.functional.normalize(torch.randn(1, 4, ours.clip.embed_dim), dim=-1)
        ours.fit((features, torch.arange(4)), (features[0], torch.arange(4)))
    loss = ours.losses(x, y)[0] if hasattr(ours, "losses") else ours.loss(x, y)[0]
    if learned := [p for _, p in ours.named_trainables()]:
        gradients = torch.autograd.grad(loss, learned, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    assert torch.isfinite(loss) and ours(x).shape == (3, 4)


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("method", sorted(set(METHODS) - TOWERS))
def test_methods_that_leave_the_image_tower_alone_run(method, family, tmp_path):
    runs(learner(method, family, tmp_path), family)


@pytest.mark.parametrize("family", OTHER_TOWERS)
@pytest.mark.parametrize("method", sorted(TOWERS))
def test_methods_that_reach_into_it_say_so_and_what_to_use(method, family, tmp_path):
    with pytest.raises(ConfigError) as error:
        learner(method, family, tmp_path)
    text = str(error.value)
    assert text.startswith(f"{method} ") and f"small-{family} is none ({OTHER_TOWERS[family]})" in text
    assert "ViT-B/16" in text and "\n" not in text
    if method in WITHOUT:
        key, value = WITHOUT[method]
        assert f"set TRAINER.{method.upper()}.{key} {value}, or use another backbone" in text
        runs(learner(method, family, tmp_path, **{key: value}), family)
    else:
        assert "set TRAINER" not in text
