"""VPT: visual prompt tuning (Jia et al., ECCV 2022, 2203.12119), on CLIP.

    tokens  [CLS] patches  p_1..p_Mv ;  before layers 1..J-1 the prompts are replaced by that layer's own
    depth 1 is VPT-shallow. Text features are those of a template, fixed.

    learned: J M_v d_v. Loss: cross-entropy of s v_b . t_c.
"""

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .learner import Learner
from .templates import ensemble_features
from .visual import VisualPrompts


class VPTLearner(Learner):
    """Visual prompts beside fixed text features (C, d)."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.visual = VisualPrompts(self, node.N_CTX_VISION, node.PROMPT_DEPTH_VISION)
        self.register_buffer("text_features", ensemble_features(clip, self.names, [node.TEMPLATE]), persistent=False)

    def logits(self, images):
        return self.score(self.visual.encode(images), self.text_features)


@TRAINER_REGISTRY.register()
class VPT(PromptTrainer):
    """Learned tokens between the image's patches, in one layer (shallow) or many (deep)."""

    learner = VPTLearner
    defaults = {
        "N_CTX_VISION": 8,
        "PROMPT_DEPTH_VISION": 12,  # 1: VPT-shallow
        "TEMPLATE": "a photo of a {}.",
        "PREC": "fp32",
    }
