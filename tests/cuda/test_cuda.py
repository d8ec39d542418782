"""On a real GPU: every method in every precision, the same bits twice, the CPU's answers, and no step that waits.

Without CUDA these are skipped; `tests/trainers/test_on_a_device.py` has what can be said without one.
"""

import numpy as np
import pytest
import torch

import cilmp
from cilmp import trainers
from cilmp.benchmarks.cases import names
from cilmp.benchmarks.harness import HarnessStep
from cilmp.tests.inference.runs import finished_run
from cilmp.trainers import interventions
from cilmp.trainers.precision import AUTOCAST

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")

METHODS = sorted(trainers.methods())
TRAINED = [name for name in METHODS if trainers.methods()[name].trains]
CLOSE = {"amp": 0.03, "bf16": 0.15, "fp16": 0.05}  # probabilities, after steps in that precision


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """made(method, precision="fp32", again=0): a finished run, once a module."""
    known = {}

    def made(method, precision="fp32", again=0, device="cuda"):
        key = method, precision, again, device
        if key not in known:
            folder = tmp_path_factory.mktemp(f"{method}-{precision}-{again}")
            options = {f"TRAINER.{method.upper()}.PREC": precision, "OPTIM.LR": 1e-4, "USE_CUDA": device == "cuda"}
            known[key] = finished_run(method, folder, **options)
        return known[key]

    return made


@pytest.mark.parametrize("method", METHODS)
def test_the_same_run_twice_gives_the_same_bits(method, runs):
    assert np.array_equal(runs(method)[2], runs(method, again=1)[2])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_answers_alike_on_both_devices(method, runs):
    run, paths, wanted = runs(method)
    assert np.abs(cilmp.load(run, device="cuda").predict_proba(paths) - wanted).max() < 1e-5
    assert np.abs(cilmp.load(run, device="cpu").predict_proba(paths) - wanted).max() < 2e-3


@pytest.mark.parametrize("word", [w for w in AUTOCAST if w != "fp32"])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_trains_and_answers_close_to_float32(method, word, runs):
    if method == "FineTune" and word == "fp16":
        pytest.skip("fine-tuning refuses half weights")
    _, _, wanted = runs(method)
    _, _, found = runs(method, word)
    assert np.isfinite(found).all() and np.abs(found - wanted).max() < CLOSE[word]


@pytest.mark.parametrize("method", TRAINED)
def test_training_on_both_devices_ends_alike(method, runs):
    """One epoch, the same views; random numbers drawn on the device differ (dropout), so this is no bit."""
    assert np.abs(runs(method)[2] - runs(method, device="cpu")[2]).max() < 0.05


@pytest.mark.parametrize("word", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", TRAINED)
def test_no_step_waits_for_the_device(method, word):
    """CUDA raises where a step reads a number; `amp`'s scaler must look whether gradients are finite."""
    if method == "FineTune" and word == "fp16":
        pytest.skip("fine-tuning refuses half weights")
    step = HarnessStep(method, 4, 3, names, 8, 64, "cuda", precision=word)
    if not step.steps:
        pytest.skip("it has no steps")
    step.fast()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.fast()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_dropout_is_a_function_of_seed_and_row():
    """Forward and backward draw the same: gradients are those of the sums with this very mask."""
    torch.manual_seed(0)
    h = torch.randn(3, 5, 64, device="cuda")
    A, R = torch.randn(2, 4, 64, device="cuda"), torch.randn(2, 64, 4, device="cuda")
    w = torch.randn(2, 6, 3, 5, 4, device="cuda")

    def drawn():
        torch.manual_seed(1)
        a = A.clone().requires_grad_()
        out = interventions.coordinates_hidden_dropout(h, w, a, R, 0.1)
        out.square().sum().backward()
        return out.detach(), a.grad

    (first, grad), (second, again) = drawn(), drawn()
    assert torch.equal(first, second) and torch.equal(grad, again)
    step = 1e-3 * torch.randn_like(A)
    torch.manual_seed(1)
    up = interventions.coordinates_hidden_dropout(h, w, A + step, R, 0.1).square().sum()
    torch.manual_seed(1)
    down = interventions.coordinates_hidden_dropout(h, w, A - step, R, 0.1).square().sum()
    assert ((up - down) / 2 / (grad * step).sum() - 1).abs() < 0.02
