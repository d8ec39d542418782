"""What methods share that learn inside the towers: the class texts are encoded anew in every step."""

from .base import Learner, unit


class AdaptedLearner(Learner):
    """Logits s v_b . t_c of a template, both towers as they are now. `adapt` says what becomes trainable.

    live_words: whether the token table itself is trained, so that fixed words are looked up in every step.
    """

    live_words = False

    def __init__(self, cfg, clip, classnames, context=None):
        super().__init__(cfg, clip, classnames, context)
        texts = [cfg.TEMPLATE.format(n) for n in self.names]
        self.frame = clip.text.frame(texts, labels=self.classnames)
        self.adapt()

    def adapt(self):
        """Put adapters into self.clip, or make parameters of it trainable."""
        raise NotImplementedError

    def named_trainables(self):
        inside = [(n, p) for n, p in self.clip.named_parameters() if p.requires_grad]
        return super().named_trainables() + inside

    def text_features(self):
        """(C, d), unit."""
        words = self.clip.text.embed if self.live_words else None
        return self.once(lambda: unit(self.clip.text.encode(self.frame.fill(words=words))))

    def logits(self, images):
        return self.score(self.clip.image.encode(images), self.text_features())
