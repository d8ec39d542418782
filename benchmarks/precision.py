"""What towers in half precision cost: decisions, ties and logits against float32, and the same with a half score.

`demo` trains a method for two epochs in float32 and classifies the phantom's test images. `vit_b16` has random
weights; there features are given CLIP's geometry (`like_clips`), and pictures are random fields of colour. On a CPU
float16 is autocast in inference alone, which a run (`amp`) is not; here it shows what float16 does to the numbers.
"""

import copy
import tempfile

import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from cilmp.experiments.settings import base_config, method_files
from cilmp.trainers.precision import AUTOCAST, in_towers
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed

WORDS = {"bf16": "bf16", "fp16": "amp"}  # how a column is called: the precision that runs it
SCALE, COSINE = 100.0, 0.27  # CLIP's scale and mean cosine: logits near 27
AT_ONCE = 8  # images


class InHalf:
    """A learner on images, in each precision. Subclasses set learner, clip, images, name."""

    train = False

    def logits(self, word):
        """(logits with the score in float32, logits with the score in half precision or None)."""
        in_towers(self.clip, word)
        scored, score = [], self.learner.score
        self.learner.score = lambda v, t: scored.append((v, t)) or score(v, t)
        self.learner.train().eval()  # texts kept from another precision are forgotten
        with torch.no_grad():
            found = torch.cat([self.learner(x) for x in self.images.split(AT_ONCE)])
            half = [self.half_score(v, t, AUTOCAST[word]) for v, t in scored] if AUTOCAST[word] else []
        self.learner.score = score
        return found, torch.cat(half).float() if half else None

    def half_score(self, v, t, dtype):
        """The score as it was before it left autocast."""
        with torch.autocast(v.device.type, dtype=dtype):
            return self.clip.scale() * cosines(v.to(dtype), t.to(dtype))

    def row(self):
        full, _ = self.logits("fp32")
        row = {"images": len(full), "classes": full.shape[1], "mean": full.mean().item(),
               "spread": full.std(-1).mean().item(), "ties_fp32": ties(full)}  # fmt: skip
        for name, word in WORDS.items():
            now, before = self.logits(word)
            row |= {f"{name}_{key}": value for key, value in compared(now, full).items()}
            older = dict.fromkeys(("changed", "ties", "error")) if before is None else compared(before, full)
            row |= {f"{name}_half_score_{key}": value for key, value in older.items()}
        return row


def compared(found, full):
    """Decisions that differ, ties at the top, and the largest difference of logits."""
    changed = int((found.argmax(-1) != full.argmax(-1)).sum())
    return {"changed": changed, "ties": ties(found), "error": (found - full).abs().max().item()}


def ties(logits):
    """Images whose two best classes are equal."""
    first, second = logits.topk(2).values.unbind(-1)
    return int((first == second).sum())


class OnDemo(InHalf):
    """A method trained on the demo, its test images."""

    def __init__(self, method, device="cpu"):
        self.folder = tempfile.TemporaryDirectory()
        cfg = base_config()
        for path in method_files(method, "few_shot", "demo")[0]:
            cfg.merge_from_file(str(path))
        values = {
            "TRAINER.NAME": method, "DATASET.NAME": "phantom", "DATASET.NUM_SHOTS": 16, "MODEL.BACKBONE.NAME": "demo",
            "MODEL.LLM": "smollm2-135m", "OPTIM.MAX_EPOCH": 2, "SEED": 1, "VERBOSE": False, "TEST.NO_TEST": True,
            "OUTPUT_DIR": self.folder.name, "USE_CUDA": device == "cuda", f"TRAINER.{method.upper()}.PREC": "fp32",
        }  # fmt: skip
        cfg.merge_from_list([x for pair in values.items() for x in pair])
        set_random_seed(1)
        trainer = build_trainer(cfg)
        if trainer.trains:
            trainer.train()
        self.learner, self.clip = trainer.model, trainer.clip
        self.images = torch.cat([batch["img"] for batch in trainer.dm.test_loader]).to(trainer.device)


class AtFullSize(InHalf):
    """A method as it starts, on random weights at ViT-B/16 size with CLIP-like features."""

    def __init__(self, method, images, classes, towers, names, rows, width, device="cpu"):
        self.clip = copy.deepcopy(towers(device)[1])  # its features are moved below
        torch.manual_seed(1)
        trainer = TRAINER_REGISTRY.get(method)
        cfg = CfgNode({**trainer.defaults, "CTX_INIT": "a photo of a"})
        more = {"knowledge": (torch.randn(classes, rows, width), torch.full((classes,), rows))} if rows else {}
        self.learner = trainer.learner(cfg, self.clip, names(classes), **more).to(device)
        self.images = colour_fields(images).to(device)
        self.clip.logit_scale.data.fill_(SCALE).log_()
        like_clips(self.learner, self.clip, self.images[: 2 * AT_ONCE])


def colour_fields(count):
    """(N, 3, 224, 224): smooth random colours, of which even random towers make features as unlike as CLIP's."""
    g = torch.Generator().manual_seed(0)
    grids = [2 * torch.randn(1, 3, n, n, generator=g) for n in (1 + i % 4 for i in range(count))]
    return torch.cat([F.interpolate(x, size=224, mode="bicubic") for x in grids])


@torch.no_grad()
def like_clips(learner, clip, images):
    """Let both towers add a constant to their features, as the bias of a last norm would, in their own precision.

    What the images' features have in common goes; a direction common to both towers comes, so much of it that the
    mean logit is CLIP's 27. How far classes differ is left as the towers make it (1.1; CILMP's random rows: 2.2).
    """
    common = torch.randn(clip.embed_dim, generator=torch.Generator().manual_seed(3))
    common = F.normalize(common, dim=0).to(images.device)
    own = given(learner, clip.image, images)
    mean, own = own.mean(0), own - own.mean(0)
    shift(clip.image, amount(lambda x: cosines(own + x * common, common[None]), COSINE**0.5) * common - mean)
    v, t = given(learner, clip.image, images), given(learner, clip.text, images)
    shift(clip.text, amount(lambda x: cosines(v, t + x * common), COSINE) * common)


def given(learner, tower, images):
    """What a tower gives, not normalised, when a learner evaluates images."""
    encode, found = tower.encode, []
    tower.encode = lambda *args, **kwargs: found.append(encode(*args, **kwargs)) or found[-1]
    learner.train().eval()(images)
    tower.encode = encode
    return found[-1]


def cosines(v, t):
    """(B, C) of features (B, d) and (C, d) or (B, C, d)."""
    v, t = F.normalize(v, dim=-1), F.normalize(t, dim=-1)
    return v @ t.mT if t.dim() == 2 else torch.einsum("bd,bcd->bc", v, t)


def amount(values, wanted):
    """x >= 0 with mean values(x) = wanted, of a function that grows (by bisection)."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if values(middle).mean() < wanted else (low, middle)
    return high


def shift(tower, offset):
    """Features of this tower plus an offset (d,), in the towers' own dtype."""
    encode = tower.encode

    def shifted(*args, **kwargs):
        features = encode(*args, **kwargs)
        return features + offset.to(features.dtype)

    tower.encode = shifted


def cases(towers, names, rows, width):
    """{name: (suite, kind, sizes)} of the suite `precision`."""
    from cilmp import trainers

    common = {"images": 64, "classes": 8, "towers": towers, "names": names, "width": width}
    found = {f"precision/demo/{m.lower()}": ("precision", OnDemo, {"method": m}) for m in sorted(trainers.methods())}
    for method in ("CILMP", "CoCoOp", "CoOp"):
        sizes = common | {"method": method, "rows": rows if method == "CILMP" else 0}
        found[f"precision/vit_b16/{method.lower()}"] = ("precision", AtFullSize, sizes)
    return found
