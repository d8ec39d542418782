"""A backbone as a folder that `local-dir:` reads, without hub and without pickles: for bundles that run elsewhere."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from dassl.utils.errors import UserError
from dassl.utils.hub import HubError
from dassl.utils.io import atomic_path, write_json

from . import hub
from .factory import _of_images, _state_of
from .recipes import CONFIG, resolve
from .registry import OPEN_CLIP_FILES


def hand_on(name, weights, folder):
    """Write configuration, weights (safetensors, as they are in their file) and vocabulary of a backbone.

    Raises:
        UserError: random weights, which are no file; a vocabulary, or the shape of a BERT, that is not to be had.
    """
    recipe, folder = resolve(name, weights), Path(folder)
    if recipe.source[0] == "random":
        raise UserError(f"backbone {recipe.name} has random weights: there is no file to hand on")
    text = recipe.config["text_cfg"]
    if recipe.bert is None and text.get("hf_model_name"):
        raise UserError(f"backbone {recipe.name}: the shape of its text tower {text['hf_model_name']} is read from the "
                        f"hub, so a copy would not work without it")  # fmt: skip
    state = {k: torch.tensor(v) for k, v in recipe.extra.items()} | _state_of(recipe)[0]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / OPEN_CLIP_FILES[0]) as temporary:
        save_file({k: v.contiguous().clone() for k, v in state.items()}, str(temporary))
    write_json({"model_cfg": recipe.config, "preprocess_cfg": _of_images(recipe)}, folder / CONFIG)
    if source := text.get("hf_tokenizer_name"):
        _copy_vocabulary(recipe, source, folder)


def _copy_vocabulary(recipe, source, folder):
    """Files of the tokenizer: beside the checkpoint, else those of its repository."""
    beside = Path(recipe.source[1]).parent if recipe.source[0] == "file" else None
    there = beside is not None and any((beside / f).is_file() for f in ("tokenizer_config.json", "vocab.txt"))
    try:
        place = beside if there else hub.tokenizer_folder(source)
    except HubError as error:
        raise UserError(f"the vocabulary of backbone {recipe.name} ({source}) is not here, and {error}") from None
    for name in hub.TOKENIZER:
        if (place / name).is_file():
            shutil.copy(place / name, folder / name)
