"""Helpers under upstream's names, and ours for errors, paths and small files."""

from .errors import ConfigError, MissingFile, UnknownName, UserError, run_main, unknown_name
from .images import read_image
from .io import atomic_path, canonical_json, read_json, sha256_file, sha256_of, write_json, write_text
from .logger import Logger, setup_logger
from .meters import AverageMeter, MetricMeter
from .paths import REPO, cache_root, output_root, slug
from .registry import Registry
from .tools import (
    check_availability,
    check_isfile,
    collect_env_info,
    count_num_param,
    download_url,
    get_most_similar_str_to_a_from_b,
    listdir_nohidden,
    mkdir_if_missing,
    set_random_seed,
    tolist_if_not,
)
from .torchtools import (
    init_network_weights,
    load_checkpoint,
    load_pretrained_weights,
    open_all_layers,
    open_specified_layers,
    resume_from_checkpoint,
    save_checkpoint,
)

__all__ = [
    "REPO",
    "AverageMeter",
    "ConfigError",
    "Logger",
    "MetricMeter",
    "MissingFile",
    "Registry",
    "UnknownName",
    "UserError",
    "atomic_path",
    "cache_root",
    "canonical_json",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "count_num_param",
    "download_url",
    "get_most_similar_str_to_a_from_b",
    "init_network_weights",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "mkdir_if_missing",
    "open_all_layers",
    "open_specified_layers",
    "output_root",
    "read_image",
    "read_json",
    "resume_from_checkpoint",
    "run_main",
    "save_checkpoint",
    "set_random_seed",
    "setup_logger",
    "sha256_file",
    "sha256_of",
    "slug",
    "tolist_if_not",
    "unknown_name",
    "write_json",
    "write_text",
]
