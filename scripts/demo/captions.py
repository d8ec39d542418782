"""Captions for drawn images, and which caption is true of which image.

A caption states facts: a finding, words that describe its signs, or both. The same words come in many frames,
from a bare name to several sentences, so that names are understood anywhere in the text tower's 77 positions.
"""

import numpy as np

PLAIN = "a photo of a {finding}."
NAMING = ("{finding}", "{finding}.", "a {modality} of a {finding}.", "a {modality} showing {finding}.",
          "{finding} on a {modality}.", "an image of {finding}.", "this is {finding}.",
          "a picture of a {finding}, a finding in a {modality}.", "a medical image of a {finding}.",
          "a photo of a {finding}, a type of {modality}.")
SIGNS = ("a {modality} showing {signs}.", "{signs}.", "an image with {signs}.", "{modality}: {signs}.")
BOTH = ("a {modality} of a {finding} with {signs}.", "{finding}: {signs}.", "{signs}, typical of {finding}.",
        "a photo of a {finding} showing {signs}.")
REPORT = ("this {modality} was taken with a clear question. the picture shows {signs}. no earlier image is "
          "there to compare with. in summary the appearance fits a {finding}.",
          "in an image, {finding} has distinctive visual features. one would look for {signs} in the "
          "{modality}, and keep the whole picture in mind.")
FILLER = """the a of and in on with this that image picture view scan area region side part patient case note
report clear shown seen here one two left right upper lower small large light dark red white round long short normal
typical looks like appears has there is are it from by first next"""
FRAMES = {"plain": (PLAIN,), "naming": NAMING, "signs": SIGNS, "both": BOTH, "report": REPORT}
STYLES = {"short": (("plain", 0.45), ("naming", 0.30), ("signs", 0.10), ("both", 0.15)),
          "long": (("filler", 0.6), ("report", 0.4))}


def caption(rng, length, finding, modality, words):
    """(text, facts): a caption of the wanted length ("short" or "long") and the set of facts it states."""
    names, weights = zip(*STYLES[length])
    style = rng.choice(names, p=weights)
    chosen = [str(w) for w in rng.permutation(words)[:rng.integers(1, len(words) + 1)]]
    parts = dict(finding=finding, modality=modality, signs=_listed(chosen))
    if style == "filler":  # a name late in the text, after words that say nothing
        filler = " ".join(rng.choice(FILLER.split(), size=rng.integers(8, 62)))
        return filler + " " + rng.choice([PLAIN, "{finding}."]).format(**parts), {finding}
    frame = rng.choice(FRAMES[style])
    facts = ({finding} if "{finding}" in frame else set()) | (set(chosen) if "{signs}" in frame else set())
    return frame.format(**parts), facts


def _listed(words):
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def truth(caption_facts, image_facts):
    """(captions, images) float matrix: 1 where every fact of the caption is one of the image's."""
    return np.array([[float(c <= i) for i in image_facts] for c in caption_facts], dtype=np.float32)
