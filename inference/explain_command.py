"""cilmp explain RUN IMAGE --out DIR: why an image is answered as it is, as pictures and words."""

import argparse
from pathlib import Path

from dassl.utils.errors import UserError

from .predict import add_places

DESCRIPTION = """Why an image is answered as it is: a heat map, what the language model said, which of its rows counted,
words near the learned context, the nearest training images. Pictures, explanation.json and explanation.md.

    cilmp explain output/few_shot/BUSI/CILMP/.../seed1/train_all scan.png --out why --class malignant
    cilmp explain my_bundle scan.dcm --out why --among ~/data/BUSI/images
"""


def parser():
    p = argparse.ArgumentParser("cilmp explain", description=DESCRIPTION,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("run", metavar="RUN", help="folder of a finished run, or a bundle")
    p.add_argument("image", metavar="IMAGE", help="any image file, DICOM too")
    p.add_argument("--out", required=True, metavar="DIR", help="where it goes: a new or empty folder")
    p.add_argument("--class", action="append", default=[], dest="classes", metavar="NAME",
                   help="explain this class, more with more of these (default: the predicted one)")  # fmt: skip
    p.add_argument("--among", nargs="+", default=[], metavar="FOLDER|CSV",
                   help="the training images, to show those nearest to the image")  # fmt: skip
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add_places(p)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    folder = free(args.out)
    from . import inputs
    from .model import load

    files = inputs.files_of(args.among) if args.among else []
    model = load(args.run, args.device, args.weights, args.plugin)
    found = model.explain(args.image, args.classes or None, files)
    found.save(folder)
    print(f"{found.predicted}, probability {found.probabilities[found.predicted]:.3f}. Written: {args.out}")
    return 0


def free(folder):
    """The folder as an absolute path; UserError where it holds something."""
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and not empty: name a new folder")
    return folder
