"""Helpers under upstream's names, and ours for errors, paths and small files. Each is imported when it is asked for, so
that a command which only reads a word needs no torch."""

import importlib

_HOMES = {
    "errors": ("ConfigError", "MissingFile", "UnknownName", "UserError", "run_main", "unknown_name"),
    "images": ("read_image",),
    "io": ("atomic_path", "canonical_json", "read_json", "sha256_file", "sha256_of", "write_json", "write_text"),
    "logger": ("Logger", "setup_logger"),
    "meters": ("AverageMeter", "MetricMeter"),
    "paths": ("REPO", "cache_root", "output_root", "slug"),
    "registry": ("Registry",),
    "tools": (
        "check_availability", "check_isfile", "collect_env_info", "count_num_param", "download_url",
        "get_most_similar_str_to_a_from_b", "listdir_nohidden", "mkdir_if_missing", "set_random_seed", "tolist_if_not",
    ),
    "torchtools": (
        "init_network_weights", "load_checkpoint", "load_pretrained_weights", "open_all_layers",
        "open_specified_layers", "resume_from_checkpoint", "save_checkpoint", "set_bn_to_eval",
    ),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
