"""Biomed-DPT: dual modality prompt tuning (Peng et al., 2505.05189), after the copy in tongdiedie/BiomedAP.

    prompt of class c:  [SOS] v_1..v_M <rest of a clinical template around the name> [EOS]
    image: zeros over the first N_CTX_VISION patches, at the input and again before every layer (not learned)
    loss = cross-entropy + L1_LAMBDA mean|t - w| + KL_LAMBDA KL(softmax(s v w) || softmax(s v t)) / C
    w_c = unit(mean of unit features of N sentences a class), by a language model

    learned: ctx (M, d_t), initialised with the template's first words.
"""

import torch
import torch.nn.functional as F
from torch import nn

from cilmp.backbones.prompt import shared
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import ConfigError

from .base import PromptTrainer
from .learner import Learner, divergence, init_context, unit
from .sentences import sentence_features


class BiomedDPTLearner(Learner):
    """Learned context of a clinical template, an image tower that does not see its first patches."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        if "{}" not in node.TEMPLATE:
            raise ConfigError(f"TRAINER.BIOMEDDPT.TEMPLATE {node.TEMPLATE!r} needs {{}} where the class name stands")
        if node.N_CTX_VISION:
            self.needs_blocks("N_CTX_VISION 0")
        before, after = node.TEMPLATE.split("{}", 1)
        n_ctx = len(clip.text.embed_words(before)) if before.strip() else node.N_CTX
        ctx, _ = init_context(clip.text, before, n_ctx)
        self.ctx = nn.Parameter(ctx)
        self.frame = clip.text.frame([f"{n}{after}" for n in self.names], [n_ctx], labels=self.classnames)
        self.image_key = f"zeros over {node.N_CTX_VISION} patches{' behind the norm' * node.BEHIND_NORM}"
        self.register_buffer("teacher", unit(sentence_features(node, clip, context).mean(1)), persistent=False)

    def image_features(self, images):
        if images.dim() == 2 or not self.node.N_CTX_VISION:
            return super().image_features(images)
        zeros = torch.zeros(self.node.N_CTX_VISION, self.clip.vision_width, device=images.device)
        deep = [zeros] * (self.clip.vision_layers - 1)
        return self.clip.image.encode(images, zeros, deep, replace="patches", normed=self.node.BEHIND_NORM)

    def text_features(self):
        """(C, d), not normalised."""
        return self.clip.text.encode(self.frame.fill([shared(self.ctx)]))

    def logits(self, images):
        return self.score(self.image_features(images), self.once(self.text_features))

    def loss(self, images, labels):
        v, t = unit(self.image_features(images)), unit(self.text_features())
        logits = self.score(v, t)
        loss = F.cross_entropy(logits, labels) + self.node.L1_LAMBDA * F.l1_loss(t, self.teacher)
        return loss + self.node.KL_LAMBDA * divergence(self.score(v, self.teacher), logits), logits


@TRAINER_REGISTRY.register()
class BiomedDPT(PromptTrainer):
    """A clinical template with learned words, held near a language model's sentences; some patches blanked out."""

    learner = BiomedDPTLearner
    needs_llm = True
    llm_form = "sentences"
    defaults = {
        "TEMPLATE": "a photo of a {}.",  # the words before {} are learned; upstream: one a data set
        "N_CTX": 4,  # only where the template begins with the name
        "N_CTX_VISION": 4,  # patches blanked out
        "BEHIND_NORM": False,  # True: block 1 sees zeros, as in the copy; False: ln_pre of zeros (CLIP's ViTs have one)
        "PREC": "fp32",
        "N_PROMPTS": 50,
        "SENTENCES": "",  # a JSON {class: [sentences]}; "": those by MODEL.LLM
        "L1_LAMBDA": 25.0,
        "KL_LAMBDA": 0.5,
        "TEXT_DROPOUT": False,  # True: the text tower's own (BERT's 0.1) acts in training, as the authors'
    }
