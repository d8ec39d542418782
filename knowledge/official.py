"""Reading representations as the official CILMP code stores them: a folder of `<class name>.pth`, each (L, D)."""

import pickle
from pathlib import Path

import torch

from dassl.utils.errors import MissingFile, UserError
from dassl.utils.names import plain


def is_official(path):
    """Whether a folder holds .pth files, itself or in its sub-folders, and is no language model."""
    path = Path(path)
    return path.is_dir() and not (path / "config.json").exists() and any([*path.glob("*.pth"), *path.glob("*/*.pth")])


def official_folder(path, dataset):
    """`path`, or its sub-folder of the data set (llm_representations/busi), whatever its case, '-' or '_'."""
    path = Path(path)
    inner = [p for p in sorted(path.iterdir()) if p.is_dir() and plain(p.name) == plain(dataset)]
    if inner:
        return inner[0]
    if any(path.glob("*.pth")):
        return path
    folders = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir()))
    raise MissingFile(f"{path} has no folder {dataset!r} (it has: {folders}); give the folder of .pth files itself")


def read_pth(path):
    """The (L, D) float tensor of one file, fp32. Only tensors are unpickled (weights_only)."""
    try:
        rows = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a file with a plain tensor ({reason}); save it with torch.save(tensor, path)") \
            from None
    if not torch.is_tensor(rows) or rows.ndim != 2 or not rows.is_floating_point() or 0 in rows.shape:
        what = f"{tuple(rows.shape)} {rows.dtype}" if torch.is_tensor(rows) else type(rows).__name__
        raise UserError(f"{path}: expected a float tensor (L rows, D), found {what}")
    return rows.float()


def read_folder(folder):
    """{class name: path} of a folder; the name is the file's, as the official code has it."""
    return {p.name[: -len(".pth")]: p for p in sorted(Path(folder).glob("*.pth"))}
