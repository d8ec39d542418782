"""The score is float32 whatever the towers run in, for every method; what a precision word runs, and says it runs."""

import copy
import json
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cilmp import trainers
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_every_method import learner
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.precision import in_towers, reproducible, runs_as
from dassl.engine import build_trainer
from dassl.engine.base import NonFiniteLoss
from dassl.utils import set_random_seed
from dassl.utils.errors import ConfigError

METHODS = sorted(trainers.methods())
IMAGES, CLASSES, SCALE = 300, len(plain.NAMES), 100.0
HALVES = {"bf16": torch.bfloat16, "amp": torch.float16, "fp16": torch.float16}
PER_IMAGE = {"CILMP", "CoCoOp"}


def unit(count, d, seed):
    return F.normalize(torch.randn(count, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


def like_clips(d, per_image=False):
    """Image features (B, d) and text features (C, d) or (B, C, d): logits near 27, 1.3 apart over the classes.

    Their numbers are exact in bfloat16 and in float16, so that every mode starts from the same ones.
    """
    common = unit(1, d, 0)
    v = F.normalize(0.3 * common + 0.95 * unit(IMAGES, d, 1), dim=-1)
    own = torch.stack([unit(CLASSES, d, 2 + b) for b in range(IMAGES)]) if per_image else unit(CLASSES, d, 2)
    t = F.normalize(0.9 * common + 0.08 * own, dim=-1)
    exact = lambda x: x.bfloat16().half().float()  # noqa: E731
    return exact(v), exact(t)


def reference(v, t):
    """(B, C) in float64."""
    v, t = F.normalize(v.double(), dim=-1), F.normalize(t.double(), dim=-1)
    return SCALE * (v @ t.T if t.dim() == 2 else torch.einsum("bd,bcd->bc", v, t))


def ties(logits):
    """Images whose two best classes are equal."""
    first, second = logits.topk(2).values.unbind(-1)
    return int((first == second).sum())


@pytest.mark.parametrize("per_image", [False, True])
def test_the_fixed_features_are_like_clips_and_show_what_half_precision_does(per_image):
    """Logits near 27 with a deviation of 1.3 over classes: computed in bfloat16, decisions change and classes tie."""
    v, t = like_clips(24, per_image)
    exact = reference(v, t)
    assert 20 < exact.mean() < 35 and 1.0 < exact.std(-1).mean() < 1.6 and ties(exact) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, t = F.normalize(v, dim=-1), F.normalize(t, dim=-1)
        coarse = SCALE * (v @ t.T if t.dim() == 2 else torch.einsum("bd,bcd->bc", v, t))
    changed = int((coarse.float().argmax(-1) != exact.argmax(-1)).sum())
    assert changed > 5 and ties(coarse.float()) > 5


def fixed(clip, v, t, dtype=torch.float32):
    """Encoders that give these features in the dtype of a half-precision tower, whatever they are asked."""
    more = unit(200, t.shape[-1], 99).bfloat16().half().float()  # of the sentences beyond the classes' own

    def texts(prompts, chunk=None):
        if prompts.grid[0] > 1:
            return t.to(dtype)
        table = t if t.dim() == 2 else t[0]
        return torch.cat([table, more])[: prompts.classes].to(dtype)

    clip.text.encode = texts
    ends = unit(IMAGES, clip.vision_width or 1, 98).bfloat16().half().float()[:, None]  # of late prompts
    clip.image.encode = lambda images, *a, **k: v[: len(images)].to(dtype)
    clip.image.encode_late = lambda images, *a, **k: (v[: len(images)].to(dtype), ends[: len(images)].to(dtype).float())
    clip.logit_scale.data.fill_(SCALE).log_()
    return clip


@pytest.fixture
def with_fixed_features(tmp_path, monkeypatch):
    """make(method) -> (its learner in evaluation, fitted where it is fitted, images, v, t)."""

    def make(method):
        clip = plain.small("openai")
        v, t = like_clips(clip.embed_dim, method in PER_IMAGE)
        monkeypatch.setattr(plain, "small", lambda family: fixed(clip, v, t))
        ours = learner(method, "openai", tmp_path)
        if hasattr(ours, "fit"):
            ours.fit((v[None, :CLASSES], torch.arange(CLASSES)), None)
        return ours.eval(), torch.zeros(IMAGES, 3, 32, 32), v, t

    return make


@pytest.mark.parametrize("outside", [False, True], ids=["", "within autocast"])
@pytest.mark.parametrize("word", HALVES)
@pytest.mark.parametrize("method", METHODS)
def test_the_score_changes_no_decision_and_ties_no_classes(method, word, outside, with_fixed_features):
    """From the same features every precision decides alike; a caller's autocast changes nothing either."""
    ours, images, v, t = with_fixed_features(method)
    with torch.no_grad():
        full = ours(images)
        in_towers(fixed(ours.clip, v, t, HALVES[word]), word)
        with torch.autocast("cpu", dtype=HALVES[word]) if outside else nullcontext():
            found = ours.train().eval()(images)
    assert torch.equal(found.argmax(-1), full.argmax(-1)) and ties(full) == ties(found) == 0
    assert full.dtype == found.dtype == torch.float32 and (found - full).abs().max() < 1e-4
    if method in ("CILMP", "CoCoOp", "CoOp", "IVLP", "ZeroshotCLIP", "KgCoOp", "CLIPLoRA"):  # plain cosines
        exact = reference(v, t)
        assert torch.equal(full.argmax(-1), exact.argmax(-1)) and (full - exact).abs().max() < 1e-4


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("word", HALVES)
def test_score_itself_is_float32_within_anybodys_autocast(word, per_image, tmp_path):
    ours = learner("CoOp", "openai", tmp_path)
    ours.clip.logit_scale.data.fill_(SCALE).log_()
    v, t = like_clips(24, per_image)
    with torch.autocast("cpu", dtype=HALVES[word]):
        found = ours.score(v.to(HALVES[word]), t.to(HALVES[word]))
    assert found.dtype == torch.float32 and (found - reference(v, t)).abs().max() < 1e-4


class HalfOutsideTowers(TorchDispatchMode):
    """Notes every operation that makes half-precision numbers while no tower is at work."""

    def __init__(self, clip):
        super().__init__()
        self.found, self.inside, self.made = [], 0, 0
        for tower in (clip.text, clip.image):
            tower.encode = self._watched(tower.encode)
        clip.image.encode_late = self._watched(clip.image.encode_late)

    def _watched(self, encode):
        def run_inside(*args, **kwargs):
            self.inside += 1
            try:
                return encode(*args, **kwargs)
            finally:
                self.inside -= 1

        return run_inside

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        half = torch.is_tensor(out) and out.dtype in (torch.bfloat16, torch.float16)
        self.made += half
        if half and not self.inside:
            self.found.append(str(function))
        return out


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_the_towers_computes_in_half_precision(method, tmp_path):
    """Loss and logits under bf16: each operation between towers and loss gives float32, and so do they."""
    ours, (x, y) = learner(method, "openai", tmp_path), plain.batch("openai")
    if hasattr(ours, "fit"):
        ours.fit((torch.randn(1, 4, ours.clip.embed_dim), torch.arange(4)), None)
    in_towers(ours.clip, "bf16")
    with HalfOutsideTowers(ours.clip) as watch:
        loss, *_, logits = ours.losses(x, y) if hasattr(ours, "losses") else ours.loss(x, y)
        with torch.no_grad():
            tested = ours.eval()(x)
    assert watch.made and not watch.found
    assert loss.dtype == logits.dtype == tested.dtype == torch.float32


@pytest.mark.parametrize("method", ["CoOp", "ProGrad", "CILMP", "TipAdapter"])
def test_a_trainers_steps_and_tests_are_out_of_autocast(method, tmp_path, monkeypatch):
    """Each kind of step (a method's own, a fit's) and the evaluation, through the trainer."""
    trainer = build_trainer(config(tmp_path / "a", method, **{f"TRAINER.{method.upper()}.PREC": "bf16"}))
    assert trainer.precision == "bf16" and trainer.scaler is None
    batch, seen = next(iter(trainer.dm.train_loader_x)), []

    def watch(owner, name):
        inner = getattr(owner, name)

        def call(*args, **kwargs):
            seen.append((name, torch.is_autocast_enabled(trainer.device.type)))
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    watch(trainer.model, "logits")
    if hasattr(trainer.model, "fit"):
        watch(trainer.model, "fit")
        trainer.run_epoch()
    else:
        watch(F, "cross_entropy")
        trainer.forward_backward(batch)
    logits = trainer.model_inference(batch["img"].to(trainer.device))
    assert logits.dtype == torch.float32 and len(seen) >= 2 and not any(enabled for _, enabled in seen)
    assert all(p.dtype == torch.float32 for _, p in trainer.model.named_trainables())


def test_what_each_word_runs():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [runs_as(word, cuda) for word in ("fp32", "amp", "bf16", "fp16")] == ["fp32", "amp", "bf16", "fp16"]
    assert [runs_as(word, cpu) for word in ("fp32", "amp", "bf16", "fp16")] == ["fp32", "fp32", "bf16", "fp32"]


@pytest.mark.parametrize("word", ["amp", "fp16"])
def test_without_cuda_the_run_is_float32_and_says_so(word, tmp_path, capsys):
    options = {"USE_CUDA": False, "TEST.NO_TEST": False, "OPTIM.MAX_EPOCH": 1}
    _, state = run(config(tmp_path / "a", "CoOp", **options))
    assert "float32" not in capsys.readouterr().out
    _, same = run(config(tmp_path / "b", "CoOp", **options, **{"TRAINER.COOP.PREC": word}))
    said = [line for line in capsys.readouterr().out.splitlines() if "float32" in line]
    assert len(said) == 1 and word in said[0] and "bf16" in said[0]
    assert torch.equal(state["ctx"], same["ctx"])
    assert json.loads((tmp_path / "b" / "results.json").read_text())["precision"] == "fp32"


@pytest.mark.parametrize("method", ["CoOp", "FineTune", "ProGrad", "TwoSFS"])
def test_a_step_that_overflows_is_made_again(method, tmp_path):
    """The scaler leaves it out and halves its scale: of a run of a few steps most were lost, and nobody told.

    Without CUDA: a scale that overflows float32. It is a power of two, so it leaves no trace in the bits.
    """
    states, trainers = [], []
    for name in ("plain", "scaled"):
        set_random_seed(1)
        trainer = build_trainer(config(tmp_path / name, method))
        if name == "scaled":
            trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        trainer.train()
        trainers.append(trainer)
        states.append(trainer.model.checkpoint_state())
    assert trainers[0].steps == trainers[1].steps == 9 and trainers[1].scaler.get_scale() < 2.0**127
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_gradients_that_are_never_finite_end_the_run(tmp_path):
    trainer = build_trainer(config(tmp_path))
    trainer.scaler = torch.amp.GradScaler("cpu")
    with torch.no_grad():
        trainer.model.ctx.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, batch 1.*bf16 or fp32"):
        trainer.train()


def test_no_convolution_is_rounded_to_tf32_forward_or_backward(tmp_path):
    seen, switch = [], torch.backends.cudnn
    trainer = build_trainer(config(tmp_path, "FineTune", **{"OPTIM.MAX_EPOCH": 1}))
    weight = trainer.clip.image.stem.patches.conv.weight
    weight.register_hook(lambda grad: seen.append(switch.allow_tf32))
    trainer.clip.image.blocks[0].fc.register_forward_hook(lambda *_: seen.append(switch.allow_tf32))
    assert switch.allow_tf32
    trainer.train()
    with torch.no_grad():
        trainer.model(torch.zeros(1, 3, *trainer.cfg.INPUT.SIZE))
    assert len(seen) > 6 and not any(seen) and switch.allow_tf32


def test_what_has_no_reproducible_form_is_one_line_and_the_switch_goes_back():
    """What PyTorch says of such an operation on CUDA; a CPU only sees the switch."""
    words = "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set 'torch.use_...'"
    device = torch.device("cuda")
    with pytest.raises(ConfigError, match=r"^grid_sampler.*TRAIN\.DETERMINISTIC False"), reproducible(device):
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError(words)
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="out of paper"), reproducible(device):
        raise RuntimeError("out of paper")
    for device, wanted in (("cuda", False), ("cpu", True)):
        with reproducible(torch.device(device), wanted):
            assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("mode", ["hidden", "shared"])
def test_results_name_precision_and_dropout_mode(mode, tmp_path):
    options = {"TRAINER.CILMP.PREC": "bf16", "TRAINER.CILMP.DROPOUT_MODE": mode}
    trainer = build_trainer(config(tmp_path / "a", "CILMP", **options))
    facts = trainer.result_facts()
    assert (facts["precision"], facts["dropout_mode"]) == ("bf16", mode)


def test_features_kept_on_disk_are_of_the_precision_that_ran(tmp_path):
    """amp without CUDA reads what fp32 wrote; bf16 writes its own."""
    calls = []
    run(config(tmp_path / "a", "CoOp", USE_CUDA=False))
    run(config(tmp_path / "b", "CoOp", USE_CUDA=False, **{"TRAINER.COOP.PREC": "amp"}), calls)
    assert calls == []
    run(config(tmp_path / "c", "CoOp", USE_CUDA=False, **{"TRAINER.COOP.PREC": "bf16"}), calls)
    assert sum(calls) == 24


def test_a_copy_encodes_by_its_own_weights():
    """The precision of a tower is its own: what a copied backbone encodes depends on the copy alone."""
    clip = in_towers(plain.small("openai"), "bf16")
    other = copy.deepcopy(clip)
    with torch.no_grad():
        other.image.stem.patches.conv.weight.zero_()
    x, _ = plain.batch("openai")
    assert not torch.equal(other.image.encode(x), clip.image.encode(x))
    assert torch.equal(in_towers(other, "fp32").image.encode(x)[0], other.image.encode(x)[1])
    assert clip.image.autocast == torch.bfloat16 and other.image.autocast is None


@pytest.mark.parametrize("method", ["CLIPLoRA", "TipAdapterF"])
def test_a_rate_of_zero_stays_zero(method, tmp_path):
    trainer = build_trainer(config(tmp_path / "a", method, **{"OPTIM.LR": 0.0}))
    assert trainer.optim.param_groups[0]["lr"] == 0
