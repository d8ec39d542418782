"""Images from the raw folder into a data set's folder: linked, copied or shrunk. What is there is left alone."""

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from cilmp.datasets.npz import is_array_image
from dassl.utils.errors import UserError

LOSSY = (".jpg", ".jpeg")


def target_path(image, raw, folder, resize=0):
    """Where an Image will lie, relative to `folder`: images/<path below raw>, or as it is if raw is inside `folder`.

    A shrunk image keeps .jpg or becomes .png; an image out of an array lies where its preparation says.
    """
    source, folder = Path(image.source), Path(folder).absolute()
    if not resize and not image.target and source.is_relative_to(folder):
        return source.relative_to(folder).as_posix()
    relative = Path(image.target) if image.target else \
        source.relative_to(raw) if source.is_relative_to(raw) else Path(source.name)
    if resize and source.suffix.lower() not in LOSSY:
        relative = relative.with_name(relative.name + ".png" if relative.suffix.lower() != ".png" else relative.name)
    return (Path("images") / relative).as_posix()


def place_all(pairs, how="link", resize=0, workers=None, progress=True, anew=False):
    """Put each (source, target) in place; returns how many were new. Call it again to go on after a break.

    `anew`: the copies that are there were made with other settings and are made again.
    """
    todo = [(s, t) for s, t in pairs if Path(s).absolute() != Path(t).absolute()
            and (anew or not _done(s, t, how, resize))]
    step = partial(_place, how=how, resize=resize)
    for folder in {Path(t).parent for _, t in todo}:
        folder.mkdir(parents=True, exist_ok=True)
    if how == "link" and not resize and not any(is_array_image(s) for s, _ in todo):
        for pair in todo:
            step(pair)
        return len(todo)
    from tqdm import tqdm

    with ProcessPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for _ in tqdm(pool.map(step, todo, chunksize=8), total=len(todo), unit="img",
                      desc="shrinking" if resize else "writing", disable=not progress or None):
            pass
    return len(todo)


def _done(source, target, how, resize):
    """Whether the target is there as asked: an earlier link does not stand for a copy, nor a copy for a link."""
    if not os.path.exists(target):
        return False
    if resize or how == "copy" or is_array_image(source):
        return not os.path.islink(target)
    return os.path.islink(target) and (os.readlink(target) == str(source)
                                       or os.path.realpath(target) == os.path.realpath(source))


def _place(pair, how, resize):
    """One image under a temporary name, then renamed: a killed run leaves no half image. Not synced to disk one by
    one, which would cost more than the images."""
    source, target = map(Path, pair)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if resize or is_array_image(source):
            shrink(source, temporary, resize, "JPEG" if target.suffix.lower() in LOSSY else "PNG")
        elif how == "link":
            temporary.symlink_to(source.resolve())
        else:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def shrink(source, target, size, form):
    """The image with its shorter side at most `size` pixels (0: as it is), RGB, upright, 8 bits; JPEG quality 95."""
    from PIL import Image

    from dassl.utils import read_image

    image = read_image(str(source))
    short = min(image.size)
    if size and short > size:
        new = [max(1, round(side * size / short)) for side in image.size]
        image = image.resize(new, Image.Resampling.LANCZOS)
    try:
        image.save(target, form, **({"quality": 95} if form == "JPEG" else {}))
    except OSError as error:
        raise UserError(f"{target}: can't be written ({error})") from None
