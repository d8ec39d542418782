"""Train, val and test for images that come without: grouped, stratified, seeded."""

import random
from collections import Counter

from cilmp.datasets.split_file import PARTS
from dassl.utils.errors import UserError

RATIOS = (0.7, 0.1, 0.2)  # train, val, test


def partition(classes, groups, ratios=RATIOS, seed=1):
    """A part ("train", "val", "test") for each image; images of one group share it.

    Args:
        classes: class name of each image.
        groups: group of each image (patient, lesion ...); an image alone in its group has a name of its own.
        ratios: wished shares of train, val, test; a share of 0 gets nothing.
        seed: equal seed and equal images, in any order of the list, give equal parts.

    Groups are taken largest first, ties shuffled; each goes where its classes are most below their wish
    (squared distance, weighted by class size). Without groups this is the largest-deficit apportionment:
    every class has in every part its wished number within less than one image.
    """
    members = {}
    for name, group in zip(classes, groups):
        members.setdefault(group, Counter())[name] += 1
    order = sorted(members)
    random.Random(f"partition {seed}").shuffle(order)
    order.sort(key=lambda g: -members[g].total())
    sizes = Counter(classes)
    share = {p: ratio / sum(ratios) for p, ratio in zip(PARTS, ratios) if ratio > 0}
    parts = sorted(share, key=share.get)  # a tie goes to the smaller part
    deficit = {p: {name: share[p] * n for name, n in sizes.items()} for p in parts}
    place = {}
    for group in order:
        place[group] = min(parts, key=lambda p: _cost(members[group], deficit[p], sizes))
        for name, n in members[group].items():
            deficit[place[group]][name] -= n
    return [place[group] for group in groups]


def _cost(group, deficit, sizes):
    """Growth of sum_c (found - wished)^2 / size_c when the group joins a part; rounded, so ties are ties."""
    return round(sum(n * (n - 2 * deficit[name]) / sizes[name] for name, n in group.items()), 9)


def complete(parts, classes, groups, ratios=RATIOS, seed=1):
    """The given parts with "" filled in.

    Nothing given, or nothing but train: everything is partitioned. Train and test given, val missing: val is held
    out of train by the same rule, never of test. Train and val without test is a UserError.
    """
    given = set(parts) - {""}
    if given <= {"train"}:
        return partition(classes, groups, ratios, seed)
    if "test" not in given:
        raise UserError(f"there are images for {' and '.join(sorted(given))}, but none for test; name a test part, or "
                        "put all images into class folders without parts to have them split at random")
    parts = [p or "train" for p in parts]
    if "val" in given or ratios[1] <= 0:
        return parts
    inside = [i for i, p in enumerate(parts) if p == "train"]
    held_out = partition([classes[i] for i in inside], [groups[i] for i in inside], (0.9, 0.1, 0), seed)
    for i, part in zip(inside, held_out):
        parts[i] = part
    return parts


def leaks(parts, groups):
    """{group: parts} of the groups that are in more than one part."""
    seen = {}
    for part, group in zip(parts, groups):
        if group:
            seen.setdefault(group, set()).add(part)
    return {group: [p for p in PARTS if p in found] for group, found in seen.items() if len(found) > 1}
