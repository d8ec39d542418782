"""CUDA without a GPU: every method is built, computes its loss and evaluates on fake CUDA tensors.

They have a shape, a type and a device, no numbers. So two devices in one operation raise, and so does whatever reads a
number or chooses a shape by one: on a real device each such read waits for it. Backward needs a driver and is left out.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cilmp import trainers
from cilmp.benchmarks import cases
from cilmp.tests.backbones import small_models
from cilmp.tests.trainers import cilmp_cases, test_every_method
from cilmp.tests.trainers import plain_methods as plain
from cilmp.trainers.dropped_sums import DroppedSums
from cilmp.trainers.precision import in_towers

SMALL_IMAGE = {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32}
SMALL_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 12}
METHODS = sorted(trainers.methods())


class WaitsForTheDevice(Exception):
    """A copy from CUDA to the CPU in a step."""


READS = (DataDependentOutputException, DynamicOutputShapeException, WaitsForTheDevice)


class FakeCuda(FakeTensorMode):
    """What is on CUDA is fake, what is on the CPU stays real: names are tokenised, lengths are read.

    in_step: whether copies to the CPU raise too, as they wait for the device; a learner may be made of some.
    """

    in_step = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if (
            self.in_step
            and function is torch.ops.aten._to_copy.default
            and torch.device(device or "cuda").type == "cpu"
        ):
            raise WaitsForTheDevice(args[0].shape)
        made_there = device is not None and torch.device(device).type == "cuda"
        if made_there or any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))):
            return super().__torch_dispatch__(function, types, args, kwargs)
        return function(*args, **kwargs)


def replaced(module, change, recurse=True):
    """nn.Module._apply with parameters in place of the old ones: torch swaps them, which fake ones refuse."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, p in module._parameters.items():
        if p is not None and (now := change(p.detach())) is not p:
            module._parameters[name] = nn.Parameter(now, p.requires_grad)
    module._buffers.update({name: change(b) for name, b in module._buffers.items() if b is not None})
    return module


@pytest.fixture
def cuda(monkeypatch):
    """The mode at work, and small models that come on its device."""
    for family in small_models.FAMILIES:
        small_models._original(family, 0, None)  # kept for the session: made outside the mode
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())  # one on CUDA needs a driver
    monkeypatch.setattr(nn.Module, "_apply", replaced)
    context = plain.context

    def on_cuda(*args, **kwargs):
        found = context(*args, **kwargs)
        found.device = torch.device("cuda")
        return found

    monkeypatch.setattr(plain, "context", on_cuda)
    monkeypatch.setattr(plain, "small", lambda *args: small_models.small(*args).to("cuda"))
    with FakeCuda(allow_non_fake_inputs=True) as mode:
        yield mode


def test_two_devices_raise_and_so_do_reads(cuda):
    """What this file relies on."""
    x, weight = torch.ones(2, 3).to("cuda"), torch.ones(3, 3)
    assert torch.ones(3).sum().item() == 3  # real on the CPU
    for wrong in (lambda: x @ weight, lambda: torch.cat([x, weight]), lambda: x + weight[0]):
        with pytest.raises(RuntimeError, match="device"):
            wrong()
    cuda.in_step = True
    for read in (lambda: float(x.sum()), lambda: bool((x > 0).all()), lambda: x[x > 0], lambda: x.cpu().tolist()):
        with pytest.raises(READS):
            read()
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype=dtype):
            assert (x @ weight.to("cuda")).dtype == dtype


def on_device(ours, word):
    """As PromptTrainer.build_model: the learner follows its backbone, the towers get their precision."""
    ours.to("cuda")
    in_towers(ours.clip, word)
    return ours


def train_and_test(ours, family, cuda):
    """Loss and logits of a batch in training and in evaluation: on the device, float32, no number read."""
    x, y = (t.to("cuda") for t in plain.batch(family))
    cuda.in_step = True
    loss, *_, logits = ours.train().losses(x, y) if hasattr(ours, "losses") else ours.train().loss(x, y)
    with torch.no_grad():
        tested = ours.eval()(x)
    cuda.in_step = False
    for found in (loss, logits, tested):
        assert found.is_cuda and found.dtype == torch.float32
    assert tested.shape == (3, 4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_every_precision(method, cuda, tmp_path):
    ours = test_every_method.learner(method, "openai", tmp_path)
    for word in ("fp32", "amp", "bf16"):
        train_and_test(on_device(ours, word), "openai", cuda)
    half = test_every_method.learner(method, "openai", tmp_path, half=True)
    train_and_test(on_device(half, "fp16"), "openai", cuda)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "siglip", "resnet"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_family(method, family, cuda, tmp_path):
    if family == "resnet" and method in test_every_method.TOWERS:
        pytest.skip("refused: a ResNet has no tokens")
    train_and_test(on_device(test_every_method.learner(method, family, tmp_path), "fp32"), family, cuda)


def test_the_second_stage_of_2sfs(cuda, tmp_path):
    """Its classifier begins, is trained and tested there."""
    ours = test_every_method.learner("TwoSFS", "openai", tmp_path)
    for word in ("fp32", "amp", "bf16"):
        on_device(ours, word).start_second()
        train_and_test(ours, "openai", cuda)
    half = on_device(test_every_method.learner("TwoSFS", "openai", tmp_path, half=True), "fp16")
    half.start_second()
    train_and_test(half, "openai", cuda)


@pytest.mark.parametrize("lengths", [(8, 8, 8, 8), (8, 11, 9, 14)], ids=["equal", "ragged"])
@pytest.mark.parametrize("mode", ["hidden", "shared"])
def test_cilmp_with_equal_and_ragged_rows(lengths, mode, cuda):
    rows = cilmp_cases.rows(lengths, 40)
    ours = cilmp_cases.learner(plain.small("openai"), plain.NAMES, rows, DROPOUT_MODE=mode)
    for word in ("fp32", "amp", "bf16"):
        train_and_test(on_device(ours, word), "openai", cuda)
    half = cilmp_cases.learner(plain.small("openai").half(), plain.NAMES, rows, DROPOUT_MODE=mode)
    train_and_test(on_device(half, "fp16"), "openai", cuda)


class Launches(TorchDispatchMode):
    """Counts operations that compute: views and empty tensors launch nothing."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.namespace == "aten" and not (function.is_view or "empty" in function.name())
        return function(*args, **(kwargs or {}))


def test_dropout_of_cilmp_takes_few_launches(cuda):
    """A pass at the paper's size, B = 64 and C = 8, prefix or suffix: a block a level (192 in the CPU's blocks)."""
    h, A, R = (torch.empty(n, device="cuda") for n in [(8, 4, 4096), (12, 8, 4096), (12, 4096, 8)])
    cuda.in_step, kept = True, SimpleNamespace(save_for_backward=lambda *x: setattr(kept, "saved_tensors", x))
    with Launches() as forward:
        grads = DroppedSums.forward(kept, h, A, R, 64, 0.1, 0)
    with Launches() as backward:
        DroppedSums.backward(kept, *grads)
    assert forward.count <= 12 * 14 and backward.count <= 12 * 21, (forward.count, backward.count)


@pytest.fixture
def small_towers(monkeypatch):
    """Benchmarks on narrow towers; made once outside the mode, so that what they import is there."""
    small = {"vision_cfg": SMALL_IMAGE, "text_cfg": SMALL_TEXT}
    monkeypatch.setattr(cases, "CONFIG", cases.CONFIG | small)
    cases.towers.cache_clear()
    cases.towers("cpu")
    yield
    cases.towers.cache_clear()


@pytest.mark.parametrize("case", ["cilmp/step/train/b4c8", "cilmp/text/train/b4c8", "cocoop/step/eval/b4c8",
                                  "coop/text/train/c8"])  # fmt: skip
def test_both_forms_of_a_benchmark_are_on_one_device(case, small_towers, cuda):
    _, kind, sizes = cases.CASES[case]
    step = kind(device="cuda", **sizes)
    step.train = False  # no backward without a driver
    assert step.fast().device.type == step.plain().device.type == "cuda"


@pytest.mark.parametrize("method", ["SSText", "TipAdapter", "TransCLIPFS"])
def test_closed_forms_are_fitted_there(method, cuda, tmp_path):
    """The other fits read numbers by nature: scikit-learn, a search, a rate."""
    ours = on_device(test_every_method.learner(method, "openai", tmp_path), "fp32")
    features, labels = torch.randn(2, 4, ours.clip.embed_dim).to("cuda"), torch.arange(4).to("cuda")
    cuda.in_step = True
    ours.fit((features, labels), None)
