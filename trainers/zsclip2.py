"""Zero-shot CLIP with an ensemble of templates (Radford et al., ICML 2021; ZeroshotCLIP2 of CoOp's code).

    t_c = unit(mean over templates k of unit(text feature of template k))       nothing is learned
"""

from dassl.engine import TRAINER_REGISTRY

from .templates import ensemble_features, template_set
from .zsclip import ZeroshotCLIP, ZeroshotLearner


class EnsembleLearner(ZeroshotLearner):
    """Text features (C, d) of several templates."""

    def class_features(self):
        templates = dict.fromkeys([*template_set(self.node.TEMPLATES), self.node.TEMPLATE])
        return ensemble_features(self.clip, self.names, [t for t in templates if t])


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """No training: the mean of many hand-written templates."""

    learner = EnsembleLearner
    defaults = {
        "TEMPLATES": "selected",  # selected, imagenet, promptsrc, medical, or templates with ';' between them
        "TEMPLATE": "a photo of a {}.",  # the data set's own, joins the ensemble
        "PREC": "fp32",
    }
