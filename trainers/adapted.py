"""What methods share that learn inside the towers: the class texts are encoded anew in every step."""

from dassl.utils.errors import ConfigError

from .base import PromptTrainer
from .learner import Learner, unit
from .templates import filled

TOWERS = {"both": ("text", "image"), "text": ("text",), "vision": ("image",)}


class AdaptedLearner(Learner):
    """Logits s v_b . t_c of a template, both towers as they are now. `adapt` says what becomes trainable.

    live_words: whether the token table itself is trained, so that fixed words are looked up in every step.
    """

    live_words = False

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        self.frame = clip.text.frame(filled(node.TEMPLATE, self.names), labels=self.classnames)
        self.adapt()

    def adapt(self):
        """Put adapters into self.clip, or make parameters of it trainable."""
        raise NotImplementedError

    def towers(self):
        """Names of the towers that node.ENCODER chooses; they must have blocks, and the blocks node.LAYERS names."""
        node, clip = self.node, self.clip
        if node.ENCODER not in TOWERS:
            raise ConfigError(f"ENCODER {node.ENCODER!r}: choose {', '.join(TOWERS)}")
        if node.ENCODER != "text":
            self.needs_blocks("ENCODER text")
        depth = max(len(getattr(clip, tower).blocks) for tower in TOWERS[node.ENCODER])
        if any(not 0 <= number < depth for number in node.LAYERS):
            raise ConfigError(f"LAYERS {list(node.LAYERS)}: the blocks of {clip.name} are 0 to {depth - 1}")
        return TOWERS[node.ENCODER]

    def named_trainables(self):
        inside = [(n, p) for n, p in self.clip.named_parameters() if p.requires_grad]
        return super().named_trainables() + inside

    def text_features(self):
        """(C, d), unit."""
        words = self.clip.text.embed if self.live_words else None
        return unit(self.clip.text.encode(self.frame.fill(words=words)))

    def logits(self, images):
        return self.score(self.clip.image.encode(images), self.once(self.text_features))


class AdaptedTrainer(PromptTrainer):
    """Their trainer: a cosine over steps."""

    lr_per = "step"
