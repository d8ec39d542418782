"""CILMP: conditional intervention of large language models for prompt tuning (Du, Yu, Wang, IEEE TMI 2025, 2511.12639).

Prompt of class c for image b:  [SOS] ctx_1..ctx_M  y_{b,c,1..L_c}  <name> . [EOS]
    y_{b,c,l} = Bp A e_{b,c,l},  e = LLM row h_{c,l}, its first P and last S rows intervened on, given the image
ctx and y are replaced by own ones before each of the first J_t text layers, M_v visual prompts before each of the
first J_v vision layers. Loss: cross-entropy of  s v_b . t_{b,c}. Equations: `interventions.py`.

    learned, each level   ctx M d_t; R, W_s, W_a, W_b for prefix and for suffix; A r D; Bp d_t r; visual M_v d_v
    frozen                CLIP, the LLM's representations
"""

import torch
from torch import nn

from cilmp.backbones.prompt import shared
from cilmp.backbones.rank import Basis, LowRank
from cilmp.knowledge import controls
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import ConfigError, UserError

from .averaging import AveragingMixin, GaussianAverage
from .base import PromptTrainer
from .interventions import (
    Intervention,
    coordinates,
    coordinates_hidden_dropout,
    coordinates_shared_dropout,
    kaiming,
    on_rows,
)
from .learner import Learner, init_context, unit
from .visual import VisualPrompts


class CILMPLearner(Learner):
    """Learned tensors of all levels, and the logits they give. h (C, L, D) are the classes' LLM rows."""

    def __init__(self, node, clip, classnames, context=None, knowledge=None):
        super().__init__(node, clip, classnames, context)
        h, lengths = knowledge if knowledge is not None else self._look_up(context)
        self._class_rows(*controls.rows_of(h, lengths, node.KNOWLEDGE, node.LAYERS))
        text, D, r = clip.text, self.h_prefix.shape[-1], node.LOW_RANK_DIMENSION
        J = self.depth = min(node.PROMPT_DEPTH_TEXT, clip.text_layers)
        if J < 1:
            raise ConfigError("TRAINER.CILMP.PROMPT_DEPTH_TEXT must be at least 1")

        first, rest = init_context(text, node.CTX_INIT, node.N_CTX_TEXT)
        deeper = torch.empty(J - 1, *first.shape).normal_(std=0.02)
        self.ctx = nn.Parameter(torch.cat([first[None], deeper]))  # (J, M, d_t)
        self.A, self.Bp = kaiming(J, r, D), kaiming(J, clip.text_width, r)
        options = {"conditional": node.CONDITIONAL, "orthogonal": node.ORTHOGONAL}
        self.prefix = Intervention(J, D, r, clip.embed_dim, **options)
        self.suffix = Intervention(J, D, r, clip.embed_dim, **options)
        self.visual = VisualPrompts(self, node.N_CTX_VISION, node.PROMPT_DEPTH_VISION, "N_CTX_VISION 0")
        self.image_key = self.visual.image_key

        between = (self.lengths - node.PREFIX_LENGTH - node.SUFFIX_LENGTH).tolist()
        slots = [node.N_CTX_TEXT, node.PREFIX_LENGTH, between, node.SUFFIX_LENGTH]
        self.frame = text.frame([f"{rest}{n}." for n in self.names], slots, labels=self.classnames)

    def _look_up(self, context):
        names = getattr(context.dataset, "knowledge_names", self.classnames)
        info = getattr(context.dataset, "info", None)  # asked by names, whatever wording CLIP is shown
        cfg = context.cfg
        return controls.store(cfg.DATASET.NAME, cfg.MODEL.LLM, info, names, self.node.KNOWLEDGE).lookup(names)

    def _class_rows(self, h, lengths):
        """Buffers of the classes' rows: prefix (C, P, D), suffix (C, S, D), between (C, L - P - S, D)."""
        P, S = self.node.PREFIX_LENGTH, self.node.SUFFIX_LENGTH
        if int(lengths.min()) < P + S:
            worst = self.classnames[int(lengths.argmin())]
            raise UserError(
                f"class {worst!r} has {int(lengths.min())} LLM rows, prefix {P} + suffix {S} need {P + S}: lower "
                f"TRAINER.CILMP.PREFIX_LENGTH / SUFFIX_LENGTH"
            )
        last = lengths[:, None] - S + torch.arange(S)
        between = torch.arange(P, max(int(lengths.max()) - S, P))
        inside = between < lengths[:, None] - S
        self.register_buffer("h_prefix", h[:, :P], persistent=False)
        self.register_buffer("h_suffix", h.gather(1, last[..., None].expand(-1, -1, h.shape[-1])), persistent=False)
        self.register_buffer("h_between", h[:, between] * inside[..., None], persistent=False)
        self.lengths = lengths

    # ---- rank space

    def image_free(self):
        """(A h of the rows between, prefix terms, suffix terms): depends on classes and weights only."""
        prefix, suffix = self.prefix.source_terms(self.h_prefix), self.suffix.source_terms(self.h_suffix)
        return on_rows(self.h_between, self.A), prefix, suffix

    def _coordinates(self, module, h, terms, v):
        """u (J, B, C, P, r) of intervened rows, with the configured dropout in training."""
        w, R, p = module.differences(terms, v), module.rotation(), self.node.DROPOUT
        if not self.training or p == 0:
            return coordinates(h, w, self.A, R)
        if self.node.DROPOUT_MODE == "shared":
            return coordinates_shared_dropout(h, w, self.A, R, p)
        return coordinates_hidden_dropout(h, w.expand(-1, len(v), -1, -1, -1), self.A, R, p)

    def prompts(self, v):
        """PromptSequence of unit image features v (B, d)."""
        between, prefix, suffix = self.once(self.image_free)
        slots = [
            self._coordinates(self.prefix, self.h_prefix, prefix, v),
            between[:, None],
            self._coordinates(self.suffix, self.h_suffix, suffix, v),
        ]
        bases = [Basis(b) for b in self.Bp.unbind()]  # one a level, shared by its three slots
        levels = [[LowRank(*pair) for pair in zip(u.unbind(), bases)] for u in slots]
        return self.frame.fill([shared(c) for c in self.ctx], *levels)

    # ---- logits

    def logits(self, images):
        features = self.visual.encode(images)
        text = self.clip.text.encode(self.prompts(unit(features)), chunk=self.node.CHUNK or None)
        return self.score(features, text)


@TRAINER_REGISTRY.register()
class CILMP(AveragingMixin, PromptTrainer):
    """LLM knowledge as deep prompt tokens, adapted to class and image by low-rank interventions."""

    learner = CILMPLearner
    needs_llm = True
    draws = "geometric gaps"  # of the dropout; a mask a number until 0.3.0
    model_name = "VLPromptLearner"
    defaults = {
        "N_CTX_VISION": 4,
        "N_CTX_TEXT": 4,
        "CTX_INIT": "a photo of a",
        "PREC": "fp32",  # fp32, amp, bf16, fp16
        "PROMPT_DEPTH_VISION": 12,
        "PROMPT_DEPTH_TEXT": 12,
        "PREFIX_LENGTH": 4,
        "SUFFIX_LENGTH": 4,
        "LOW_RANK_DIMENSION": 8,
        "DROPOUT": 0.1,
        "DROPOUT_MODE": "hidden",  # hidden: the paper's law; shared: one mask per class and row
        "GPA_MEAN": 0,  # epochs; 0: 100 for 100 epochs, other lengths scaled
        "GPA_STD": 0,  # epochs; 0: 30 for 100 epochs, other lengths scaled
        "GPA_ALL": False,  # True also averages interventions and projections
        "KNOWLEDGE": "real",  # controls: wrong_modality, name_only, shuffled, random, mean
        "CONDITIONAL": True,  # False: interventions do not see the image
        "ORTHOGONAL": False,  # keep R'R = I as in LoReFT
        "LAYERS": (),  # LLM rows to use: () or all, numbers, or one: first, quarter, half, three_quarters, last
        "CHUNK": 0,  # (image, class) pairs at once; 0: from shapes
    }

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        if cfg.TRAINER.CILMP.LOW_RANK_DIMENSION < 1:
            raise ConfigError(
                f"TRAINER.CILMP.LOW_RANK_DIMENSION {cfg.TRAINER.CILMP.LOW_RANK_DIMENSION}: a rank of 1 or more"
            )
        if not 0 <= cfg.TRAINER.CILMP.DROPOUT < 1:
            raise ConfigError(f"TRAINER.CILMP.DROPOUT {cfg.TRAINER.CILMP.DROPOUT}: a share of 0 or more, below 1")
        if cfg.TRAINER.CILMP.DROPOUT_MODE not in ("hidden", "shared"):
            raise ConfigError(
                f"TRAINER.CILMP.DROPOUT_MODE {cfg.TRAINER.CILMP.DROPOUT_MODE!r}: choose hidden or shared"
            )
        controls.check(cfg.TRAINER.CILMP.KNOWLEDGE, cfg.TRAINER.CILMP.LAYERS)

    def result_facts(self):
        mode = self.node.DROPOUT_MODE if self.node.DROPOUT else None
        return super().result_facts() | {"dropout_mode": mode}

    def averaging(self):
        """Official rule: ctx, deep tokens and visual prompts are averaged, interventions and projections are not."""
        scale = self.max_epoch / 100
        everything = self.node.GPA_ALL
        return GaussianAverage(
            self.node.GPA_MEAN * self.stretch or 100 * scale,
            self.node.GPA_STD * self.stretch or 30 * scale,
            self.max_epoch,
            keep=lambda name: everything or name == "ctx" or name.startswith("visual"),
        )
