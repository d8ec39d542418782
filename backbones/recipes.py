"""From the name of a backbone to its recipe: architecture, weights, and what images it expects.

    name        a row of registry.py, MODEL::TAG, MODEL::FILE, hf-hub:ORG/REPO, local-dir:PATH or a checkpoint file
    weights     None: what the name stands for; a file; "random" or "random:SEED": the true architecture with
                random weights, without any download
"""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

from dassl.utils.errors import ConfigError, MissingFile, UserError, unknown_name
from dassl.utils.io import read_json, read_json_object

from . import hub
from .checkpoints import architecture_of, read_state
from .registry import BERT_BASE, BIOMED_BERT, OPEN_CLIP_FILES, OPENAI_MEAN, OPENAI_STD, ROWS
from .supported import check_supported

CONFIG = "open_clip_config.json"
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


@dataclass
class Recipe:
    """All that is needed to build one backbone.

    config: open_clip's model configuration. bert: BERT configuration fields, or None.
    source: what the weights come from: ("random", seed), ("file", path), ("tag", table entry),
        ("hub", repository, files).
    layout: how files hold the weights (see registry.Row); parts: names of the files where there are several.
    described: the file that the configuration was read from, "" for those of open_clip and the registry.
    """

    name: str
    config: dict
    source: tuple
    bert: dict = None
    mean: tuple = OPENAI_MEAN
    std: tuple = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    extra: dict = field(default_factory=dict)
    layout: str = "state"
    parts: tuple = ()
    described: str = ""

    @property
    def size(self):
        size = self.config["vision_cfg"].get("image_size", 224)
        return size if isinstance(size, int) else size[0]


def resolve(name, weights=None):
    """The Recipe of a name.

    Raises:
        UnknownName: with the nearest known name.
        UserError: an architecture that is not supported.
    """
    name, weights = str(name).strip(), str(weights).strip() if weights else None
    if name in ROWS:
        recipe = _from_row(name, ROWS[name], weights)
    elif "::" in name:
        recipe = _from_pair(name, *name.split("::", 1))
    elif name.startswith("hf-hub:"):
        recipe = _from_hub(name)
    elif name.startswith("local-dir:"):
        recipe = _from_local_dir(Path(name.removeprefix("local-dir:")).expanduser(), weights)
    elif Path(name).suffix in SUFFIXES:
        recipe = _from_file(Path(name).expanduser())
    else:
        recipe = _from_open_clip(name, weights)
    check_supported(recipe.name, recipe.config)
    return _with_weights(recipe, weights)


def _from_row(name, row, weights):
    if row.folder:
        return _from_folder(name, Path(__file__).parent / row.folder)
    if row.own_config and not _is_random(weights):
        if not weights:
            return replace(_from_hub(f"hf-hub:{row.hub[0]}"), name=name)
        recipe = _from_file(Path(weights).expanduser())
        return replace(recipe, name=f"{name}-{recipe.name}")
    config = _open_clip_config(row.arch) if isinstance(row.arch, str) else copy.deepcopy(row.arch)
    source = ("hub", *row.hub) if row.hub else ("tag", _table_entry(row.arch, row.tag))
    parts = row.hub[1] if row.layout == "pmc_clip" else ()
    facts = row.bert, row.mean, row.std, row.interpolation, row.resize_mode, row.extra
    return Recipe(name, config, source, *facts, layout=row.layout, parts=parts)


def _from_folder(name, folder):
    facts = read_json(folder / "preprocess.json")
    source = ("file", folder / "model.safetensors")
    return Recipe(
        name, read_json(folder / "model.json"), source, None,
        tuple(facts["mean"]), tuple(facts["std"]), facts["interpolation"],
    )  # fmt: skip


def _from_pair(name, model, weights):
    """MODEL::TAG, MODEL::FILE or MODEL::random."""
    import open_clip

    config = _open_clip_config(model)
    if weights.split(":")[0] == "random" or Path(weights).suffix in SUFFIXES:
        tags = open_clip.list_pretrained_tags_by_model(model)  # images as its first published weights expect them
        facts = _facts(open_clip.get_pretrained_cfg(model, tags[0])) if tags else {}
        name = name if weights.startswith("random") else f"{model}-{Path(weights).stem}"
        return Recipe(name, config, _source(weights), **facts)
    entry = _table_entry(model, weights)
    if entry.get("quick_gelu"):
        config["quick_gelu"] = True
    return Recipe(name, config, ("tag", entry), **_facts(entry))


def _facts(entry):
    """Those of mean, std, interpolation and resize_mode that a table entry or preprocessing configuration gives."""
    facts = {k: entry[k] for k in ("mean", "std", "interpolation", "resize_mode") if entry.get(k)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}


def _from_open_clip(name, weights):
    """A bare open_clip model name: the weights must be said."""
    import open_clip

    if name not in open_clip.list_models():
        raise unknown_name(
            "backbone", name, ROWS,
            "Or MODEL::TAG of open_clip, MODEL::FILE, hf-hub:ORG/REPO, local-dir:PATH, or a checkpoint file.",
        )
    if not weights:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none published"
        raise UserError(f"backbone {name}: say which weights, as {name}::TAG; tags: {tags}")
    return _from_pair(f"{name}::{weights}", name, weights)


def _from_hub(name):
    repository = name.removeprefix("hf-hub:")
    (path,) = hub.hub_files(name, repository, (CONFIG,))
    return _from_json(name, path, ("hub", repository, OPEN_CLIP_FILES))


def _from_local_dir(folder, weights):
    """What open_clip writes to a folder (`push_to_hf_hub`, `save_for_hf`): configuration, weights, tokenizer files."""
    if not folder.is_dir():
        raise MissingFile(f"no such folder: {folder}")
    there = [folder / f for f in OPEN_CLIP_FILES if (folder / f).is_file()]
    if not (folder / CONFIG).is_file():
        raise MissingFile(f"{folder} holds no {CONFIG}: name the checkpoint file in it, as MODEL::FILE")
    if not there and not weights:
        raise MissingFile(f"{folder} holds none of the weights {', '.join(OPEN_CLIP_FILES)}")
    return _from_json(folder.resolve().name, folder / CONFIG, ("file", (there or [folder])[0]))


def _from_json(name, path, source):
    """Recipe of an open_clip_config.json: model_cfg and preprocess_cfg.

    Raises:
        UserError: no such configuration.
    """
    content = read_json_object(path)
    config, facts = content.get("model_cfg", content), content.get("preprocess_cfg", {})
    parts = [config.get(k) for k in ("text_cfg", "vision_cfg")] if isinstance(config, dict) else [None]
    if not all(isinstance(p, dict) for p in [*parts, facts]):
        raise UserError(f"{path}: the configuration is none of open_clip's (model_cfg with vision_cfg and text_cfg)")
    bert = BERT_BASE if config["text_cfg"].get("hf_model_name") == BIOMED_BERT else None
    return Recipe(name, config, source, bert, **_facts(facts), described=str(path))


def _from_file(path):
    if not path.is_file():
        raise MissingFile(f"no such checkpoint file: {path}")
    for beside in (path.with_suffix(".json"), path.parent / CONFIG):
        if beside.is_file():
            return _from_json(path.stem, beside, ("file", path))
    return Recipe(path.stem, architecture_of(read_state(path), path), ("file", path))


def _with_weights(recipe, weights):
    """The recipe with other weights than the name stands for."""
    if not weights or recipe.source == _source(weights):
        return recipe
    if "::" in recipe.name and recipe.name.endswith("::" + weights):
        return recipe
    recipe.source = _source(weights)
    recipe.name += "-" + (weights if recipe.source[0] == "random" else Path(weights).stem)
    return recipe


def _is_random(weights):
    return bool(weights) and (weights == "random" or weights.startswith("random:"))


def _source(weights):
    if _is_random(weights):
        seed = weights.partition(":")[2] or "0"
        if not seed.isdigit():
            raise ConfigError(f"weights {weights!r}: the seed must be a whole number, as in random:1")
        return ("random", int(seed))
    path = Path(weights).expanduser()
    if not path.exists():
        raise MissingFile(f"no such checkpoint: {path} (weights are a file, or random, or random:SEED)")
    return ("file", path)


def _open_clip_config(model):
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise unknown_name("open_clip model", model, open_clip.list_models())
    return config


def _table_entry(model, tag):
    import open_clip

    if not open_clip.is_pretrained_cfg(model, tag):
        raise unknown_name(f"pretrained tag of {model}", tag, open_clip.list_pretrained_tags_by_model(model))
    return open_clip.get_pretrained_cfg(model, tag)
