"""torch.export of the towers: one graph for any number of images."""

import pytest
import torch

from cilmp.backbones.prompt import per_image, shared
from cilmp.tests.backbones.small_models import images, small


class Both(torch.nn.Module):
    """Cosines (B, C) of prompted images and texts that depend on them, many rows for MLPs and grids."""

    def __init__(self, family):
        super().__init__()
        self.clip = small(family, layers=2)
        g = torch.Generator().manual_seed(0)
        names = [f"finding {i}." for i in range(8)]
        self.frame = self.clip.text.frame(names, [2])
        self.levels = [torch.randn(2, self.clip.text_width, generator=g) for _ in range(2)]
        self.ctx = torch.randn(2, 3, self.clip.vision_width, generator=g) if self.clip.vision_width else [None]
        self.map = torch.randn(self.clip.embed_dim, self.clip.text_width, generator=g)

    def forward(self, x):
        v = self.clip.image.encode(x, ctx=self.ctx[0], deep=self.ctx[1:])
        first, deeper = self.levels
        prompts = self.frame.fill([per_image(first + (v @ self.map)[:, None]), shared(deeper)])
        return (v[:, None] * self.clip.text.encode(prompts, chunk=7)).sum(-1)


SLOW = [pytest.param(f, marks=pytest.mark.slow) for f in ("siglip", "resnet")]


@pytest.mark.parametrize("family", ["openai", "bert", *SLOW])
@torch.no_grad()
def test_towers_export_for_any_number_of_images(family, monkeypatch):
    """Neither the pieces of a large grid nor those of an MLP, here tiny, fix the number of images."""
    monkeypatch.setattr("cilmp.backbones.blocks.MLP_AT_ONCE", (500, 500))
    model = Both(family).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    graph = torch.export.export(model, (images(family, 3),), dynamic_shapes=({0: batch},), strict=False).module()
    for count in (1, 2, 64):
        x = images(family, count, seed=count)
        found = graph(x)
        assert found.shape == (count, 8) and (found - model(x)).abs().max() <= 1e-4 * found.abs().max()
