"""Hand-written templates, and class features from an ensemble of them.

    imagenet    the 80 of the CLIP paper (open_clip's list, CoOp's order)
    selected    the 7 of them that CLIP's authors found best by forward selection
    promptsrc   PromptSRC's 60: "a photo of a {}." and the first 59 others
    medical     phrasings of clinical images; ours, nobody's published list
"""

import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES

from dassl.utils.errors import ConfigError, unknown_name

from .learner import unit

PHOTO = "a photo of a {}."
IMAGENET = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
SELECTED = [
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
]  # fmt: skip
PROMPTSRC = [PHOTO, *[t for t in IMAGENET if t != PHOTO][:59]]
MEDICAL = [
    "a photo of a {}.", "a medical image of {}.", "a medical image showing {}.", "a clinical image of {}.",
    "an image of a patient with {}.", "a scan showing {}.", "findings consistent with {}.", "a typical case of {}.",
    "a close-up medical image of {}.", "a diagnostic image: {}.",
]  # fmt: skip
SETS = {"imagenet": IMAGENET, "selected": SELECTED, "promptsrc": PROMPTSRC, "medical": MEDICAL}


def template_set(name):
    """A list of templates: by name, or written out with ';' between them.

    Raises:
        UnknownName: neither a name of SETS nor a text with {} in it.
    """
    if "{}" in name:
        return [template.strip() for template in name.split(";") if template.strip()]
    if name not in SETS:
        raise unknown_name("template set", name, SETS)
    return list(SETS[name])


def filled(template, names):
    """[str]: the template with the name of each class in the place of {}.

    Raises:
        ConfigError: a template without {}, in which all classes would read alike.
    """
    if "{}" not in template:
        raise ConfigError(f"template {template!r} has no {{}} for the class name, so all classes would read alike")
    return [template.replace("{}", name) for name in names]


@torch.no_grad()
def mean_features(clip, names, templates, unit_each=False):
    """Text features (C, d), float32, as long as the text tower makes them: mean over templates of a class's features.

    Args:
        unit_each: normalise every template's feature before the mean.
    """
    total = 0
    for template in templates:
        features = clip.text.encode_strings(filled(template, names)).float()
        total = total + (unit(features) if unit_each else features)
    return total / len(templates)


def ensemble_features(clip, names, templates, unit_each=True):
    """Unit text features (C, d), float32: mean over templates of a class's text features, normalised.

    Args:
        unit_each: normalise every template's feature before the mean (CLIP); PromptSRC does not.
    """
    return unit(mean_features(clip, names, templates, unit_each))
