"""IVLP: independent vision-language prompting (Rasheed et al., CVPR 2023, 2212.03640; baseline of MaPLe).

Deep text prompts and deep visual prompts that know nothing of each other (`text_prompts.py`, `visual.py`).

    learned: J_t M d_t + J_v M_v d_v. Loss: cross-entropy of s v_b . t_c.
"""

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .learner import Learner
from .text_prompts import TextPrompts
from .visual import VisualPrompts


class IVLPLearner(Learner):
    """Prompts of both towers; PROMPT_DEPTH_VISION 0: of the text tower only."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.text = TextPrompts(
            clip, self.names, node.N_CTX_TEXT, node.PROMPT_DEPTH_TEXT, node.CTX_INIT, labels=self.classnames
        )
        self.visual = VisualPrompts(self, node.N_CTX_VISION, node.PROMPT_DEPTH_VISION, "N_CTX_VISION 0")
        self.image_key = self.visual.image_key

    def logits(self, images):
        return self.score(self.visual.encode(images), self.once(self.text.encode))


@TRAINER_REGISTRY.register()
class IVLP(PromptTrainer):
    """Deep prompts in the text tower and in the image tower, independent of each other."""

    learner = IVLPLearner
    model_name = "VLPromptLearner"
    defaults = {
        "N_CTX_TEXT": 2,
        "N_CTX_VISION": 2,
        "CTX_INIT": "a photo of a",
        "PROMPT_DEPTH_TEXT": 9,
        "PROMPT_DEPTH_VISION": 9,  # 0: language prompting only
        "PREC": "fp32",
    }
