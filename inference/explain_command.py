"""cilmp explain RUN IMAGE --out DIR: why an image is answered as it is, as pictures and words."""

from cilmp.experiments.commands import parser_of
from dassl.utils.io import free_folder

from .predict import add_places

DESCRIPTION = """Why an image is answered as it is: a heat map, what the language model said, which of its rows counted,
words near the learned context, the nearest training images. Pictures, explanation.json and explanation.md.

    cilmp explain output/few_shot/BUSI/CILMP/.../seed1/train_all scan.png --out why --class malignant
    cilmp explain my_bundle scan.dcm --out why --among ~/data/BUSI/images
"""


def parser():
    p = parser_of("explain", DESCRIPTION)
    p.add_argument("run", metavar="RUN", help="folder of a finished run, or a bundle")
    p.add_argument("image", metavar="IMAGE", help="any image file, DICOM too")
    p.add_argument("--out", required=True, metavar="DIR", help="where it goes: a new or empty folder")
    p.add_argument("--class", action="append", default=[], dest="classes", metavar="NAME",
                   help="explain this class, more with more of these (default: the predicted one)")  # fmt: skip
    p.add_argument("--among", nargs="+", default=[], metavar="FOLDER|CSV",
                   help="the training images, to show those nearest to the image")  # fmt: skip
    add_places(p)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    folder = free_folder(args.out)  # before the run is loaded
    from . import inputs
    from .model import load

    files = inputs.files_of(args.among) if args.among else []
    model = load(args.run, args.device, args.weights, args.plugin)
    found = model.explain(args.image, args.classes or None, files)
    found.save(folder)
    print(f"{found.predicted}, probability {found.probabilities[found.predicted]:.3f}. Written: {args.out}")
    return 0
