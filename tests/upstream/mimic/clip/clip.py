import torch

__all__ = ["available_models", "load"]
OWNER = "mimic"
_MODELS = {"ViT-B/16": "https://example.invalid/none"}


def _download(url):
    raise RuntimeError(f"no network for {url}")


def available_models():
    return list(_MODELS)


def load(name):
    return torch.load(_download(_MODELS[name]), weights_only=True)["visual.proj"].float()
