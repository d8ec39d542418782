"""What the tests of methods share: learners on small models, and plain texts, images and logits to compare with."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from cilmp.benchmarks.plain.image import plain_image
from cilmp.benchmarks.plain.text import Slot, plain_text
from cilmp.tests.backbones.small_models import images, original, small, tokenizer
from dassl.config import get_cfg_default

NAMES = ["melanoma", "basal cell carcinoma", "nevus", "a very long and ragged class name"]
LABELS = torch.tensor([0, 2, 3])


def learner(trainer, family="openai", names=NAMES, context=None, half=False, **options):
    """A method's learner on a small model, weights as initialised. half: a backbone in float16."""
    torch.manual_seed(0)
    return on(small(family).half() if half else small(family), trainer, names, context, **options)


def on(clip, trainer, names, context=None, **options):
    """A method's learner on this model."""
    return trainer.learner(CfgNode({**trainer.defaults, **options}), clip, names, context)


def batch(family, count=3):
    return images(family, count), LABELS[:count]


def leaf(parameter):
    """An independent copy that gets its own gradient."""
    return parameter.detach().clone().requires_grad_()


def text(family, levels=(), names=NAMES, phrase=""):
    """(B or 1, C, d) of "<prompt tokens><phrase><name>.", prompts at every level (B or 1, C or 1, P, d_t)."""
    clip = small(family)
    ids = tokenizer(family)([f"{phrase}{n}." for n in names], clip.context_length)
    slots = [Slot(list(levels), int(clip.text.starts))] if len(levels) else []
    return plain_text(original(family), ids, slots)


def template(family, sentence="a photo of a {}.", names=NAMES):
    """Unit features (C, d) of one template."""
    ids = tokenizer(family)([sentence.format(n) for n in names], small(family).context_length)
    with torch.no_grad():
        return F.normalize(original(family).encode_text(ids), dim=-1)


def image(family, x, levels=(), replace="append"):
    """(B, d), not normalised."""
    if not len(levels):
        return original(family).encode_image(x)
    return plain_image(original(family), x, levels, replace)


def logits(family, v, t):
    """s cos: v (B, d), t (C, d) or (B, C, d)."""
    v, t = F.normalize(v, dim=-1), F.normalize(t, dim=-1)
    return original(family).logit_scale.exp() * (v[:, None] * t).sum(-1)


def same(ours, plain, tolerance=1e-4):
    """Relative difference of two tensors below the tolerance."""
    return (ours - plain).norm() <= tolerance * plain.norm() + 1e-7


def check_gradients(loss, parameters, plain_loss, plain_parameters, tolerance=1e-4):
    """Values and gradients of two losses over matching tensors."""
    assert abs(loss.item() - plain_loss.item()) < 1e-4 * max(1, abs(plain_loss.item()))
    ours, plain = torch.autograd.grad(loss, parameters), torch.autograd.grad(plain_loss, plain_parameters)
    for a, b in zip(ours, plain):
        assert b.norm() > 0 and same(a, b, tolerance)


def count(model):
    return sum(p.numel() for _, p in model.named_trainables())


def context(dataset="phantom", llm="", epochs=10, train_x=(), val=(), **more):
    """Stands for trainers.Context."""
    cfg = get_cfg_default()
    cfg.merge_from_list(["DATASET.NAME", dataset, "OPTIM.NAME", "sgd", "OPTIM.LR", 0.1, "OPTIM.MAX_EPOCH", epochs])
    cfg.MODEL.LLM = llm
    data = SimpleNamespace(train_x=list(train_x), val=list(val), **more)
    return SimpleNamespace(cfg=cfg, dataset=data, device=torch.device("cpu"))
