"""BiomedCoOp: learning to prompt for biomedical vision-language models (Koleilat et al., CVPR 2025, 2411.15232).

    F (C, N, d)   unit features of N sentences a class, by a language model
    r_n = mean_b max_c s v_b . F_{c,n};   sentence n is kept if |r_n - mean r| <= TAU std r      (no gradient)
    S_c = unit(mean over kept F_{c,n}),   W_c = unit(mean over all F_{c,n})
    loss = cross-entropy + SCCM_LAMBDA mean (t - W)^2 + KDSP_LAMBDA KL(softmax(s v S) || softmax(s v t)) / C

(The paper standardises (r - median) / MAD once more, which cancels it: the mask is the plain z-score's.)

    learned: ctx (M, d_t), as CoOp's.
"""

import torch
import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .coop import CoOpLearner
from .learner import divergence, unit
from .sentences import sentence_features


class BiomedCoOpLearner(CoOpLearner):
    """CoOp near the mean of the sentences, distilled from those that fit the batch."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.register_buffer("sentences", sentence_features(node, clip, context), persistent=False)

    @torch.no_grad()
    def kept(self, v):
        """(N,) bool: sentences that are no outliers for unit image features v (B, d); all, if all are."""
        score = self.clip.scale() * torch.einsum("bd,cnd->bcn", v, self.sentences)
        r = score.amax(1).mean(0)  # (N,)
        far = (r - r.mean()).abs() > self.node.TAU * r.std()
        return ~far | far.all()

    def loss(self, images, labels):
        v, t = unit(self.image_features(images)), unit(self.text_features())
        logits = self.score(v, t)
        centre = unit(self.sentences.mean(1))
        chosen = unit(torch.einsum("cnd,n->cd", self.sentences, self.kept(v).float()))  # by index: waits for the device
        loss = F.cross_entropy(logits, labels) + self.node.SCCM_LAMBDA * F.mse_loss(t, centre)
        return loss + self.node.KDSP_LAMBDA * divergence(self.score(v, chosen), logits), logits


@TRAINER_REGISTRY.register()
class BiomedCoOp(PromptTrainer):
    """CoOp guided by a language model's sentences, those that are outliers for the batch left out."""

    learner = BiomedCoOpLearner
    needs_llm = True
    llm_form = "sentences"
    defaults = {
        "N_CTX": 4,
        "CTX_INIT": "a photo of a",
        "CSC": False,
        "CLASS_TOKEN_POSITION": "end",
        "PREC": "fp32",
        "N_PROMPTS": 50,  # sentences a class
        "SENTENCES": "",  # a JSON {class: [sentences]}; "": those by MODEL.LLM
        "SCCM_LAMBDA": 1.0,
        "KDSP_LAMBDA": 1.0,
        "TAU": 1.5,
        "TEXT_DROPOUT": False,  # True: the text tower's own (BERT's 0.1) acts in training, as the authors'
    }
