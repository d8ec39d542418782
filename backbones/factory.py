"""`load`: find the recipe of a name, read the weights, build the architecture, copy them in, wrap."""

import copy
import logging
import tempfile
from pathlib import Path

import torch

from dassl.utils.errors import ConfigError, UserError
from dassl.utils.hub import HubError

from . import hub
from .checkpoints import MARKERS, copy_into, read_pmc_clip, read_state
from .families import image_parts, text_parts
from .model import PromptableCLIP
from .recipes import resolve
from .registry import BIOMED_BERT
from .tokens import SPECIAL, clip_bpe, kind_of, local_tokenizer, stand_in, told, transformers_tokenizer

log = logging.getLogger(__name__)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "amp": torch.float32}


def load(name, weights=None, precision="fp32", device="cpu"):
    """A PromptableCLIP: frozen, eval mode.

    Args:
        name: see recipes.py; `known()` lists names.
        weights: see there.
        precision: "fp32", "fp16", "bf16"; "amp" keeps fp32 weights.
        device: torch device or name.

    Raises:
        UnknownName, MissingFile, UserError: one line that says what to do.
    """
    if precision not in DTYPES:
        raise ConfigError(f"precision {precision!r}: choose {', '.join(DTYPES)}")
    recipe = resolve(name, weights)
    if recipe.source[0] == "random":
        model, tokenizer = _build(recipe, seed=recipe.source[1]), tokenizer_of(recipe)
    else:
        state, label = _state_of(recipe)  # first: without the files there is nothing to build for
        _check_activation(recipe, state, label)
        model, tokenizer = _build(recipe), tokenizer_of(recipe)
        copy_into(model, {**{k: torch.tensor(v) for k, v in recipe.extra.items()}, **state}, label)
    clip = wrap(model, tokenizer, facts_of(recipe)).to(device)
    clip.text.to(DTYPES[precision])
    clip.image.to(DTYPES[precision])  # the logit scale stays fp32
    return clip


def wrap(model, tokenizer, facts):
    """A PromptableCLIP around an open_clip model (whose modules it takes over)."""
    from .text import TextTower
    from .vision import ImageTower

    model = model.eval()
    text, image = TextTower(text_parts(model, tokenizer)), ImageTower(image_parts(model.visual))
    return PromptableCLIP(text, image, model.logit_scale.detach(), facts)


def input_facts(name, weights=None):
    """dict(size, mean, std, interpolation, resize_mode) of a backbone, without building it."""
    recipe = resolve(name, weights)
    return {"size": recipe.size, **_of_images(recipe)}


def facts_of(recipe):
    return {"name": recipe.name, **_of_images(recipe)}


def _of_images(recipe):
    return {k: getattr(recipe, k) for k in ("mean", "std", "interpolation", "resize_mode")}


def _build(recipe, seed=0):
    """`build` of a recipe; where nothing says how its BERT is shaped, the BERT's own repository does."""
    config = copy.deepcopy(recipe.config)
    if recipe.bert is None and (source := config["text_cfg"].get("hf_model_name")):
        config["text_cfg"]["hf_model_name"] = str(hub.bert_folder(recipe.name, source))
    try:
        return build(config, recipe.bert, seed)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OSError) as error:  # of a wrong value
        if not recipe.described or isinstance(error, UserError):
            raise
        reason = f"{type(error).__name__}: {told(error)}"
        raise UserError(f"{recipe.described} describes no model that open_clip can build ({reason})") from None


def build(config, bert=None, seed=0):
    """A randomly initialised open_clip model of a configuration; the global random state is left alone.

    Args:
        config: open_clip's model configuration.
        bert: BERT configuration fields, so that a text tower of BERT's shape needs no hub.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    config = copy.deepcopy(config)
    text, vision = config["text_cfg"], config["vision_cfg"]
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        if "hf_model_name" in text:
            text["hf_model_pretrained"] = False
            if bert is not None:
                text["hf_model_name"] = _write_bert(bert, folder)
        model = (CustomTextCLIP if custom else CLIP)(**config)
    if "hf_model_name" in text:  # open_clip would say 512, the size of BERT's table
        model.context_length = text.get("context_length", 77)
    return model.eval()


def _write_bert(fields, folder):
    """A folder that transformers reads a BERT configuration from."""
    from transformers import BertConfig

    BertConfig(**fields).save_pretrained(folder)
    return folder


def fetch(name, weights=None):
    """Have the weight files of a name on this machine (`load` has, too), so that `weights_sha256` knows them."""
    _files_of(resolve(name, weights))


def _files_of(recipe):
    """Paths of the weight files of a recipe, those of a hub fetched; none of random weights."""
    kind, *where = recipe.source
    if kind == "tag":
        return [hub.pretrained_file(recipe.name, where[0])]
    if kind == "hub":
        return hub.hub_files(recipe.name, *where, one=recipe.layout != "pmc_clip")
    if kind == "file" and recipe.layout == "pmc_clip" and Path(where[0]).is_dir():
        return [Path(where[0]) / name for name in recipe.parts]
    return where if kind == "file" else []


def _state_of(recipe):
    """(tensors, what to call them in messages)."""
    files = _files_of(recipe)
    if len(files) > 1:
        return read_pmc_clip(files), recipe.name if recipe.source[0] == "hub" else recipe.source[1]
    if Path(files[0]).is_dir():
        raise UserError(f"{files[0]} is a folder: name the checkpoint file in it")
    return read_state(files[0]), files[0]


def _check_activation(recipe, state, label):
    """OpenAI's own files are known by the sizes they carry beside the weights."""
    if any(m in state for m in MARKERS) and not recipe.config.get("quick_gelu"):
        raise UserError(
            f"{label} is in OpenAI's layout, trained with quick GELU, and {recipe.name} is built with GELU: name the "
            "architecture whose name ends in -quickgelu (or set quick_gelu in its configuration)"
        )


def tokenizer_of(recipe):
    """The recipe's tokenizer; random weights of architectures with a vocabulary of their own get a stand-in.

    Raises:
        UserError: a vocabulary that is neither here nor reachable.
    """
    text = recipe.config["text_cfg"]
    source = text.get("hf_tokenizer_name")
    if not source:
        return clip_bpe()
    if recipe.source[0] == "random":
        log.warning("%s: random weights, so a stand-in tokenizer (its ids are no published vocabulary's)", recipe.name)
        return stand_in(kind_of(text), (recipe.bert or {}).get("vocab_size") or text.get("vocab_size", 30522))
    kwargs = text.get("tokenizer_kwargs") or {}
    if recipe.source[0] == "file":
        beside = Path(recipe.source[1])
        folder = beside if beside.is_dir() else beside.parent
        if found := local_tokenizer(folder, **kwargs):
            _check_vocabulary(found, source, (recipe.bert or {}).get("vocab_size"), folder)
            return found
    try:
        return transformers_tokenizer(hub.tokenizer_folder(source), **kwargs)
    except HubError as error:
        raise UserError(
            f"the vocabulary of backbone {recipe.name} ({source}) is not on this machine and {error}: put its "
            "vocab.txt (or tokenizer_config.json and all) beside the checkpoint, or set BACKBONE=demo"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the vocabulary {source} of {recipe.name} cannot be read: {told(error)}") from None


def _check_vocabulary(tokenizer, source, rows, folder):
    """Whether a tokenizer found beside a checkpoint can be `source`'s; rows: of the token table, None if unknown."""
    complaint = f"the vocabulary in {folder} is not that of the text tower ({source})"
    if rows and tokenizer.size > rows:
        raise UserError(f"{complaint}: it has {tokenizer.size} words, the tower's table {rows}")
    if source == BIOMED_BERT:
        start, end, pad = tokenizer(["", ""], context_length=3)[0].tolist()
        if (pad, start, end) != SPECIAL["bert"]:
            wanted = "{1}, {2}, {0}".format(*SPECIAL["bert"])
            raise UserError(f"{complaint}: its start, end and padding are {start}, {end}, {pad}, there {wanted}")
