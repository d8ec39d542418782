"""Training and test transforms by upstream's choices and order, over torchvision."""

import torch
from torchvision.transforms import v2 as T
from torchvision.transforms.functional import InterpolationMode

from dassl.utils.errors import ConfigError, unknown_name

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
RESIZE_MODES = ("shortest", "squash")
AVAI_CHOICES = [
    "random_flip", "random_resized_crop", "normalize", "instance_norm", "random_crop", "random_translation",
    "center_crop", "cutout", "imagenet_policy", "cifar10_policy", "svhn_policy", "randaugment",
    "randaugment_fixmatch", "randaugment2", "gaussian_noise", "colorjitter", "randomgrayscale", "gaussian_blur",
]  # fmt: skip


class InstanceNormalization:
    """Each channel of an image to mean 0 and deviation 1."""

    def __repr__(self):  # what is kept of transformed images is found again by it
        return "InstanceNormalization()"

    def __call__(self, x):
        flat = x.flatten(1)
        return (x - flat.mean(1)[:, None, None]) / (flat.std(1)[:, None, None] + 1e-8)


class Cutout:
    """n squares of side `length` set to 0, anywhere, cut at the border."""

    def __init__(self, n, length):
        self.n, self.length = n, length

    def __repr__(self):
        return f"Cutout(n={self.n}, length={self.length})"

    def __call__(self, x):
        x = x.clone()
        height, width = x.shape[-2:]
        for _ in range(self.n):
            y, z = int(torch.randint(height, ())), int(torch.randint(width, ()))
            top, left = max(y - self.length // 2, 0), max(z - self.length // 2, 0)
            x[..., top : y + self.length // 2, left : z + self.length // 2] = 0
        return x


class RandomTranslation:
    """With probability p: resize to 1.125 times the size and crop; otherwise resize."""

    def __init__(self, size, interpolation, p=0.5):
        larger = [round(s * 1.125) for s in size]
        self.shift = T.Compose([T.Resize(larger, interpolation=interpolation), T.RandomCrop(size)])
        self.plain, self.p = T.Resize(size, interpolation=interpolation), p

    def __repr__(self):
        return f"RandomTranslation({self.shift}, p={self.p})"

    def __call__(self, image):
        return self.shift(image) if float(torch.rand(())) < self.p else self.plain(image)


def build_transform(cfg, is_train=True, choices=None):
    """The transform of INPUT.*, None with INPUT.NO_TRANSFORM; `choices` replaces INPUT.TRANSFORMS.

    Images are normalised whether or not "normalize" is among the choices; INPUT.NO_NORMALIZE leaves it out.
    """
    if cfg.INPUT.NO_TRANSFORM:
        return None
    choices = list(cfg.INPUT.TRANSFORMS) if choices is None else list(choices)
    for choice in choices:
        if choice not in AVAI_CHOICES:
            raise unknown_name("transform in INPUT.TRANSFORMS", choice, AVAI_CHOICES)
    if not cfg.DATASET.FLIP:
        choices = [c for c in choices if c != "random_flip"]
    steps = _train_steps(cfg, choices) if is_train else _test_steps(cfg)
    return T.Compose(steps + _tensor_steps(cfg, choices, is_train))


def _mode(cfg):
    if cfg.INPUT.INTERPOLATION not in INTERPOLATION_MODES:
        raise unknown_name("INPUT.INTERPOLATION", cfg.INPUT.INTERPOLATION, INTERPOLATION_MODES)
    return INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]


def _size(cfg):
    """[height, width]."""
    size = list(cfg.INPUT.SIZE)
    if len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
        raise ConfigError(f"INPUT.SIZE {tuple(size)}: give height and width in whole pixels, e.g. (224, 224)")
    return size


def normalize(cfg):
    """[the step that takes PIXEL_MEAN and PIXEL_STD away], [] with NO_NORMALIZE."""
    if cfg.INPUT.NO_NORMALIZE:
        return []
    return [T.Normalize(mean=list(cfg.INPUT.PIXEL_MEAN), std=list(cfg.INPUT.PIXEL_STD))]


def plain_transform(cfg):
    """Resized, as a tensor, and normalised as the others: INPUT's image without augmentation or crop."""
    steps = [T.Resize(_size(cfg), interpolation=_mode(cfg)), T.ToImage(), T.ToDtype(torch.float32, scale=True)]
    return T.Compose([*steps, *normalize(cfg), T.ToPureTensor()])


def _train_steps(cfg, choices):
    size, mode, steps, i = _size(cfg), _mode(cfg), [], cfg.INPUT
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        steps.append(T.Resize(size, interpolation=mode))
    if "random_translation" in choices:
        steps.append(RandomTranslation(size, mode))
    if "random_crop" in choices:
        steps.append(T.RandomCrop(size, padding=i.CROP_PADDING, pad_if_needed=True))
    if "random_resized_crop" in choices:
        steps.append(T.RandomResizedCrop(size, scale=tuple(i.RRCROP_SCALE), interpolation=mode))
    if "random_flip" in choices:
        steps.append(T.RandomHorizontalFlip())
    for name in ("imagenet", "cifar10", "svhn"):
        if f"{name}_policy" in choices:
            steps.append(T.AutoAugment(T.AutoAugmentPolicy(name)))
    if "randaugment" in choices or "randaugment2" in choices:
        steps.append(T.RandAugment(i.RANDAUGMENT_N, i.RANDAUGMENT_M))
    if "randaugment_fixmatch" in choices:
        steps.append(T.RandAugment(i.RANDAUGMENT_N))
    if "colorjitter" in choices:
        steps.append(T.ColorJitter(i.COLORJITTER_B, i.COLORJITTER_C, i.COLORJITTER_S, i.COLORJITTER_H))
    if "randomgrayscale" in choices:
        steps.append(T.RandomGrayscale(p=i.RGS_P))
    if "gaussian_blur" in choices:
        steps.append(T.RandomApply([T.GaussianBlur(i.GB_K)], p=i.GB_P))
    return steps


def _test_steps(cfg):
    size, mode = _size(cfg), cfg.INPUT.RESIZE_MODE
    if mode not in RESIZE_MODES:
        raise unknown_name("INPUT.RESIZE_MODE", mode, RESIZE_MODES)
    if mode == "squash":
        return [T.Resize(size, interpolation=_mode(cfg))]
    return [T.Resize(max(size), interpolation=_mode(cfg)), T.CenterCrop(size)]


def _tensor_steps(cfg, choices, is_train):
    steps = [T.ToImage(), T.ToDtype(torch.float32, scale=True)]
    if is_train and "cutout" in choices:
        steps.append(Cutout(cfg.INPUT.CUTOUT_N, cfg.INPUT.CUTOUT_LEN))
    steps += normalize(cfg)
    if is_train and "gaussian_noise" in choices:
        steps.append(T.RandomApply([T.GaussianNoise(cfg.INPUT.GN_MEAN, cfg.INPUT.GN_STD, clip=False)], p=0.5))
    if "instance_norm" in choices:
        steps.append(InstanceNormalization())
    return [*steps, T.ToPureTensor()]
