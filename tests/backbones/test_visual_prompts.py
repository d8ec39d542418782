"""Visual prompts equal the plain form: every token through the original blocks, prompts written over."""

import pytest
import torch

from cilmp.benchmarks.plain.image import plain_image, plain_image_late
from cilmp.tests.backbones.small_models import images, original, small
from dassl.utils.errors import UserError

VITS = ("openai", "bert", "siglip")
LAYERS, N = 3, 4


def prompts(depth, n=N, batch=None, seed=5):
    g = torch.Generator().manual_seed(seed)
    shape = (n, 48) if batch is None else (batch, n, 48)
    return [torch.randn(shape, generator=g, requires_grad=True) for _ in range(depth)]


def gradients(features, levels):
    """Gradients of a function in which every feature counts differently."""
    weights = torch.linspace(-1, 1, features.numel()).view_as(features)
    return torch.autograd.grad((features * weights).sum(), levels)


def compare(family, levels, replace="append"):
    pictures = images(family)
    fast = small(family).image.encode(pictures, levels[0], levels[1:], replace=replace)
    plain = plain_image(original(family), pictures, levels, replace)
    torch.testing.assert_close(fast, plain, atol=2e-5, rtol=1e-5)
    for a, b in zip(gradients(fast, levels), gradients(plain, levels)):
        assert b.norm() > 1e-3, "a prompt without influence proves nothing"
        assert (a - b).norm() / b.norm() < 1e-4
    return fast


@pytest.mark.parametrize("replace", ["append", "patches"])
@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
@pytest.mark.parametrize("family", VITS)
def test_prompts_and_gradients_equal_the_plain_form(family, depth, replace):
    fast = compare(family, prompts(depth), replace)
    with torch.no_grad():
        bare = small(family).image.encode(images(family))
    assert (fast - bare).abs().max() > 1e-2, "the prompts must matter"


@pytest.mark.parametrize("family", VITS)
def test_one_prompt_set_for_each_image(family):
    compare(family, prompts(2, batch=3))


@pytest.mark.parametrize("n", [1, 16])
def test_one_prompt_and_as_many_as_patches(n):
    compare("openai", prompts(2, n), "patches")


def test_deep_prompts_may_come_as_one_tensor():
    levels = torch.stack(prompts(3)).detach()
    tower, pictures = small("openai").image, images("openai")
    torch.testing.assert_close(
        tower.encode(pictures, levels[0], levels[1:]), tower.encode(pictures, levels[0], list(levels[1:]))
    )


@torch.no_grad()
def test_no_prompts_is_no_prompts():
    tower, pictures = small("openai").image, images("openai")
    assert torch.equal(tower.encode(pictures), tower.encode(pictures, torch.zeros(0, 48)))


def test_checkpointing_changes_memory_not_numbers():
    tower, pictures, levels = small("bert").image, images("bert"), prompts(3)
    plain = tower.encode(pictures, levels[0], levels[1:])
    tower.checkpointing = True
    spared = tower.encode(pictures, levels[0], levels[1:])
    torch.testing.assert_close(plain, spared)
    for a, b in zip(gradients(plain, levels), gradients(spared, levels)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("depth", "wanted"), [(1, [21, 21, 1]), (2, [17, 21, 1]), (3, [17, 17, 1])])
def test_only_needed_queries_are_computed(depth, wanted, monkeypatch):
    """17 own tokens, 4 prompts: those to be overwritten get no query, the last layer has the class token's alone."""
    seen, keys = [], []
    tower = small("openai").image
    for block in tower.blocks:
        original_mix = block.mix

        def spy(q, k, v, mask=None, original_mix=original_mix):
            seen.append(q.shape[1])
            keys.append(k.shape[1])
            return original_mix(q, k, v, mask)

        monkeypatch.setattr(block, "mix", spy)
    levels = prompts(depth)
    tower.encode(images("openai"), levels[0], levels[1:])
    assert seen == wanted and keys == [21, 21, 21]


def test_shared_prompts_are_projected_once_for_the_batch(monkeypatch):
    tower, rows = small("openai").image, []
    linear = tower.blocks[0].k
    forward = linear.forward
    monkeypatch.setattr(linear, "forward", lambda x: (rows.append(tuple(x.shape)), forward(x))[1])
    levels = prompts(2)
    tower.encode(images("openai"), levels[0], levels[1:])
    assert rows == [(3, 17, 48), (4, 48)]


def test_more_prompts_than_patches_to_overwrite():
    clip = small("openai")
    with pytest.raises(UserError, match="17 visual prompts over 16 patches"):
        clip.image.encode(images("openai"), torch.zeros(17, clip.vision_width), replace="patches")


def test_a_resnet_says_that_it_has_no_tokens():
    with pytest.raises(UserError, match="ResNet"):
        small("resnet").image.encode(images("resnet"), torch.zeros(4, 48))


def test_too_many_levels():
    levels = prompts(LAYERS + 1)
    with pytest.raises(UserError, match="visual prompts for 4 layers, the image tower has 3"):
        small("openai").image.encode(images("openai"), levels[0], levels[1:])


def test_images_of_another_size():
    with pytest.raises(UserError, match="64 x 64 pixels, this backbone takes 32 x 32"):
        small("openai").image.encode(torch.zeros(1, 3, 64, 64))


def test_mlp_in_pieces_equals_the_whole(monkeypatch):
    """Without gradients the wide rows go through the MLP some at a time; as many as there are, a few, one."""
    from cilmp.backbones import blocks

    clip, x = small("openai"), images("openai", 3)
    whole = clip.image.encode(x.requires_grad_(True)).detach()
    for numbers in (10**9, 48 * 7, 48):
        monkeypatch.setattr(blocks, "MLP_AT_ONCE", (numbers, numbers))
        with torch.no_grad():
            assert (clip.image.encode(x) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("enters, depth", [(0, 1), (0, LAYERS), (1, 2), (2, 1)])
@pytest.mark.parametrize("family", VITS)
def test_late_prompts_and_what_they_end_as(family, enters, depth):
    levels, pictures = prompts(depth), images(family)
    fast = small(family).image.encode_late(pictures, levels, enters)
    plain = plain_image_late(original(family), pictures, levels, enters)
    for ours, wanted in zip(fast, plain):
        torch.testing.assert_close(ours, wanted, atol=3e-5, rtol=1e-4)
    both = [torch.cat([features.flatten(), ends.flatten()]) for features, ends in (fast, plain)]
    for a, b in zip(*(gradients(x, levels) for x in both)):
        assert b.norm() > 1e-3, "a prompt without influence proves nothing"
        assert (a - b).norm() / b.norm() < 1e-4


def test_late_prompts_need_blocks_to_enter():
    with pytest.raises(UserError, match="prompts for 4 layers, the image tower has 3"):
        small("openai").image.encode_late(images("openai"), prompts(2), 2)
    with pytest.raises(UserError, match="type ResNet"):
        small("resnet").image.encode_late(images("resnet"), prompts(1), 0)
