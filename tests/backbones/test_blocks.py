"""What a block does row by row."""

import pytest
import torch

from cilmp.backbones.blocks import QuickGELU


def test_quick_gelu_and_its_slope():
    act, x = QuickGELU(), torch.linspace(-9, 9, 181, dtype=torch.float64).reshape(181, 1).requires_grad_()
    assert torch.allclose(act(x), x * torch.sigmoid(1.702 * x), rtol=0, atol=1e-14)
    with torch.no_grad():
        assert torch.equal(act(x), act(x.detach().clone()))
    assert torch.autograd.gradcheck(act, x)
    with pytest.raises(RuntimeError, match="does not require grad"):  # no second derivative rather than a wrong one
        (slope,) = torch.autograd.grad(act(x).sum(), x, create_graph=True)
        slope.sum().backward()


def test_backward_of_quick_gelu_keeps_one_tensor():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        QuickGELU()(torch.randn(5, 7, requires_grad=True) * 2)
    assert [t.shape for t in kept if t.numel() > 1] == [(5, 7)]
