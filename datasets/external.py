"""Testing on another hospital's images: a target's test part in the source's classes (DATASET.TEST_ON)."""

from dassl.data.datasets import Datum
from dassl.utils.errors import UserError
from dassl.utils.names import plain, spelling_key


def external_test(source, target, names):
    """([Datum] of the target's test part, {impath: group}), labelled as the source's classes are.

    Args:
        source, target: Located sets.
        names: the source's class names as they are shown, in label order.

    Raises:
        UserError: the classes are not the same ones, with those that found no partner.
    """
    label = same_classes(source.info, target.info)
    items = [Datum(impath=target.impath(file), label=label[name], classname=names[label[name]])
             for file, _, name in target.split.test]
    return items, {target.impath(file): group for file, group in target.groups.items()}


def same_classes(source, target):
    """{class name of the target: label in the source}, matched by name, known spelling, or wording (DatasetInfo)."""
    found, left = {}, []
    for name in target.classnames:
        fits = {i for i, other in enumerate(source.classnames) if _alike(target, name, source, other)}
        if len(fits) == 1 and not fits & set(found.values()):
            found[name] = fits.pop()
        else:
            left.append(name)
    missing = [n for i, n in enumerate(source.classnames) if i not in found.values()]
    if left or missing:
        raise UserError(
            f"{source.name} and {target.name} have not the same classes: {_listed(missing)} of {source.name}, "
            f"{_listed(left)} of {target.name} have no partner; name them alike (dataset.json: wording), or use "
            f"cross_dataset"
        )
    return found


def _alike(a, name, b, other):
    """Whether two classes are one: by name or spelling, else by wording."""
    if spelling_key(name) == spelling_key(other):
        return True
    return plain(a.wording.get(name, name)) == plain(b.wording.get(other, other))


def _listed(names):
    return ", ".join(map(repr, names[:4])) + (" ..." if len(names) > 4 else "") if names else "none"
