"""Few labelled images: Dassl's balanced sampling, and the natural one of "Few-Shot, Now for Real".

Both take and return lists of entries whose second item is the label.
"""

import random

import numpy as np

from dassl.utils.errors import ConfigError


def by_label(entries):
    """{label: entries}, labels in order of first appearance, the order of entries kept."""
    groups = {}
    for entry in entries:
        groups.setdefault(entry[1], []).append(entry)
    return groups


def balanced(entries, shots, rng):
    """`shots` entries a class, or the whole class where it has fewer; draws in Dassl's order from `rng`."""
    chosen = []
    for group in by_label(entries).values():
        chosen += rng.sample(group, shots) if len(group) >= shots else group
    return chosen


def natural(entries, shots, seed):
    """A budget of shots * C entries in the training set's own class frequencies (arXiv 2506.17500, "realistic").

    n_c = round(N p_c), half to even; while the sum is above N, the largest class (first on ties) gives one
    back; a sum below N is not topped up. Each class is shuffled by the same seed: supports of one seed are
    nested where n_c grows. A rare class may get none.
    """
    groups = by_label(entries)
    budget = shots * len(groups)
    counts = {label: round(budget * len(groups[label]) / len(entries)) for label in sorted(groups)}
    while sum(counts.values()) > budget:
        counts[max(counts, key=counts.get)] -= 1
    chosen = []
    for label, count in counts.items():
        order = np.arange(len(groups[label]))
        np.random.RandomState(seed if seed >= 0 else None).shuffle(order)
        chosen += [groups[label][i] for i in order[:count]]
    return chosen


def few_shot(train, val, shots, seed, rule="balanced", val_shots=0):
    """(train, val) after sampling; `shots` < 1 leaves both as they are.

    balanced: one random stream, `shots` a class of train, then `val_shots` of val: 0 stands for min(shots, 4), as in
    CoOp's readers, a negative one for `shots`, as in BiomedCoOp's harness of adapters. The stream is a fresh
    random.Random(seed): what Dassl draws right after seeding, whatever was drawn before in this process.
    natural: the budget is drawn from train; there is no val, as in that protocol.
    """
    if rule not in ("balanced", "natural"):
        raise ConfigError(f"DATASET.SHOT_SAMPLING is {rule!r}; use balanced or natural")
    if shots < 1:
        return train, val
    if rule == "natural":
        return natural(train, shots, seed), []
    rng = random.Random(seed) if seed >= 0 else random
    train = balanced(train, shots, rng)
    return train, balanced(val, shots if val_shots < 0 else val_shots or min(shots, 4), rng)
