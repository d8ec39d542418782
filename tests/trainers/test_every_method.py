"""Promises that every registered method keeps: one split, one class order, no early look at test, every family."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cilmp import trainers
from cilmp.experiments.reads import Reads
from cilmp.experiments.run import run as run_spec
from cilmp.protocols import RunSpec
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.precision import in_towers
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import ConfigError
from dassl.utils.paths import REPO

METHODS = sorted(trainers.methods())
TOWERS = {"VPT", "IVLP", "MaPLe", "PromptSRC", "CILMP", "BiomedDPT", "CLIPLoRA", "CLIPSVD", "MMRL",
          "TwoSFS"}  # need a ViT as configured


def test_all_that_the_readme_names_are_there():
    named = {"ZeroshotCLIP", "ZeroshotCLIP2", "CoOp", "CoCoOp", "KgCoOp", "ProGrad", "VPT", "IVLP", "MaPLe",
             "PromptSRC", "BiomedCoOp", "CLIPAdapter", "TipAdapter", "TipAdapterF", "LinearProbe", "LP2", "CLIPSVD",
             "CLIPLoRA", "SSText", "BiomedDPT", "FineTune", "CILMP", "MMRL", "TwoSFS", "TaskRes", "CLAP", "CrossModal",
             "TransCLIP", "TransCLIPFS"}  # fmt: skip
    assert named == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_files(method):
    configs = REPO / "configs" / "trainers" / method
    assert (configs / "vit_b16.yaml").read_text().startswith("# ")
    page = (REPO / "docs" / "methods" / f"{method.lower()}.md").read_text()
    for key in TRAINER_REGISTRY.get(method).defaults:
        assert f"`{key}`" in page, key
    assert TRAINER_REGISTRY.get(method).__doc__


class Watched(torch.Tensor):
    """Features of val that remember who computes with them."""

    by = set()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "to":  # FitTrainer hands val to every fit()
            return found.as_subclass(cls)
        cls.by.add(cls.method)
        return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{method: (results.json, test files in order, test files read before the final evaluation)} of one-shot runs;
    Watched.by then holds the methods that computed something of val's images in training."""
    import os

    from dassl.data import data_manager
    from dassl.engine.trainer import SimpleTrainer

    folder, found, state = tmp_path_factory.mktemp("all"), {}, {"early": [], "testing": False, "features": False}
    patch = pytest.MonkeyPatch()
    if not os.environ.get("CILMP_CACHE"):
        patch.setenv("CILMP_CACHE", str(folder / "cache"))
    read, test, features = data_manager.read_image, SimpleTrainer.test, trainers.PromptTrainer.features

    def watched_read(path):
        if not state["testing"] and "/test_" in str(path):
            state["early"].append(path)
        if "/val_" in str(path) and not (state["testing"] or state["features"]):
            Watched.by.add(Watched.method)
        return read(path)

    def watched_features(self, loader, *args, **kwargs):
        state["features"] = True
        try:
            found = features(self, loader, *args, **kwargs)
        finally:
            state["features"] = False
        return found.as_subclass(Watched) if loader == "val_loader" else found

    def watched_test(self, split=None):
        state["testing"] = (split or self.cfg.TEST.SPLIT) == "test"
        try:
            return test(self, split)
        finally:
            state["testing"] = False

    patch.setattr(data_manager, "read_image", watched_read)
    patch.setattr(SimpleTrainer, "test", watched_test)
    patch.setattr(trainers.PromptTrainer, "features", watched_features)
    for method in METHODS:
        state["early"], Watched.method = [], method
        options = {"DATASET.NUM_SHOTS": 2, "OPTIM.MAX_EPOCH": 1, "TEST.NO_TEST": False, "RUN.PROTOCOL": "few_shot",
                   "INPUT.TRANSFORMS": ["random_flip", "normalize"]}  # fmt: skip
        options |= {f"TRAINER.{method.upper()}.{k}": v for k, v in short(method).items()}
        cfg = config(folder / method, method, **options)
        spec = RunSpec(cfg, "few_shot", "train_all", "demo").resolved(Reads())
        run_spec(spec, folder / method, quiet=True)
        content = json.loads((folder / method / "results.json").read_text())
        with np.load(folder / method / "predictions.npz") as arrays:
            found[method] = content, arrays["paths"].tolist(), list(state["early"])
    patch.undo()
    return found


def test_one_split_one_class_order_one_test_set(results):
    first, paths, _ = results["ZeroshotCLIP"]
    assert set(results) == set(METHODS) and any("test_" in p for p in paths)
    for method, (content, seen, _) in results.items():
        for key in ("split_sha256", "train_sha256", "test_sha256", "classes", "n"):
            assert content[key] == first[key], (method, key)
        assert seen == paths, method


def test_nobody_looks_at_test_before_the_end(results):
    assert {method: early for method, (_, _, early) in results.items() if early} == {}


def test_who_chooses_on_val_says_so(results):
    """Its val images say nothing of how sure it may be: predictions_whole_val.npz marks them."""
    assert Watched.by == {method for method, kind in trainers.methods().items() if kind.fits_on_val}


def test_what_is_learned_is_counted(results):
    counts = {method: content["cost"]["trainable_parameters"] for method, (content, _, _) in results.items()}
    assert {m for m, n in counts.items() if n == 0} == {"ZeroshotCLIP", "ZeroshotCLIP2", "TipAdapter", "TransCLIP",
                                                   "TransCLIPFS"}  # fmt: skip


def learner(method, family, folder, half=False, **more):
    """A method's learner on a small model of the family, with make-believe rows and sentences."""
    trainer = TRAINER_REGISTRY.get(method)
    rows = folder / "rows.safetensors"
    save_file({n: torch.randn(8, 40, generator=torch.Generator().manual_seed(len(n))) for n in plain.NAMES}, str(rows))
    sentences = folder / "sentences.json"
    sentences.write_text(json.dumps({n: [f"{n} is seen", f"a pale {n}", f"{n} with a dark rim"] for n in plain.NAMES}))
    items = [Datum("x.png", c, 0, n) for c, n in enumerate(more.get("names", plain.NAMES))]
    context = plain.context(llm=str(rows), classnames=plain.NAMES, train_x=items, val=items)
    options = {"SENTENCES": str(sentences), "N_PROMPTS": 3} if "SENTENCES" in trainer.defaults else {}
    return plain.learner(trainer, family, context=context, half=half, **options, **short(method), **more)


def short(method):
    """Options that end a method's long search soon."""
    return {"ITERATIONS": 20} if "ITERATIONS" in TRAINER_REGISTRY.get(method).defaults else {}


@pytest.mark.parametrize("family", ["openai", "bert", "siglip", "resnet"])
@pytest.mark.parametrize("method", METHODS)
def test_every_family(method, family, tmp_path):
    """A finite loss with a gradient for everything learned; what a ResNet cannot have is one clear line."""
    if family == "resnet" and method in TOWERS:
        with pytest.raises(ConfigError, match="ResNet"):
            learner(method, family, tmp_path)
        return
    ours, (x, y) = learner(method, family, tmp_path), plain.batch(family)
    if hasattr(ours, "fit"):
        d = ours.clip.embed_dim
        features = torch.nn.functional.normalize(torch.randn(1, 4, d), dim=-1)
        ours.fit((features, torch.arange(4)), (features[0], torch.arange(4)))
    loss = ours.losses(x, y)[0] if hasattr(ours, "losses") else ours.loss(x, y)[0]
    assert torch.isfinite(loss)
    learned = [p for _, p in ours.named_trainables()]
    if learned:
        gradients = torch.autograd.grad(loss, learned, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    assert ours(x).shape == (3, 4)


@pytest.mark.parametrize("method", [m for m in METHODS if hasattr(TRAINER_REGISTRY.get(m), "forward_backward")])
def test_mixed_precision(method, tmp_path):
    """bf16 on CPU: a finite loss near fp32's, finite gradients in fp32."""
    ours, (x, y) = learner(method, "openai", tmp_path), plain.batch("openai")
    learned = [p for _, p in ours.named_trainables()]
    if not learned or hasattr(ours, "fit"):
        pytest.skip("no training steps")
    ours.eval()  # no dropout
    loss = lambda: ours.losses(x, y)[0] if hasattr(ours, "losses") else ours.loss(x, y)[0]  # noqa: E731
    full = loss()
    in_towers(ours.clip, "bf16")
    mixed = loss()
    assert abs(full - mixed) < 0.1 * abs(full) + 0.05
    for g, p in zip(torch.autograd.grad(mixed, learned, allow_unused=True), learned):
        assert p.dtype == torch.float32 and (g is None or (g.dtype == torch.float32 and torch.isfinite(g).all()))


SPECIFIC = {"CSC": True, "CTX_INIT": ""}


def choices(method):
    """{config name: options} that may change whether what is learned belongs to its classes."""
    keys = TRAINER_REGISTRY.get(method).defaults
    found = {"default": {}} | {f"CSC with {init!r}": SPECIFIC | {"CTX_INIT": init} for init in ("", "a photo of a")}
    return {name: {k: v for k, v in options.items() if k in keys} for name, options in found.items()} | (
        {mode: {"MODE": mode} for mode in ("ft_clip", "ft_head", "last_layer")} if "MODE" in keys else {}
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_plan_knows_what_is_bound_to_its_classes(method, tmp_path):
    """A method says before a run what its tensors say afterwards, for every setting that changes it: one that has
    another shape for other classes is bound to them."""
    trainer = TRAINER_REGISTRY.get(method)
    for name, options in choices(method).items():
        cfg = config(tmp_path, method, **{f"TRAINER.{method.upper()}.{k}": v for k, v in options.items()})
        ours, fewer = (learner(method, "openai", tmp_path, names=plain.NAMES[:n], **options) for n in (4, 2))
        shapes = {k: v.shape for k, v in fewer.checkpoint_tensors().items()}
        changed = {k for k, v in ours.checkpoint_tensors().items() if v.shape != shapes[k]}
        said = ours.bound_to_classes(ours.node)
        assert changed == set(said), name
        assert trainer.bound_to_classes(cfg) in (said.values() or [""]), name
    if "CSC" in trainer.defaults:
        cfg = config(tmp_path, method, **{f"TRAINER.{method.upper()}.{k}": v for k, v in SPECIFIC.items()})
        assert "CSC" in trainer.bound_to_classes(cfg)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_backbone(method, tmp_path):
    """PREC fp16: the towers in float16, what is learned in float32, logits near those of a float32 backbone."""
    ours, whole = (learner(method, "openai", tmp_path, half=h).eval() for h in (True, False))
    x, y = plain.batch("openai")
    assert all(p.dtype == torch.float32 for n, p in ours.named_trainables() if method != "FineTune")
    with torch.no_grad():
        assert (ours(x).float() - whole(x)).abs().max() < 0.5
    learned = [p for _, p in ours.named_trainables()]
    if learned and not hasattr(ours, "fit"):
        loss = ours.losses(x, y)[0] if hasattr(ours, "losses") else ours.loss(x, y)[0]
        gradients = torch.autograd.grad(loss, learned, allow_unused=True)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize("method", ["ProGrad", "PromptSRC", "TipAdapterF", "CLIPLoRA", "FineTune", "MMRL", "TwoSFS"])
def test_a_broken_run_resumes_to_the_same_bits(method, tmp_path):
    """Stopped after two of four epochs: per-step schedules, averages, dropout and caches go on where they were."""
    options = {"OPTIM.MAX_EPOCH": 4, "TRAIN.CHECKPOINT_FREQ": 1, "INPUT.TRANSFORMS": ["random_flip", "normalize"],
               "OPTIM.LR": 0.001}  # fmt: skip
    _, whole = run(config(tmp_path / "whole", method, **options))

    class Stop(Exception):
        pass

    kind = TRAINER_REGISTRY.get(method)
    inner = kind.before_epoch

    def stop(self):
        if self.epoch == 2:
            raise Stop
        inner(self)

    kind.before_epoch = stop
    try:
        with pytest.raises(Stop):
            run(config(tmp_path / "broken", method, **options))
    finally:
        kind.before_epoch = inner
    trainer, resumed = run(config(tmp_path / "broken", method, **options))
    assert trainer.start_epoch == 2
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("method", [m for m in METHODS if "TEMPLATE" in TRAINER_REGISTRY.get(m).defaults])
def test_a_template_without_a_place_for_the_name_is_refused(method, tmp_path):
    with pytest.raises(ConfigError, match=r"a photo of skin.*\{\}") as refused:
        ours = learner(method, "openai", tmp_path, TEMPLATE="a photo of skin.")
        ours(plain.batch("openai")[0])
    assert "\n" not in str(refused.value)
