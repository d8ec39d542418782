"""What a method learns: a `Learner` beside a frozen CLIP, and what all learners compute with."""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.utils.errors import ConfigError, UserError

from .precision import full_precision


def unit(x):
    """x divided by its L2 norm over the last axis, float32."""
    return F.normalize(x.float(), dim=-1)


def divergence(teacher, logits):
    """KL(softmax(teacher) || softmax(logits)), mean over all (B, C) entries: a C-th of the usual batch mean."""
    target, own = teacher.log_softmax(-1), logits.log_softmax(-1)
    return F.kl_div(own, target, reduction="sum", log_target=True) / own.numel()


def readable(classname):
    """A class name as it is put into a prompt."""
    return classname.replace("_", " ").strip()


def init_context(text, phrase, n_ctx, std=0.02):
    """Context vectors, and the words of the phrase that did not fit.

    Args:
        text: TextTower.
        phrase: initial words ("" = random).
        n_ctx: number of context vectors M.

    Returns:
        ((M, d_t) float32 on the CPU, where a learner is made before it moves to its device; words left over as a string
        that ends in a blank, or "").
    """
    phrase = phrase.replace("_", " ").strip()
    words = text.embed_words(phrase).cpu() if phrase else torch.empty(0, text.width)
    if 0 < n_ctx <= len(words):
        taken = next(k for k in range(1, 99) if len(text.embed_words(" ".join(phrase.split()[:k]))) >= n_ctx)
        rest = " ".join(phrase.split()[taken:])
        return words[:n_ctx].clone(), rest + " " if rest else ""
    return torch.empty(n_ctx, text.width).normal_(std=std), ""


class Learner(nn.Module):
    """What one method learns. Holds its own parameters and class-bound buffers, never the backbone's weights.

    Args:
        node: the method's config node, TRAINER.<METHOD>.
        clip: PromptableCLIP, frozen.
        classnames: C names in label order.
        context: `Context` with what else a method may need (whole config, dataset, knowledge).
    """

    # What is done to a frozen image tower ("plain": nothing): features may come in place of images, of which
    # `image_features` makes features in any case. "": the tower is adapted or prompted.
    image_key = ""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__()
        self.node, self.classnames, self.context = node, list(classnames), context
        self.names = [readable(c) for c in classnames]
        self._clip = (clip,)  # in a tuple: not a submodule, so not in parameters() nor in the state dict
        self._kept = {}

    @classmethod
    def bound_to_classes(cls, node):
        """{name of a learned tensor that serves no other classes (base-to-new, cross-dataset): why}."""
        return {}

    def trained_on(self, classnames, same_set):
        """Told, before learned tensors of another run are loaded, for which classes they were learned, and whether on
        this data set; a method that treats classes it was not trained on in another way remembers it."""

    @property
    def method(self):
        """Its name, for messages."""
        return type(self).__name__.removesuffix("Learner")

    def needs_blocks(self, otherwise=""):
        """Refuse an image tower into which nothing can be put; `otherwise` is the setting that does without.

        Raises:
            ConfigError: what the tower is, and what to use instead.
        """
        if self.clip.vision_width is None:
            setting = f"set TRAINER.{self.method.upper()}.{otherwise}, or " if otherwise else ""
            raise ConfigError(
                f"{self.method} reaches into the blocks of a plain ViT, and the image tower of {self.clip.name} is "
                f"none ({self.clip.image.kind}): {setting}use another backbone, as ViT-B/16 or BiomedCLIP"
            )

    @property
    def clip(self):
        return self._clip[0]

    def image_features(self, images):
        """(B, d), not normalised, of images (B, 3, H, W); features (B, d) computed before pass through."""
        return images if images.dim() == 2 else self.clip.image.encode(images)

    def once(self, compute):
        """What compute() gives; in evaluation, where it does not depend on the image, once for all batches.

        compute: a method, or a function that stays the same object; what is kept is kept for it alone.
        """
        if self.training or torch.is_grad_enabled():
            return compute()
        if compute not in self._kept:
            self._kept[compute] = compute()
        return self._kept[compute]

    def train(self, mode=True):
        self._kept = {}
        if self.node.get("TEXT_DROPOUT", False):
            self.clip.text.dropout(mode)
        return super().train(mode)

    def logits(self, images):
        """(B, C) logits of images (B, 3, H, W), or of features where the image tower is frozen."""
        raise NotImplementedError

    @full_precision
    def forward(self, images):
        return self.logits(images)

    def loss(self, images, labels):
        """(scalar loss, logits (B, C)); cross-entropy unless a method says more."""
        logits = self.logits(images)
        return F.cross_entropy(logits, labels), logits

    @full_precision
    def score(self, image_features, text_features):
        """Scaled cosine logits (B, C), float32, of features (B, d) and (C, d) or (B, C, d), none normalised yet."""
        v, t = unit(image_features), unit(text_features)
        cosine = v @ t.mT if t.dim() == 2 else torch.einsum("bd,bcd->bc", v, t)
        return self.clip.scale() * cosine

    def named_trainables(self):
        """(name, parameter) of everything learned; methods that adapt the backbone in place override this."""
        return [(n, p) for n, p in self.named_parameters() if p.requires_grad]

    def checkpoint_tensors(self):
        """{name: tensor} that a checkpoint holds, the learner's own, not copied."""
        return dict(self.named_trainables())

    def checkpoint_state(self):
        return {n: t.detach().clone() for n, t in self.checkpoint_tensors().items()}

    def load_checkpoint_state(self, state):
        """Copy learned tensors in; names and shapes must fit this method and setting.

        Raises:
            UserError: tensors of another method or setting, or bound to other classes.
        """
        own = self.checkpoint_tensors()
        self._check_fits(own, state)
        self._kept = {}
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)

    def _check_fits(self, own, state):
        if missing := sorted(set(own) ^ set(state)):
            raise UserError(
                f"the checkpoint is not of this method and setting: {', '.join(missing[:4])}"
                f"{' ...' if len(missing) > 4 else ''} on one side only; use the run's own config.yaml"
            )
        for name, value in state.items():
            if value.shape != own[name].shape:
                raise UserError(self._shape_message(name, tuple(value.shape), tuple(own[name].shape)))

    def _shape_message(self, name, found, wanted):
        if name in self.bound_to_classes(self.node):
            return f"{name} {found} was learned for other classes than these {len(self.classnames)}; retrain on them"
        return (
            f"the checkpoint's {name} is {found}, this setting needs {wanted}: another backbone, LLM, prompt length or "
            f"rank; use the run's own config.yaml"
        )


class Context:
    """What a learner may ask for besides its config node: the whole config, the dataset, the device."""

    def __init__(self, cfg, dataset, device):
        self.cfg, self.dataset, self.device = cfg, dataset, device
