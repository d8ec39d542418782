"""CLIP-LoRA, CLIP-SVD and fine-tuning against the original open_clip model with changed weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from yacs.config import CfgNode

from cilmp.backbones.blocks import Block
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.clip_lora import CLIPLoRA
from cilmp.trainers.clip_svd import CLIPSVD
from cilmp.trainers.finetune import FineTune
from cilmp.trainers.schedules import cosine_over_steps
from cilmp.trainers.zsclip import ZeroshotCLIP
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from dassl.utils.errors import ConfigError, UserError

AUGMENTED = {"INPUT.TRANSFORMS": ["random_flip", "normalize"]}


class Both(nn.Module):
    """Logits of the original model for images and ids."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, ids):
        v, t = F.normalize(self.model.encode_image(x), dim=-1), F.normalize(self.model.encode_text(ids), dim=-1)
        return self.model.logit_scale.exp() * v @ t.T


def original_logits(family, x, changed):
    """Logits with some weights of the original model replaced: {name: tensor}."""
    ids = plain.tokenizer(family)([f"a photo of a {n}." for n in plain.NAMES], plain.small(family).context_length)
    model = Both(plain.original(family))
    return functional_call(model, {f"model.{k}": v for k, v in changed.items()}, (x, ids))


class Shapes(nn.Module):
    """Towers with ViT-B/16's blocks; on the meta device, shapes without memory."""

    name, vision_width = "shapes", 768

    def __init__(self):
        super().__init__()
        self.text, self.image = nn.Module(), nn.Module()
        self.text.blocks, self.image.blocks = self.stack(512), self.stack(768)

    @staticmethod
    def stack(w):
        sizes = {"q": (w, w), "k": (w, w), "v": (w, w), "out": (w, w), "fc": (w, 4 * w), "proj": (4 * w, w)}
        return nn.ModuleList(Block("pre", 8, **{n: nn.Linear(*s) for n, s in sizes.items()}) for _ in range(12))


def count_at_vit_b16(trainer):
    """How many numbers `adapt` makes trainable at ViT-B/16's sizes."""
    with torch.device("meta"):
        ours = trainer.learner.__new__(trainer.learner)
        nn.Module.__init__(ours)
        ours.node, ours._clip = CfgNode(trainer.defaults), (Shapes().requires_grad_(False),)
        ours.adapt()
    return plain.count(ours)


def packed(family, tower, layer):
    """(name of the weight that holds q, k and v, or three names)."""
    if tower == "image":
        return f"visual.trunk.blocks.{layer}.attn.qkv.weight" if family != "openai" else \
            f"visual.transformer.resblocks.{layer}.attn.in_proj_weight"  # fmt: skip
    if family == "bert":
        return [f"text.transformer.encoder.layer.{layer}.attention.self.{n}.weight" for n in ("query", "key", "value")]
    return f"{'' if family == 'openai' else 'text.'}transformer.resblocks.{layer}.attn.in_proj_weight"


@pytest.mark.parametrize("family", ["openai", "bert", "siglip"])
def test_lora_equals_changed_weights(family):
    ours, (x, y) = plain.learner(CLIPLoRA, family, RANK=3, ALPHA=2), plain.batch(family)
    named = dict(ours.named_trainables())
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in named.values():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    ours.eval()
    leaves = {n: plain.leaf(p) for n, p in named.items()}
    weights, changed = dict(plain.original(family).named_parameters()), {}
    for tower, layers in (("text", ours.clip.text_layers), ("image", ours.clip.vision_layers)):
        for i in range(layers):
            at = f"{tower}.blocks.{i}"
            delta = [2 / 3**0.5 * leaves[f"{at}.{m}.B"] @ leaves[f"{at}.{m}.A"] for m in "qkv"]
            where = packed(family, tower, i)
            if isinstance(where, list):
                changed |= {name: weights[name] + d for name, d in zip(where, delta)}
            else:
                changed[where] = weights[where] + torch.cat(delta)
    wanted = F.cross_entropy(original_logits(family, x, changed), y)
    plain.check_gradients(ours.loss(x, y)[0], list(named.values()), wanted, list(leaves.values()), 1e-3)
    widths = ours.clip.text_layers * ours.clip.text_width + ours.clip.vision_layers * ours.clip.vision_width
    assert plain.count(ours) == 3 * 2 * 3 * widths


def test_lora_counts_as_published_and_starts_at_zero_shot():
    assert count_at_vit_b16(CLIPLoRA) == 184_320
    ours, (x, _) = plain.learner(CLIPLoRA), plain.batch("openai")
    assert (ours.eval()(x) - plain.learner(ZeroshotCLIP)(x)).abs().max() < 1e-4


def test_lora_drops_its_input_in_training_only():
    ours, (x, _) = plain.learner(CLIPLoRA, DROPOUT=0.5), plain.batch("openai")
    with torch.no_grad():
        for name, p in ours.named_trainables():
            if name.endswith("B"):
                p.fill_(0.05)
    ours.train()
    assert (ours(x) - ours(x)).abs().max() > 1e-3
    assert not any(m.training for m in ours.clip.modules() if isinstance(m, nn.LayerNorm))
    ours.eval()
    assert torch.equal(ours(x), ours(x))


@pytest.mark.parametrize("options, message", [({"ENCODER": "all"}, "choose both"), ({"PARAMS": "qx"}, "letters of")])
def test_lora_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        plain.learner(CLIPLoRA, **options)
    with pytest.raises(ConfigError, match=r"CLIPLoRA .*\(ResNet\): set TRAINER.CLIPLORA.ENCODER text"):
        plain.learner(CLIPLoRA, "resnet")
    with pytest.raises(ConfigError, match="are 0 to 3"):
        plain.learner(CLIPSVD, LAYERS=(0, 4))
    only = plain.learner(CLIPLoRA, "resnet", ENCODER="text", PARAMS="qo", LAYERS=(0, 2))
    assert plain.count(only) == 2 * 2 * 2 * 2 * only.clip.text_width


@pytest.mark.parametrize("family", ["openai", "bert"])
def test_svd_equals_changed_weights(family):
    """S scaled by 1.5 everywhere is every decomposed weight scaled by 1.5."""
    ours, (x, y) = plain.learner(CLIPSVD, family), plain.batch(family)
    assert (ours(x) - plain.learner(ZeroshotCLIP, family)(x)).abs().max() < 1e-3
    with torch.no_grad():
        for _, p in ours.named_trainables():
            p.mul_(1.5)
    inside = ("in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight", "query.weight", "key.weight",
              "value.weight", "dense.weight", "qkv.weight", "attn.proj.weight", "fc1.weight", "fc2.weight")  # fmt: skip
    factor = torch.tensor(1.5, requires_grad=True)
    changed = {n: p * factor for n, p in plain.original(family).named_parameters()
               if n.endswith(inside) and ("blocks" in n or "layer." in n)}  # fmt: skip
    loss, wanted = ours.loss(x, y)[0], F.cross_entropy(original_logits(family, x, changed), y)
    assert abs(loss - wanted) < 1e-3
    named = ours.named_trainables()
    grads = torch.autograd.grad(loss, [p for _, p in named])
    along = sum((g * p).sum() / 1.5 for g, (_, p) in zip(grads, named))  # d loss / d factor
    assert plain.same(along, torch.autograd.grad(wanted, factor)[0], 1e-3)


def test_svd_counts_as_published():
    assert count_at_vit_b16(CLIPSVD) == 92_160
    ours = plain.learner(CLIPSVD)
    assert plain.count(ours) == 6 * (ours.clip.text_layers * 32 + ours.clip.vision_layers * 48)


def test_svd_checkpoint_holds_values_and_refuses_other_weights():
    ours, (x, _) = plain.learner(CLIPSVD), plain.batch("openai")
    with torch.no_grad():
        for _, p in ours.named_trainables():
            p.mul_(1.1)
    state = ours.checkpoint_state()
    assert sum(v.numel() for v in state.values()) == plain.count(ours) + 6 * 7
    other = plain.learner(CLIPSVD)
    other.load_checkpoint_state(state)
    assert torch.equal(other(x), ours(x))
    tuned = plain.small("openai")  # the same model after a little training, whose sums of S are hardly different
    with torch.no_grad():
        for block in tuned.image.blocks:
            block.fc.weight += 0.03 * block.fc.weight.std() * torch.randn(block.fc.weight.shape)
    for stranger in (plain.small("openai", seed=7), tuned):
        with pytest.raises(UserError, match="other backbone weights"):
            CLIPSVD.learner(ours.node, stranger, plain.NAMES).load_checkpoint_state(state)
    half = plain.small("openai").half().float()  # the same weights, rounded
    CLIPSVD.learner(ours.node, half, plain.NAMES).load_checkpoint_state(state)


@pytest.mark.parametrize("family", ["openai", "bert", "resnet"])
def test_fine_tuning_is_the_original_models_gradient(family):
    ours, (x, y) = plain.learner(FineTune, family), plain.batch(family)
    model = plain.original(family).requires_grad_(True).eval()
    ids = plain.tokenizer(family)([f"a photo of a {n}." for n in plain.NAMES], ours.clip.context_length)
    wanted = F.cross_entropy(Both(model)(x, ids), y)
    loss = ours.loss(x, y)[0]
    assert abs(loss - wanted) < 1e-4
    grads = torch.autograd.grad(loss, [p for _, p in ours.named_trainables()], allow_unused=True)
    # the blocks hold q, k and v apart and the padding's embeddings are not read, so norms over all are compared
    theirs = [p for n, p in model.named_parameters() if "logit_" not in n]
    plain_grads = torch.autograd.grad(wanted, theirs, allow_unused=True)
    norm = lambda gs: torch.stack([g.norm() for g in gs if g is not None]).norm()  # noqa: E731
    assert plain.same(norm(grads), norm(plain_grads), 1e-3)
    table = dict(ours.clip.text.named_parameters())["token_embedding.weight"]
    (own,) = torch.autograd.grad(ours.loss(x, y)[0], table)
    assert own.abs().sum() > 0  # words are looked up anew, so their embeddings learn


def test_fine_tuning_parts():
    ours = plain.learner(FineTune, MODE="last_layer")
    assert plain.count(ours) == 48 * 24 + 32 * 24 and 768 * 512 + 512 * 512 == 655_360
    head, (x, _) = plain.learner(FineTune, MODE="ft_head"), plain.batch("openai")
    assert (head(x) - plain.learner(ZeroshotCLIP)(x)).abs().max() < 1e-4
    assert not any(n.startswith("text") for n, _ in head.named_trainables())
    with pytest.raises(ConfigError, match="choose ft_clip"):
        plain.learner(FineTune, MODE="all")


def test_half_precision_weights_are_not_trained(tmp_path):
    with pytest.raises(ConfigError, match="choose amp, bf16 or fp32"):
        build_trainer(config(tmp_path / "a", "FineTune", **{"TRAINER.FINETUNE.PREC": "fp16"}))


def test_rates_fall_towards_the_input(tmp_path):
    trainer, _ = run(config(tmp_path / "a", "FineTune", **AUGMENTED, **{"OPTIM.NAME": "adamw", "OPTIM.LR": 1e-4}))
    rates = {name: trainer.rate(name) for name, _ in trainer.model.named_trainables()}
    L = trainer.clip.vision_layers
    assert rates[f"image.blocks.{L - 1}.q.weight"] == pytest.approx(1e-4)
    assert rates["image.blocks.0.q.weight"] == pytest.approx(1e-4 * 0.75 ** (L - 1))
    assert rates["image.stem.position"] == pytest.approx(1e-4 * 0.75**L)
    assert rates["text.blocks.0.q.weight"] == pytest.approx(1e-5 * 0.75 ** (trainer.clip.text_layers - 1))
    assert trainer.rate("text.type_embedding") == trainer.rate("text.token_embedding.weight")
    for group in trainer.optim.param_groups:
        assert (group["weight_decay"] == 0) or all(p.dim() > 1 for p in group["params"])


def test_cosine_over_steps_by_hand():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine_over_steps(optimizer, steps=6, warmup=2, end=0.1)
    seen = []
    for _ in range(7):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    falling = [0.1 + 0.9 * share for share in (1, 0.8535534, 0.5, 0.1464466, 0)]
    assert seen == pytest.approx([1.0, 2.0, *(2 * f for f in falling)])


@pytest.mark.parametrize("method", ["CLIPLoRA", "CLIPSVD", "FineTune"])
def test_demo_run_learns_steps_by_the_step_and_serves_other_classes(tmp_path, method):
    options = AUGMENTED | {"OPTIM.NAME": "adamw", "OPTIM.LR": 1e-4, "DATASET.SUBSAMPLE_CLASSES": "base"}
    key = "MIN_STEPS" if method == "FineTune" else "ITERATIONS_PER_SHOT"
    options[f"TRAINER.{method.upper()}.{key}"] = 6 if method == "FineTune" else 3  # 12 images, one step an epoch
    trainer, state = run(config(tmp_path / "a", method, **options))
    assert trainer.max_epoch == 6 and trainer.get_current_lr() < 1e-5
    cfg = config(tmp_path / "b", method, **options | {"DATASET.SUBSAMPLE_CLASSES": "new"})
    other = build_trainer(cfg)
    other.load_model(str(tmp_path / "a"))
    for name, value in other.model.checkpoint_state().items():
        assert torch.equal(value, state[name])
    assert other.model.eval()(torch.randn(2, 3, 64, 64, device=other.device)).shape == (2, 6)


def test_building_a_trainer_copies_no_weights(tmp_path, monkeypatch):
    """With FineTune a copy would be both towers: memory that the run may not have."""
    clone, copied = torch.Tensor.clone, []
    monkeypatch.setattr(torch.Tensor, "clone", lambda t, **how: copied.append(t.data_ptr()) or clone(t, **how))
    trainer = build_trainer(config(tmp_path, "FineTune"))
    assert not {p.data_ptr() for _, p in trainer.model.named_trainables()} & set(copied)


@pytest.mark.parametrize("method", ["CLIPLoRA", "CLIPSVD", "FineTune"])
def test_a_run_killed_within_an_epoch_resumes_bit_equal(tmp_path, method):
    """The cosine over steps, AdamW's moments and dropout's random numbers go on where the last epoch ended."""
    options = AUGMENTED | {"OPTIM.NAME": "adamw", "OPTIM.LR": 1e-4, "TRAIN.CHECKPOINT_FREQ": 1, "OPTIM.MAX_EPOCH": 3}
    whole, state = run(config(tmp_path / "whole", method, **options))
    cfg = config(tmp_path / "killed", method, **options)
    set_random_seed(cfg.SEED)
    first = build_trainer(cfg)
    step = first.forward_backward

    def die(batch):
        if (first.epoch, first.batch_idx) == (1, 1):
            raise InterruptedError
        return step(batch)

    first.forward_backward = die
    with pytest.raises(InterruptedError):
        first.train()
    again, resumed = run(cfg)
    assert again.start_epoch == 1 and again.get_current_lr() == whole.get_current_lr()
    assert all(torch.equal(state[name], resumed[name]) for name in state)
