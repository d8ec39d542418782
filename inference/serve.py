"""The page of `cilmp serve`, with Gradio: on this machine, without network, analytics or kept uploads."""

import contextlib
import importlib.util
import os
import tempfile

import torch

from dassl.utils.errors import ConfigError, UserError

BANNER = """**No medical device.** Research software: it answers every image with one of its classes, whatever is shown,
and must not be used to diagnose, treat or decide anything about a person."""
LARGEST = "64mb"  # of an upload
KEPT = 60  # seconds that an upload lives at most
FONTS = ["system-ui", "sans-serif"]  # of the reader's machine: none is fetched


def page(models):
    """The Gradio Blocks of loaded Models, side by side.

    Raises:
        ConfigError: Gradio is missing; a transductive run.
    """
    gr = gradio()
    for model in models:
        if model.transductive:
            raise ConfigError(f"{model.method} answers all images together: a page asks about one")
    with gr.Blocks(title="cilmp", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown(BANNER)
        file = gr.File(label="An image (PNG, JPEG, TIFF, DICOM ...)", type="filepath")
        shown = []
        with gr.Row():
            for model in models:
                with gr.Column():
                    gr.Markdown(f"### {model.method} on {model.spec['dataset']}\n{model.folder}")
                    shown += [gr.Label(label="probability", num_top_classes=min(len(model.classes), 8)), gr.Markdown(),
                              gr.Image(label="what moved the answer", type="pil", interactive=False)]  # fmt: skip
        record = gr.JSON(visible=False)
        file.change(lambda path: _shown(models, path), file, shown, api_name=False, show_progress="minimal")
        gr.Button(visible=False).click(lambda path: [asked(m, path) for m in models], file, record, api_name="answer")
    return blocks


def gradio():
    """Gradio, its analytics off before it is imported."""
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("a page needs gradio: pip install 'cilmp[serve]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    return gr


@contextlib.contextmanager
def served(models, host, port, token=""):
    """A page that is up. Uploads lie in a folder of this call, which goes with it."""
    gr = gradio()
    with tempfile.TemporaryDirectory(prefix="cilmp-serve-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # before the page is made
        blocks = page(models)
        try:
            blocks.launch(server_name=host, server_port=port, auth=("cilmp", token) if token else None, share=False,
                          quiet=True, show_error=True, max_file_size=LARGEST, prevent_thread_lock=True, pwa=False,
                          footer_links=["api"], theme=gr.themes.Base(font=FONTS, font_mono=["monospace"]))  # fmt: skip
            yield blocks
        finally:
            blocks.close(verbose=False)
            del os.environ["GRADIO_TEMP_DIR"]


def asked(model, path):
    """What the page says of an image, as plain data: {"run", "method", "answer", "probabilities", "set", "unlike",
    "said", "error"}."""
    try:
        return _answer(model, path)[0]
    except UserError as error:
        return {"run": str(model.folder), "method": model.method, "error": _without_place(error, path)}


def _without_place(error, path):
    return str(error).replace(str(path), "the image")


def _answer(model, path):
    """(record, Explanation)."""
    found = model.explain(path)
    batch = next(model.read(path))
    with torch.no_grad():
        logits, features = model.answers(batch)
    judged = model.judged(logits.cpu().numpy(), features.cpu().numpy())
    said = found.classes[found.predicted].said.get("answers", [])
    return {
        "run": str(model.folder), "method": model.method, "answer": found.predicted,
        "probabilities": found.probabilities, "set": judged.get("set", [None])[0],
        "unlike": judged.get("unlike", [None])[0], "said": said[:3],
    }, found  # fmt: skip


def _shown(models, path):
    """Values of the page's parts: of each run, bars, words, heat map."""
    if not path:
        return [None, "", None] * len(models)
    parts = []
    for model in models:
        try:
            record, found = _answer(model, path)
            parts += [record["probabilities"], in_words(record, found), found.picture(found.predicted)]
        except UserError as error:
            parts += [None, f"**{_without_place(error, path)}**", None]
    return parts


def in_words(record, found):
    """The prediction set, the LLM's sentence, the check of the map, as Markdown."""
    if record["set"] is None:
        lines = ["No prediction set: this run is not calibrated (`cilmp calibrate`)."]
    else:
        lines = [f"Prediction set: {', '.join(record['set']) or 'empty'}."]
    if record["unlike"]:
        lines.append("**Unlike the training images.**")
    lines += [f"> {' '.join(sentence.split())}" for sentence in record["said"]]
    check = found.classes[found.predicted].check
    sound = "says something" if check["deletion"] < check["random"] else "says no more than chance"
    lines.append(f"The map {sound}: {check['deletion']:.2f} of probability on average while the image is taken away by "
                 f"it, {check['random']:.2f} in random order.")  # fmt: skip
    return "\n\n".join(lines)
