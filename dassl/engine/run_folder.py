"""A run's folder: its frozen config, and the refusal to mix two runs in one."""

from pathlib import Path

import yaml

from dassl.config import keys_of
from dassl.utils.errors import UserError
from dassl.utils.io import read_json_object, sha256_of, write_json, write_text

# Where a run writes, where the data lies and how fast it goes do not change what it is.
NOT_THE_RUN = ("OUTPUT_DIR", "RESUME", "DATASET.ROOT", "VERBOSE", "DATALOADER.NUM_WORKERS", "TRAIN.PRINT_FREQ",
               "TRAIN.CACHE_FEATURES", "TRAIN.FEATURES_GIB", "TRAIN.WANDB", "TRAIN.DETERMINISTIC",
               "TEST.WHOLE_VAL")  # fmt: skip


def settings(cfg, leave_out=()):
    """{dotted key: value} of what a run is, without paths: of TRAINER its own method's node; all of them where the
    method is of a checkout (RUN.CHECKOUT), whose trainers read each other's."""
    own = None if "CHECKOUT" in cfg.RUN else cfg.TRAINER.NAME.upper()
    table = {}
    for key in keys_of(cfg):
        parts = key.split(".")
        if key in NOT_THE_RUN or key in leave_out:
            continue
        if parts[0] == "TRAINER" and len(parts) > 2 and own and parts[1] != own:
            continue
        node = cfg
        for part in parts:
            node = node[part]
        table[key] = list(node) if isinstance(node, tuple) else node
    return table


def config_hash(cfg, leave_out=("SEED",)):
    """SHA-256 (hex) of the settings; by default without the seed."""
    return sha256_of(settings(cfg, leave_out))


def claim_run_folder(cfg, reads=None):
    """Write OUTPUT_DIR/config.yaml and reads.json, or refuse if the folder holds another run.

    Args:
        reads: {what: hash} of what the run reads, as it is now; None: not known, not judged.

    Raises:
        UserError: the settings that differ, or what the folder's run read that is no longer the same.
    """
    _claim_reads(Path(cfg.OUTPUT_DIR) / "reads.json", reads)
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    mine = settings(cfg)
    if path.is_file():
        theirs = flatten(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        changed = [k for k in mine if k in theirs and _plain(theirs[k]) != _plain(mine[k])]
        if changed:
            listing = "; ".join(f"{k} {theirs[k]!r} there, {mine[k]!r} now" for k in changed[:5])
            raise UserError(
                f"{cfg.OUTPUT_DIR} holds another run ({listing}{' ...' if len(changed) > 5 else ''}); "
                f"name another --output-dir or remove that folder"
            )
        return
    write_text(cfg.dump(), path)


def _claim_reads(path, reads):
    if reads is None:
        return
    before = read_json_object(path) if path.is_file() else reads
    if changed := sorted(k for k in {*before, *reads} if before.get(k) != reads.get(k)):
        raise UserError(
            f"{path.parent} holds a run that read another {', '.join(changed)} than what is there now (changed since); "
            f"name another --output-dir or remove that folder"
        )
    if not path.is_file():
        write_json(reads, path)


def flatten(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _plain(value):
    return list(value) if isinstance(value, (list, tuple)) else value
