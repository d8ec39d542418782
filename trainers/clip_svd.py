"""CLIP-SVD: singular value few-shot adaptation (Koleilat et al., 2025, 2509.03740).

    W = U diag(S) V'   of q, k, v, o and both MLP matrices of every block;   y = U (S * (V' x)) + b, S is learned

Training starts at the singular values, which is zero-shot.

    learned: sum over those matrices of min(m, n), rounded down to a multiple of 4. Loss: cross-entropy.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import UserError

from .adapted import AdaptedLearner, AdaptedTrainer

MATRICES = ("q", "k", "v", "out", "fc", "proj")


def fingerprint(weight):
    """(weight . cos(0, 1, 2 ...)) / |weight|: moves with every entry, where sums of S hardly see small changes."""
    flat = weight.detach().float().flatten()
    wave = torch.arange(len(flat), device=flat.device, dtype=flat.dtype).cos()
    return (flat * wave).sum() / flat.norm()


class SVDLinear(nn.Module):
    """A Linear by its singular vectors (frozen) and values S (learned)."""

    def __init__(self, linear):
        super().__init__()
        U, S, Vt = torch.linalg.svd(linear.weight.detach().float(), full_matrices=False)
        rank = len(S) // 4 * 4
        self.out_features, self.in_features = linear.weight.shape
        self.register_buffer("U", U[:, :rank].to(linear.weight.dtype).contiguous())
        self.register_buffer("Vt", Vt[:rank].to(linear.weight.dtype).contiguous())
        self.S, self.bias = nn.Parameter(S[:rank].contiguous()), linear.bias

    @property
    def weight(self):
        """(m, n)."""
        return (self.U * self.S.to(self.U.dtype)) @ self.Vt

    def forward(self, x):
        z = F.linear(x, self.Vt)
        return F.linear(z * self.S.to(z.dtype), self.U, self.bias)


class CLIPSVDLearner(AdaptedLearner):
    """Both towers with their blocks' matrices decomposed."""

    def adapt(self):
        origin = []
        for tower in self.towers():
            for number, block in enumerate(getattr(self.clip, tower).blocks):
                if self.node.LAYERS and number not in self.node.LAYERS:
                    continue
                for name in MATRICES:
                    origin.append(fingerprint(getattr(block, name).weight))
                    setattr(block, name, SVDLinear(getattr(block, name)))
        self.register_buffer("origin", torch.stack(origin), persistent=False)  # which weights were decomposed

    def checkpoint_state(self):
        return super().checkpoint_state() | {"origin": self.origin.clone()}

    def load_checkpoint_state(self, state):
        origin = state.get("origin", torch.zeros(0)).to(self.origin.device)
        if origin.shape != self.origin.shape or (origin - self.origin).abs().max() > 1e-3:
            raise UserError(
                "the checkpoint's singular values belong to other backbone weights, or to other layers: use the "
                "run's own config.yaml and weights"
            )
        super().load_checkpoint_state({k: v for k, v in state.items() if k != "origin"})


@TRAINER_REGISTRY.register()
class CLIPSVD(AdaptedTrainer):
    """The singular values of both towers' matrices."""

    learner = CLIPSVDLearner
    defaults = {
        "ENCODER": "both",  # both, text, vision
        "LAYERS": (),  # block numbers; () = all
        "ITERATIONS_PER_SHOT": 0,  # steps = this x shots; 0: OPTIM.MAX_EPOCH
        "END_LR": 1e-6,
        "TEMPLATE": "a photo of a {}.",
        "TEXT_DROPOUT": False,  # True: the text tower's own (BERT's 0.1) acts in training, as the authors'
        "PREC": "fp32",
    }
