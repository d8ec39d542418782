"""Pictures of any kind, as the towers take them: files (DICOM too), PIL images, arrays, tensors."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from dassl.utils.errors import UserError
from dassl.utils.images import MEND, read_image, to_rgb


def listed(images):
    """The images of a call as a list: one is a list of one, a batch (B, ...) the list of its images.

    Raises:
        UserError: no image.
    """
    if isinstance(images, (str, os.PathLike, Image.Image)):
        images = [images]
    elif torch.is_tensor(images) or (isinstance(images, np.ndarray) and images.dtype.kind in "biuf"):
        images = list(images) if images.ndim == 4 else [images]
    images = list(images)
    if not images:
        raise UserError("no image was given")
    return images


def picture(image):
    """8-bit RGB PIL image of a path, a PIL image, an array (H, W), (H, W, 3), (H, W, 4) or a tensor (3, H, W),
    (1, H, W): 0..255 where they are whole numbers of 8 bits, 0..1 where they are floats of three channels. Grey levels
    beyond 8 bits are windowed as those of files.

    Raises:
        UserError: unreadable, or of another shape; without what one would do about a data set's image.
    """
    if isinstance(image, (str, os.PathLike)):
        try:
            if os.path.isdir(image):
                raise UserError(f"{image} is a folder, not an image")
            return read_image(str(image))
        except UserError as error:
            raise type(error)(str(error).removesuffix(f"; {MEND}")) from None
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if torch.is_tensor(image):
        image = image.detach().cpu().numpy()
        if image.ndim == 3 and image.shape[0] in (1, 3, 4):
            image = np.moveaxis(image, 0, -1)
    return _of_array(np.asarray(image))


def _of_array(array):
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    what = f"an array of {array.dtype} {array.shape} is no image"
    grey = array.ndim == 2
    if array.dtype.kind not in "biuf" or not (grey or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise UserError(f"{what}: give (H, W), (H, W, 3) or (H, W, 4), or a tensor (3, H, W)")
    if not array.size or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise UserError(f"{what}: it is empty or not finite")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype == np.uint8:
        return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
    if grey:
        return to_rgb(Image.fromarray(array.astype(np.float32 if array.dtype.kind == "f" else np.int32)))
    if array.dtype.kind != "f" or array.min() < 0 or array.max() > 1:
        raise UserError(f"colours of {array.dtype} from {array.min():.3g} to {array.max():.3g}: give uint8 0..255 or "
                        f"floats 0..1 (images that are normalised already go to model.logits)")  # fmt: skip
    return to_rgb(Image.fromarray((array * 255).round().astype(np.uint8)))


def batches(images, transform, size, on_bad=None):
    """Yield (places (B,) list, tensor (B, 3, H, W)) of a list of images, read by threads one batch ahead.

    Args:
        on_bad: called with (place, UserError) of an image that can't be read, which is left out; None: it is raised.
    """

    def one(image):
        try:
            return transform(picture(image))
        except UserError as error:
            return error

    chunks = [range(i, min(i + size, len(images))) for i in range(0, len(images), size)]
    with ThreadPoolExecutor(min(size, os.cpu_count() or 1)) as pool:
        ahead = [pool.submit(one, images[i]) for i in chunks[0]]
        for number, places in enumerate(chunks):
            reading, ahead = ahead, [pool.submit(one, images[i]) for c in chunks[number + 1 : number + 2] for i in c]
            found = [(place, job.result()) for place, job in zip(places, reading)]
            for place, item in found:
                if isinstance(item, UserError):
                    if on_bad is None:
                        raise item
                    on_bad(place, item)
            good = [(place, item) for place, item in found if not isinstance(item, UserError)]
            if good:
                yield [place for place, _ in good], torch.stack([item for _, item in good])


def pages(path):
    """Number of pages or frames of a file that Pillow reads, of which `picture` gives the first; 1 of any other."""
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1)
    except Exception:  # DICOM, an array's image
        return 1
