"""CLIP-LoRA: low-rank few-shot adaptation (Zanella and Ben Ayed, CVPRW 2024, 2405.18541).

    y = W x + b + (ALPHA / sqrt(r)) B A dropout(x)       q, k and v of every block each with an A (r, n) and B (m, r)

B starts at zero, so training starts at zero-shot. Through the peft library; attention's packed matrix is split
(backbones/blocks.py), so q, k and v have factors of their own.

    learned: 3 * 2 r (sum over blocks of the width). Loss: cross-entropy, class texts encoded in every step.
"""

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import ConfigError

from .adapted import AdaptedLearner, AdaptedTrainer

LETTERS = {"q": "q", "k": "k", "v": "v", "o": "out"}


class CLIPLoRALearner(AdaptedLearner):
    """Low-rank factors beside the attention matrices of both towers."""

    def adapt(self):
        from peft import LoraConfig, inject_adapter_in_model  # here: a second, whichever method runs

        node, clip, towers = self.node, self.clip, "|".join(self.towers())
        if not node.PARAMS or set(node.PARAMS) - set(LETTERS):
            raise ConfigError(f"TRAINER.CLIPLORA.PARAMS {node.PARAMS!r}: letters of q, k, v, o, e.g. qkv")
        matrices = "|".join(LETTERS[letter] for letter in node.PARAMS)
        layers = "|".join(map(str, node.LAYERS)) or r"\d+"
        lora = LoraConfig(
            r=node.RANK, lora_alpha=node.ALPHA, use_rslora=True, lora_dropout=node.DROPOUT, bias="none",
            target_modules=rf"({towers})\.blocks\.({layers})\.({matrices})",
        )  # fmt: skip
        inject_adapter_in_model(lora, clip)
        for p in clip.parameters():
            if p.requires_grad:
                p.data = p.data.float()  # whatever the backbone's precision
        self.dropouts = [m.lora_dropout for m in clip.modules() if hasattr(m, "lora_dropout")]

    def train(self, mode=True):
        for dropout in self.dropouts:  # all else of the backbone stays in eval mode
            dropout.train(mode)
        return super().train(mode)

    def named_trainables(self):
        short = lambda name: name.replace("lora_", "").replace(".default.weight", "")  # noqa: E731
        return [(short(name), p) for name, p in super().named_trainables()]


@TRAINER_REGISTRY.register()
class CLIPLoRA(AdaptedTrainer):
    """Low-rank factors on q, k and v of both towers."""

    learner = CLIPLoRALearner
    defaults = {
        "RANK": 2,
        "ALPHA": 1,
        "DROPOUT": 0.25,
        "ENCODER": "both",  # both, text, vision
        "PARAMS": "qkv",  # letters of q, k, v, o
        "LAYERS": (),  # block numbers; () = all
        "ITERATIONS_PER_SHOT": 0,  # steps = this x shots; 0: OPTIM.MAX_EPOCH
        "END_LR": 1e-6,
        "TEMPLATE": "a photo of a {}.",
        "PREC": "fp32",
    }
