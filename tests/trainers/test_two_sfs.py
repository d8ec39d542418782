"""2SFS: the official run's numbers, both stages, and which class gets a row of the classifier."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from cilmp.experiments.settings import base_config
from cilmp.tests.official import peers
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_adapted_backbones import Both
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.two_sfs import FloatNorm, TwoSFS
from cilmp.trainers.zsclip import ZeroshotCLIP
from dassl.engine import TrainerBase, build_trainer
from dassl.utils import set_random_seed
from dassl.utils.errors import ConfigError, UserError

AUGMENTED = {"INPUT.TRANSFORMS": ["random_flip", "normalize"], "OPTIM.NAME": "adamw", "OPTIM.LR": 1e-3}


def official_name(name):
    """OpenAI's name of one of our norms' tensors."""
    tower, _, number, norm, kind = name.split(".")
    return f"{'visual.' * (tower == 'image')}transformer.resblocks.{number}.ln_{norm[-1]}.{kind}"


def official_run(ours, batches, steps, lr):
    """The trainer's own steps over these batches again and again, with the published optimiser."""
    trainer = TwoSFS.__new__(TwoSFS)
    TrainerBase.__init__(trainer)
    trainer.cfg = base_config()
    trainer.cfg.OPTIM.NAME, trainer.cfg.OPTIM.LR, trainer.cfg.OPTIM.WEIGHT_DECAY = "adamw", lr, 0.01
    trainer.device, trainer.scaler, trainer.model = torch.device("cpu"), None, ours
    trainer.max_epoch, trainer.max_steps, trainer.train_loader_x = steps, 0, [None]
    optimizer = trainer.build_optimizer(ours.named_trainables())
    trainer.register_model("m", ours.train(), optimizer, trainer.build_scheduler(optimizer))
    for trainer.epoch in range(steps):
        trainer.batch_idx = 0
        x, y = batches[trainer.epoch % len(batches)]
        trainer._step({"img": x, "label": y})
        yield trainer


def test_the_official_numbers():
    """Its run_twostage on two batches, 4 steps and 3: first loss and gradients, norms after stage 1, classifier and
    logits at the end, on the trained classes and on others of which one is known."""
    wanted = peers.numbers("two_sfs")
    ours = plain.on(peers.clip(), TwoSFS, peers.CLASSES)
    norms = {official_name(n): p for n, p in ours.named_trainables() if n != "classifier"}
    x, y, test = peers.images("2sfs images", 8), torch.arange(4), peers.images("2sfs test", 4)
    loss, logits = ours.loss(x[:4], y)
    assert abs(loss - wanted["loss"]) < 1e-4 and (logits - wanted["zero_shot"]).abs().max() < 2e-4
    assert {f"grad/{n}" for n in norms} == {n for n in wanted if n.startswith("grad/")}
    for name, g in zip(norms, torch.autograd.grad(loss, list(norms.values()))):
        assert plain.same(g, wanted[f"grad/{name}"], 1e-4), name
    for trainer in official_run(ours, [(x[:4], y), (x[4:], y)], steps=7, lr=2e-3):
        assert ours.second == (trainer.epoch >= 4)
        if trainer.epoch == 3:
            after = {n: p.detach().clone() for n, p in norms.items()}
    for name, p in norms.items():
        assert torch.equal(p, after[name]), "norms rest in stage 2, weight decay too"
        assert (p - wanted[f"stage1/{name}"]).abs().max() < 1e-5, name
    assert (ours.classifier - wanted["classifier"]).abs().max() < 1e-5
    ours.eval()
    with torch.no_grad():
        assert (ours(test) - wanted["base/logits"]).abs().max() < 2e-4
        other = plain.on(peers.clip(), TwoSFS, peers.NEW)
        other.trained_on(peers.CLASSES, same_set=False)
        other.load_checkpoint_state(ours.checkpoint_state())
        assert (other.eval()(test) - wanted["new/logits"]).abs().max() < 2e-4


@pytest.mark.parametrize("family", ["openai", "bert", "siglip"])
@pytest.mark.parametrize("norms", ["blocks", "all"])
def test_stage_one_is_the_original_models_gradient(family, norms):
    """Scales and shifts, compared with those of the original model by their values."""
    ours, (x, y) = plain.learner(TwoSFS, family, NORMS=norms), plain.batch(family)
    assert (ours(x) - plain.learner(ZeroshotCLIP, family)(x)).abs().max() < 1e-3
    model = plain.original(family)
    modules = {n: m for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    if norms == "blocks":
        modules = {n: m for n, m in modules.items() if ".layer." in n or "blocks." in n}
    leaves = {f"{n}.{kind}": plain.leaf(getattr(m, kind)) for n, m in modules.items() for kind in ("weight", "bias")}
    ids = plain.tokenizer(family)([f"a photo of a {n}." for n in plain.NAMES], ours.clip.context_length)
    wanted = F.cross_entropy(functional_call(Both(model), {f"model.{k}": v for k, v in leaves.items()}, (x, ids)), y)
    learned = [p for n, p in ours.named_trainables() if n != "classifier"]
    assert len(learned) == len(leaves)
    loss = ours.loss(x, y)[0]
    assert abs(loss - wanted) < 1e-4
    theirs = dict(zip(leaves, torch.autograd.grad(wanted, list(leaves.values()))))
    for p, g in zip(learned, torch.autograd.grad(loss, learned)):
        (name,) = (n for n, leaf in leaves.items() if leaf.shape == p.shape and torch.equal(leaf, p))
        assert plain.same(g, theirs[name], 1e-3), name


def test_counts_at_full_size():
    """61,440 in the blocks of ViT-B/16; with the norms around them 65,536."""
    assert 12 * 4 * (512 + 768) == 61_440 and 61_440 + 2 * (2 * 768 + 512) == 65_536
    for norms, around in (("blocks", 0), ("all", 2 * (2 * 48 + 32))):
        ours = plain.learner(TwoSFS, NORMS=norms)
        assert plain.count(ours) == 4 * (4 * 32 + 3 * 48) + around + 4 * 24
    part = plain.learner(TwoSFS, ENCODER="text", LAYERS=(3,))
    assert plain.count(part) == 4 * 32 + 4 * 24


def test_norms_of_a_half_precision_tower_learn_in_float32():
    norm = nn.LayerNorm(8).half()
    own = FloatNorm(norm)
    assert own.weight.dtype == torch.float32 and own(torch.randn(2, 8).half()).dtype == torch.float16


def second_stage(family="openai", **options):
    """A learner in stage 2 whose norms and classifier have moved."""
    ours = plain.learner(TwoSFS, family, **options)
    with torch.no_grad():
        for _, p in ours.named_trainables():
            p.mul_(1.1)
        ours.start_second()
        ours.classifier.add_(torch.randn(ours.classifier.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    return ours


@pytest.mark.parametrize("family", ["openai", "bert", "siglip", "resnet"])
def test_stage_two_is_a_cosine_classifier(family):
    options = {"ENCODER": "text"} if family == "resnet" else {}
    ours, (x, y) = second_stage(family, **options), plain.batch(family)
    W = plain.leaf(ours.classifier)
    with torch.no_grad():
        v = ours.clip.image.encode(x)
    wanted = F.cross_entropy(plain.logits(family, v, W), y)
    plain.check_gradients(ours.loss(x, y)[0], [ours.classifier], wanted, [W])
    others = [p for n, p in ours.named_trainables() if n != "classifier"]
    assert torch.autograd.grad(ours.loss(x, y)[0], others, allow_unused=True) == (None,) * len(others)


def test_stage_two_starts_at_stage_one():
    ours, (x, _) = plain.learner(TwoSFS), plain.batch("openai")
    before = ours(x)
    ours.start_second()
    assert (ours(x) - before).abs().max() < 1e-4


def test_a_class_without_a_row_is_read_by_the_adapted_text_tower():
    ours, (x, _) = second_stage().eval(), plain.batch("openai")
    names = ["glaucoma", plain.NAMES[2], "drusen"]
    other = plain.learner(TwoSFS, names=names).eval()
    other.trained_on(plain.NAMES, same_set=True)
    other.load_checkpoint_state(ours.checkpoint_state())
    texts = ours.clip.text.encode_strings([f"a photo of a {n}." for n in names])
    rows = torch.stack([texts[0], ours.classifier[2], texts[2]])
    with torch.no_grad():
        assert (other(x) - other.score(other.clip.image.encode(x), rows)).abs().max() < 1e-4
    calls = []
    ours.clip.text.encode_strings = lambda texts: calls.append(texts)
    ours(x)
    assert not calls, "classes with a row need no text"


def test_rows_whose_classes_nobody_named_are_refused():
    other = plain.learner(TwoSFS, names=["glaucoma", "drusen"])
    with pytest.raises(UserError, match=r"classifier is \(4, 24\), for 2 classes"):
        other.load_checkpoint_state(second_stage().checkpoint_state())


def test_before_stage_two_there_is_no_classifier_to_load():
    state = plain.learner(TwoSFS).checkpoint_state()
    other = plain.learner(TwoSFS, names=["glaucoma", "drusen"])
    other.load_checkpoint_state(state)
    assert "classifier" not in state and not other.second


def test_options_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="choose blocks or all"):
        plain.learner(TwoSFS, NORMS="some")
    with pytest.raises(ConfigError, match="are 0 to 3"):
        plain.learner(TwoSFS, LAYERS=(9,))
    with pytest.raises(ConfigError, match="ENCODER text, or use another backbone"):
        plain.learner(TwoSFS, "resnet")
    with pytest.raises(ConfigError, match=r"ALPHA 1\.5: a share"):
        build_trainer(config(tmp_path, "TwoSFS", **{"TRAINER.TWOSFS.ALPHA": 1.5}))


def test_a_run_takes_its_stages_and_serves_other_classes(tmp_path):
    """12 images, one step an epoch: 7 steps a shot are 14, 8 with the norms and 6 with the classifier, a cosine each;
    then base again, and new."""
    options = AUGMENTED | {"DATASET.SUBSAMPLE_CLASSES": "base", "TRAINER.TWOSFS.ITERATIONS_PER_SHOT": 7,
                           "DATALOADER.TRAIN_X.BATCH_SIZE": 12}  # fmt: skip
    trainer, state = run(config(tmp_path / "a", "TwoSFS", **options))
    assert trainer.max_epoch == 14 and trainer.stages == (8, 14) and state["classifier"].shape == (6, 128)
    rates = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule, seen = trainer.build_scheduler(rates), []
    for _ in range(14):
        seen.append(rates.param_groups[0]["lr"])
        rates.step()
        schedule.step()
    cosine = lambda n: [1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * i / n)) / 2 for i in range(n)]  # noqa: E731
    assert seen == pytest.approx(cosine(8) + cosine(6))
    results, x = {}, torch.ones(2, 3, 64, 64, device=trainer.device)
    for subset in ("base", "new"):
        cfg = config(tmp_path / subset, "TwoSFS", **options | {"DATASET.SUBSAMPLE_CLASSES": subset})
        other = build_trainer(cfg)
        other.load_model(str(tmp_path / "a"))
        for name, value in other.model.checkpoint_state().items():
            assert torch.equal(value, state[name])
        results[subset] = other.model.eval()(x)
    assert torch.equal(results["base"], trainer.model.eval()(x))
    assert results["new"].shape == (2, 6)


def test_a_run_killed_in_either_stage_resumes_bit_equal(tmp_path):
    options = AUGMENTED | {"TRAIN.CHECKPOINT_FREQ": 1, "OPTIM.MAX_EPOCH": 4, "TRAINER.TWOSFS.ALPHA": 0.5}
    _, state = run(config(tmp_path / "whole", "TwoSFS", **options))
    for at in ((1, 1), (2, 1)):
        again, resumed = killed(at, config(tmp_path / f"killed{at[0]}", "TwoSFS", **options))
        assert again.start_epoch == at[0]
        assert all(torch.equal(state[name], resumed[name]) for name in state)


def killed(at, cfg):
    """A run broken off at (epoch, batch), and begun again."""
    set_random_seed(cfg.SEED)
    first = build_trainer(cfg)
    step = first.forward_backward

    def die(batch):
        if (first.epoch, first.batch_idx) == at:
            raise InterruptedError
        return step(batch)

    first.forward_backward = die
    with pytest.raises(InterruptedError):
        first.train()
    return run(cfg)


def test_a_budget_of_steps_is_split_too(tmp_path):
    """24 images of 8 a step, 11 steps: the last epoch is cut, stage 2 ends with it."""
    trainer = build_trainer(config(tmp_path, "TwoSFS", **AUGMENTED, **{"OPTIM.BUDGET": (11, 24)}))
    seen, step = [], trainer.forward_backward
    trainer.forward_backward = lambda batch: (step(batch), seen.append(trainer.model.second))[0]
    trainer.train()
    assert trainer.stages == (6, 11) and seen == [False] * 6 + [True] * 5
