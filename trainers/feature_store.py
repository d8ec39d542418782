"""Features on disk: made once among all processes of a machine, mapped into memory, bounded.

    <cache>/features/<key>.safetensors      (N, d) float32, and the SHA-256 of its bytes
    <cache>/features/<key>.lock             while somebody makes it

A file is written whole or not at all; a broken one (a disk's fault) is made anew. Beyond the bound, files go that were
not read for longest; whoever has one mapped keeps it.
"""

import contextlib
import hashlib
import os

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dassl.utils.errors import Unwritable
from dassl.utils.io import atomic_path
from dassl.utils.paths import cache_root

ROOM = 0.9  # of the bound that is left filled when it was reached, so that not every file removes another


class FeatureStore:
    """Features of one machine. limit: bytes they may take together."""

    complained = False  # a full disk is told once a process

    def __init__(self, limit):
        self.folder, self.limit = cache_root() / "features", limit

    def path(self, key):
        return self.folder / f"{key}.safetensors"

    def read(self, key):
        """(N, d) float32, mapped; None where there is none (any more)."""
        path = self.path(key)
        try:
            with safe_open(path, "pt") as f:
                features, told = f.get_tensor("features"), (f.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            told, features = None, torch.empty(0)
        if told != digest(features):
            print(f"{path} is broken: its features are computed anew")
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # when it was last used
        return features

    def make(self, key, compute):
        """What compute() gives, kept if there is room; None where another process makes it, or has made it."""
        path = self.path(key)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            self._complain(error)
            return compute()
        try:
            if os.access(path, os.R_OK):
                return None
            features = compute()
            self._keep(features, path)
            return features
        finally:
            # Removed while held: who opened it before finds the features when it gets the lock.
            path.with_suffix(".lock").unlink(missing_ok=True)
            lock.release()

    def _keep(self, features, path):
        size = features.numel() * features.element_size()
        if size > self.limit:
            return
        try:
            self._make_room(size)
            with atomic_path(path) as temporary:
                save_file({"features": features}, str(temporary), metadata={"sha256": digest(features)})
        except Unwritable as error:
            self._complain(error)

    def _make_room(self, size):
        """Remove what was not used for longest, where `size` more bytes would pass the bound."""
        kept = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                kept.append((facts.st_mtime_ns, facts.st_size, path))
        total, before = sum(n for _, n, _ in kept) + size, len(kept)
        if total <= self.limit:
            return
        kept.sort(reverse=True)
        while kept and total > ROOM * self.limit:
            _, n, path = kept.pop()
            path.unlink(missing_ok=True)
            total -= n
        print(f"kept features reach {self.limit / 2**30:g} GiB (TRAIN.FEATURES_GIB): removed {before - len(kept)} of "
              f"{before}, those unused for longest")  # fmt: skip

    def _complain(self, error):
        if not FeatureStore.complained:
            print(f"warning: features are not kept, and computed by every run: {error}")
        FeatureStore.complained = True


def digest(tensor):
    """SHA-256 (hex) of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
