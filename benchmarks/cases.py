"""What is measured: the fast form and the plain form of one step, on random weights at ViT-B/16 size.

The plain form is `benchmarks/plain`: 77 tokens, everything at (B, C, 77, d_t), the original open_clip blocks with fused
attention. Its interventions are vectorised over images and classes and computed for the intervened rows only, with
the same dropout, so that the comparison does not flatter us.
"""

import copy
import functools

import torch
import torch.nn.functional as F

from cilmp import trainers
from cilmp.backbones.factory import build, wrap
from cilmp.backbones.registry import OPENAI_MEAN, OPENAI_STD
from cilmp.backbones.tokens import clip_bpe
from cilmp.benchmarks import precision
from cilmp.benchmarks.harness import HarnessStep, LoaderPass
from cilmp.benchmarks.plain.image import plain_image
from cilmp.benchmarks.plain.text import Slot, plain_text
from cilmp.trainers.cilmp import CILMP, CILMPLearner
from dassl.engine import TRAINER_REGISTRY

NAMES = ["dyed lifted polyps", "dyed resection margins", "esophagitis", "normal cecum", "normal pylorus",
         "normal z-line", "polyps", "ulcerative colitis"]  # fmt: skip
CONFIG = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
L, D = 32, 4096  # LLM rows and width: LLaMA-3-8B


def names(classes):
    """C class names of about equal length."""
    return [NAMES[c % len(NAMES)] + (f" {c // len(NAMES)}" if c >= len(NAMES) else "") for c in range(classes)]


@functools.cache
def towers(device="cpu"):
    """(open_clip model, PromptableCLIP) of the same random weights."""
    torch.manual_seed(0)
    model = build(copy.deepcopy(CONFIG)).eval().requires_grad_(False)
    facts = {"name": "ViT-B/16 (random)", "mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bicubic"}
    clip = wrap(copy.deepcopy(model), clip_bpe(), facts)
    return model.to(device), clip.to(device)


class Step:
    """fast(), plain() and image() of one step; each returns logits or features. Train runs backward as well."""

    train = True

    def __init__(self, device, train):
        self.device, self.train = device, train
        self.model, self.clip = towers(device)

    def _run(self, forward):
        if not self.train:
            with torch.no_grad():
                return forward()
        out = forward()
        out.float().square().mean().backward()
        return out.detach()

    def fast(self):
        return self._run(self.fast_forward)

    def plain(self):
        return self._run(self.plain_forward)

    def image(self):
        return self._run(self.image_forward)


    def plain_bytes(self):
        """Estimated peak of the plain form, from its largest saved tensors (float32)."""
        layers = 12 if self.train else 1
        return 4 * layers * self.B * self.C * 77 * 512 * 18


class ContextStep(Step):
    """A method with context vectors at the input. part: text (context to text features) or step (images to logits).

    method: name of a registered trainer whose learner has `ctx` and `prompts`; CoCoOp's context depends on the image.
    """

    def __init__(self, method, part, train, C, B=1, device="cpu"):
        super().__init__(device, train)
        from yacs.config import CfgNode

        trainer = TRAINER_REGISTRY.get(method)
        self.part, self.B, self.C = part, B, C
        torch.manual_seed(1)
        cfg = CfgNode({**trainer.defaults, "CTX_INIT": "a photo of a"})
        self.learner = trainer.learner(cfg, self.clip, names(C)).to(device)
        self.learner.train(train)
        self.images = torch.randn(B, 3, 224, 224, device=device)
        self.ids = self.clip.text.tokenizer([f"{n}." for n in names(C)], context_length=77).to(device)

    def fast_forward(self):
        return self.learner.text_features() if self.part == "text" else self.learner(self.images)

    def image_forward(self):
        return self.clip.image.encode(self.images).requires_grad_(self.train)  # frozen: no backward through it

    def plain_forward(self):
        if self.part == "text":
            return plain_text(self.model, self.ids, [Slot([self.learner.ctx[None, None]], 1)])[0]
        with torch.no_grad():
            v = F.normalize(self.model.encode_image(self.images), dim=-1)
        text = plain_text(self.model, self.ids, [Slot([self.plain_context(v)], 1)])
        return self.model.logit_scale.exp() * torch.einsum("bd,bcd->bc", v, F.normalize(text, dim=-1))

    def plain_context(self, v):
        """CoCoOp: ctx + pi_b (B, 1, M, d_t), of unit features v."""
        return (self.learner.ctx + self.learner.meta_net(v)[:, None])[:, None]


class CILMPStep(Step):
    """part: text (from image features to text features) or step (images to logits)."""

    def __init__(self, part, train, B, C, device="cpu", dropout_mode="hidden", rows=L):
        super().__init__(device, train)
        from yacs.config import CfgNode

        self.part, self.B, self.C = part, B, C
        torch.manual_seed(1)
        h = torch.randn(C, rows, D)
        cfg = CfgNode({**CILMP.defaults, "DROPOUT_MODE": dropout_mode})
        self.learner = CILMPLearner(cfg, self.clip, names(C), knowledge=(h, torch.full((C,), rows))).to(device)
        self.learner.train(train).requires_grad_(train)
        self.h = h.to(device)
        self.images = torch.randn(B, 3, 224, 224, device=device)
        self.v = F.normalize(torch.randn(B, 512, device=device), dim=-1).requires_grad_(train)
        self.ids = self.clip.text.tokenizer([f"{n}." for n in names(C)], context_length=77).to(device)

    def fast_forward(self):
        if self.part == "text":
            return self.clip.text.encode(self.learner.prompts(self.v))
        return self.learner(self.images)

    def image_forward(self):
        return self.learner.visual.encode(self.images)

    def plain_forward(self):
        v = self.v
        if self.part == "step":
            v = F.normalize(plain_image(self.model, self.images, self.learner.visual.ctx), dim=-1)
        text = plain_text(self.model, self.ids, [Slot(self.plain_levels(v), 1)])
        if self.part == "text":
            return text
        return self.model.logit_scale.exp() * torch.einsum("bd,bcd->bc", v, F.normalize(text, dim=-1))

    def plain_levels(self, v):
        """J tensors (B, C, M + L, d_t): interventions written out at width D, then A and Bp."""
        ours, P, S = self.learner, self.learner.node.PREFIX_LENGTH, self.learner.node.SUFFIX_LENGTH
        levels = []
        for j in range(ours.depth):
            first = self._intervene(ours.prefix, j, self.h[:, :P], v)
            last = self._intervene(ours.suffix, j, self.h[:, -S:], v)
            middle = self.h[None, :, P:-S].expand(len(v), -1, -1, -1)
            rows = torch.cat([first, middle, last], dim=2)  # (B, C, L, D)
            y = rows @ ours.A[j].mT @ ours.Bp[j].mT
            levels.append(torch.cat([ours.ctx[j].expand(*y.shape[:2], -1, -1), y], dim=2))
        return levels

    def _intervene(self, module, j, h, v):
        g = F.linear(F.linear(v, module.down[j], module.down_bias[j]), module.up[j], module.up_bias[j])
        h = h[None].expand(len(v), -1, -1, -1)
        u = torch.cat([h, g[:, None, None] * h], dim=-1)
        e = h + (F.linear(u, module.source[j], module.source_bias[j]) - h @ module.rotate[j]) @ module.rotate[j].mT
        return F.dropout(e, self.learner.node.DROPOUT, training=self.train)

    def plain_bytes(self):
        pairs = self.B * self.C
        per_layer = pairs * (L * D * 3 + 77 * 512 * 18) if self.train else 0
        return 4 * (12 * per_layer + pairs * (L * D * 4 + 77 * 512 * 12))


SHARED = {"dropout_mode": "shared"}
COCOOP = {"method": "CoCoOp", "part": "step"}
CASES = {
    "cilmp/text/train/b4c8": ("cilmp", CILMPStep, {"part": "text", "train": True, "B": 4, "C": 8}),
    "cilmp/text/train/b4c8/shared": ("cilmp", CILMPStep, {"part": "text", "train": True, "B": 4, "C": 8} | SHARED),
    "cilmp/text/eval/b4c8": ("cilmp", CILMPStep, {"part": "text", "train": False, "B": 4, "C": 8}),
    "cilmp/step/train/b4c8": ("cilmp", CILMPStep, {"part": "step", "train": True, "B": 4, "C": 8}),
    "cilmp/step/eval/b4c8": ("cilmp", CILMPStep, {"part": "step", "train": False, "B": 4, "C": 8}),
    "cilmp/text/train/b64c8": ("cilmp", CILMPStep, {"part": "text", "train": True, "B": 64, "C": 8}),
    "cilmp/step/train/b8c200": ("cilmp", CILMPStep, {"part": "step", "train": True, "B": 8, "C": 200}),
    "cilmp/step/eval/b32c1000": ("cilmp", CILMPStep, {"part": "step", "train": False, "B": 32, "C": 1000}),
    "cocoop/step/train/b2c8": ("cocoop", ContextStep, COCOOP | {"train": True, "B": 2, "C": 8}),
    "cocoop/step/eval/b4c8": ("cocoop", ContextStep, COCOOP | {"train": False, "B": 4, "C": 8}),
}
for _method in ("CoOp", "KgCoOp", "ProGrad"):
    for _C in (8, 100):
        _sizes = {"method": _method, "part": "text", "train": True, "C": _C}
        CASES[f"{_method.lower()}/text/train/c{_C}"] = ("methods", ContextStep, _sizes)
for _method in sorted(trainers.methods()):
    _sizes = {"method": _method, "B": 4, "C": 8, "names": names, "rows": L, "width": D, "train": True}
    CASES[f"{_method.lower()}/harness/b4c8"] = ("methods", HarnessStep, _sizes)
for _workers in (0, 2):
    _sizes = {"workers": _workers, "images": 96, "names": names, "train": False}
    CASES[f"loader/workers{_workers}"] = ("loader", LoaderPass, _sizes)
# one axis at a time around B = 4, C = 8, L = 32; then the grid of evaluation as it grows
AXES = {"B": (1, 2, 4, 8, 16, 32), "C": (2, 4, 8, 16, 32, 64), "rows": (8, 16, 32, 56)}
GRID = ((4, 125), (4, 250), (4, 500), (4, 1000))
for _axis, _values in AXES.items():
    for _n in _values:
        _at = {"B": 4, "C": 8, "rows": L} | {_axis: _n}
        for _train in (True, False):
            _name = f"scaling/{'train' if _train else 'eval'}/b{_at['B']}c{_at['C']}l{_at['rows']}"
            CASES[_name] = ("scaling", CILMPStep, {"part": "text", "train": _train, **_at})
for _B, _C in GRID:
    CASES[f"scaling/eval/b{_B}c{_C}l{L}"] = ("scaling", CILMPStep, {"part": "text", "train": False, "B": _B, "C": _C})

CASES |= precision.cases(towers, names, L, D)


def equality(step):
    """Largest difference of fast and plain outputs in evaluation; None where they are no tensors."""
    if isinstance(step, LoaderPass):
        return None
    if hasattr(step, "learner"):
        step.learner.eval()
    before, step.train = step.train, False
    difference = (step.fast() - step.plain()).abs().max().item()
    step.train = before
    if hasattr(step, "learner"):
        step.learner.train(before)
    return difference


__all__ = ["CASES", "CILMPStep", "ContextStep", "Step", "equality", "names", "towers"]
