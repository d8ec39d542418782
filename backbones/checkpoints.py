"""Reading weight files: nothing in them is ever run, and nothing is copied that does not fit.

    .safetensors                      as it is
    .pt .pth .bin, tensors            torch.load(weights_only=True); OpenAI's layout, open_clip's, "module." prefix
    .pt, TorchScript (OpenAI's own)   holds code: loaded only if its SHA-256 is the published one
"""

import contextlib
import pickle
import zipfile
from pathlib import Path

import torch

from dassl.utils.errors import MissingFile, UserError
from dassl.utils.io import sha256_file

MARKERS = ("input_resolution", "context_length", "vocab_size")  # OpenAI's files carry these beside the weights
FLAT_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
BUFFERS = ("attn_mask", "position_ids", "token_type_ids")  # kept by older versions, rebuilt by newer ones


def read_state(path):
    """Tensors of a checkpoint file, {name: tensor}, prefixes such as "module." removed.

    Raises:
        MissingFile, UserError: not there, truncated, another format, or TorchScript of unknown origin.
    """
    path = Path(path).expanduser()
    if path.is_dir() or not path.exists():
        raise MissingFile(f"no such checkpoint file: {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if _is_torchscript(path):
        return _read_torchscript(path)
    try:
        with _numpy_scalars():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from None
    return _tensors(content, path)


def _read_safetensors(path):
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _tensors(load_file(path), path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path, error):
    reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return UserError(f"{path} is not a readable checkpoint (cut off while copying, or another format): {reason}")


@contextlib.contextmanager
def _numpy_scalars():
    """Training checkpoints often hold a best score as a numpy number; numbers are harmless."""
    import numpy as np

    dtypes = [type(np.dtype(t)) for t in (np.float32, np.float64, np.int64)]
    rebuild = np.float64(0).__reduce__()[0]  # numpy 1 and 2 keep it in different places
    with torch.serialization.safe_globals([rebuild, np.dtype, *dtypes]):
        yield


def _tensors(content, path):
    """The tensors of whatever a checkpoint wraps them in."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if torch.is_tensor(content):
        return {"": content}
    if not isinstance(content, dict) or not any(torch.is_tensor(v) for v in content.values()):
        raise UserError(f"{path} holds no weights (expected names with tensors)")
    state = {k: v for k, v in content.items() if torch.is_tensor(v)}
    while state and all(k.startswith("module.") for k in state):
        state = {k[len("module.") :]: v for k, v in state.items()}
    return state


def _is_torchscript(path):
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(n.endswith("/constants.pkl") for n in archive.namelist())


def published_hashes():
    """{SHA-256: file name} of OpenAI's weights, from the addresses in open_clip's table."""
    from open_clip.pretrained import get_pretrained_url, list_pretrained

    urls = {get_pretrained_url(model, tag) for model, tag in list_pretrained()}
    return {u.split("/")[-2]: u.split("/")[-1] for u in urls if "openaipublic" in u}


def _read_torchscript(path):
    if sha256_file(path) not in published_hashes():
        raise UserError(
            f"{path} is a TorchScript archive, which holds code, and its SHA-256 is none that OpenAI published: not "
            "loaded; leave MODEL.BACKBONE.WEIGHTS empty so that open_clip fetches the weights, or give a state dict"
        )
    return dict(torch.jit.load(path, map_location="cpu").state_dict())


def read_pmc_clip(files):
    """PMC-CLIP's three files (image tower, text tower, projection) as one open_clip state."""
    vision, text, projection = (read_state(f) for f in files)
    state = {f"visual.{k}": v for k, v in vision.items()}
    state.update({f"text.transformer.{k}": v for k, v in text.items()})
    if len(projection) != 1:
        raise UserError(f"{files[2]} holds {len(projection)} tensors, PMC-CLIP's projection file holds one")
    state["text.proj.weight"] = next(iter(projection.values())).T.contiguous()
    return state


def copy_into(model, state, path):
    """Copy a state into an open_clip model after checking every name and shape.

    Raises:
        UserError: tensors missing, unknown or of another shape, with the first few of each; NaN or infinity.
    """
    own = model.state_dict()
    state = _as_layout_of(own, state)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(state[k].shape)} there, {tuple(own[k].shape)} here"
        for k in sorted(own.keys() & state.keys())
        if state[k].shape != own[k].shape
    ]
    complaints = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if complaints:
        raise UserError(f"{path} is not a checkpoint of this architecture: tensors {'; '.join(complaints)}")
    if burst := [k for k, v in sorted(state.items()) if not bool(v.sum(dtype=torch.float32).isfinite())]:
        raise UserError(f"{path} holds weights that are no numbers: tensors {len(burst)} not finite ({burst[0]})")
    model.load_state_dict(state)


def _as_layout_of(own, state):
    """`state` under the names of a model's own state: text tower flat or under "text."."""
    state = {k: v for k, v in state.items() if k not in MARKERS and k.split(".")[-1] not in BUFFERS}
    state = {("text." + k[len("text_encoder.") :] if k.startswith("text_encoder.") else k): v for k, v in state.items()}
    nested = any(k.startswith("text.") for k in own)
    if nested and not any(k.startswith("text.") for k in state):
        state = {("text." + k if k.startswith(FLAT_TEXT) else k): v for k, v in state.items()}
    elif not nested:
        state = {k.removeprefix("text."): v for k, v in state.items()}
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in own:
            state[name] = state[name].reshape(own[name].shape)
    if "logit_bias" not in own:
        state.pop("logit_bias", None)
    fill = {k: v for k, v in own.items() if k == "logit_bias" or k.endswith("num_batches_tracked")}
    return {**fill, **state}


def architecture_of(state, path):
    """open_clip configuration that an OpenAI-layout state belongs to, read off its shapes.

    Raises:
        UserError: no such layout; or no sign of OpenAI's own file, so that the activation is unknown.
    """
    if "visual.conv1.weight" not in state or "token_embedding.weight" not in state:
        raise UserError(f"{path} is not in OpenAI's layout: name its architecture too, as MODEL::{path}")
    if not any(m in state for m in MARKERS):
        raise UserError(
            f"{path} does not say which activation it was trained with: name its architecture too, as "
            f"ViT-B-16::{path} (GELU) or ViT-B-16-quickgelu::{path} (OpenAI's)"
        )
    width = state["ln_final.weight"].shape[0]
    return {
        "embed_dim": state["text_projection"].shape[1],
        "quick_gelu": True,
        "vision_cfg": _vision_of(state),
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "width": width,
            "heads": width // 64,
            "layers": _count(state, "transformer.resblocks.", 2),
        },
    }


def _vision_of(state):
    if "visual.proj" not in state:
        side = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = [_count(state, f"visual.layer{i}.", 2) for i in (1, 2, 3, 4)]
        return {"layers": layers, "width": state["visual.layer1.0.conv1.weight"].shape[0], "image_size": side * 32}
    patch = state["visual.conv1.weight"].shape[-1]
    side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "layers": _count(state, "visual.transformer.resblocks.", 3),
        "width": state["visual.conv1.weight"].shape[0],
        "patch_size": patch,
        "image_size": patch * side,
    }


def _count(state, prefix, place):
    """How many different numbers stand at a place of the names with a prefix."""
    return len({k.split(".")[place] for k in state if k.startswith(prefix)})
