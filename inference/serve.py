"""The page of `cilmp serve`, with Gradio: on this machine, without network, analytics or kept uploads."""

import atexit
import contextlib
import importlib.util
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from dassl.utils.dicom import frames
from dassl.utils.errors import ConfigError, UserError

from . import inputs, serve_html
from .explain import TrainingImages
from .images import pages
from .serve_command import in_url

LARGEST = "64mb"  # of an upload
KEPT = 60  # seconds that an upload lives at most
FONTS = ["system-ui", "sans-serif"]  # of the reader's machine: none is fetched
ONE_AT_A_TIME = threading.Lock()  # `explain` watches towers by changing them for the time of a call


@dataclass
class Among:
    """What similar images are looked for in: of each model its TrainingImages; {file: class} as far as it is known."""

    images: dict = field(default_factory=dict)
    labels: dict = field(default_factory=dict)

    @classmethod
    def read(cls, models, words):
        """Of folders and tables; nothing where there are none.

        Raises:
            UserError: a word that names nothing, no image that can be read.
        """
        if not words:
            return cls()
        files = inputs.files_of(words)
        names = dict.fromkeys(name for model in models for name in model.classes)
        images = {id(model): TrainingImages.read(model, files) for model in {id(m): m for m in models}.values()}
        return cls(images, inputs.classes_of(words, files, names))


def page(models, among=None):
    """The Gradio Blocks of loaded Models, side by side.

    Raises:
        ConfigError: Gradio is missing; a transductive run.
    """
    gr, among = gradio(), among or Among()
    for model in models:
        if model.transductive:
            raise ConfigError(f"{model.method} answers all images together: a page asks about one")
    with gr.Blocks(title="cilmp", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        _html(gr, serve_html.BANNER)
        file = gr.File(label="Drop an image: PNG, JPEG, TIFF, DICOM ...", type="filepath", height=150)
        frame = gr.Number(label="Frame of a file with several: its number, then drop the file again", precision=0,
                          minimum=1, visible=False)  # fmt: skip
        name = _html(gr, "")
        with gr.Row():
            shown = []
            for model in models:
                with gr.Column(min_width=320):  # a phone shows them one below the other
                    shown.append(_html(gr, serve_html.nothing(model)))
        record = gr.JSON(visible=False)
        # the drop zone is emptied for the next image
        file.upload(lambda path, number: _shown(models, path, number, among), [file, frame],
                    [file, frame, name, *shown], api_name=False)  # fmt: skip
        gr.Button(visible=False).click(lambda path: [asked(m, path) for m in models], file, record, api_name="answer")
    return blocks


def _html(gr, value):
    return gr.HTML(value, elem_classes="cilmp", js_on_load=None, apply_default_css=False)


def gradio():
    """Gradio, its analytics off and its files in a folder of this process before it is imported."""
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("a page needs gradio: pip install 'cilmp[serve]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("GRADIO_TEMP_DIR", _place())
    import gradio as gr

    return gr


@cache
def _place():
    """A folder that goes with the process."""
    folder = tempfile.mkdtemp(prefix="cilmp-serve-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def served(models, host, port, token="", among=None):
    """A page that is up. Uploads lie in a folder of this call, which goes with it."""
    gr = gradio()
    with tempfile.TemporaryDirectory(prefix="page-", dir=_place()) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # before the page is made
        blocks = page(models, among)
        try:
            blocks.launch(server_name=in_url(host), server_port=port, auth=("cilmp", token) if token else None,
                          share=False, quiet=True, show_error=True, max_file_size=LARGEST, prevent_thread_lock=True,
                          pwa=False, footer_links=[], css=serve_html.STYLE,
                          theme=gr.themes.Base(font=FONTS, font_mono=["monospace"]))  # fmt: skip
            yield blocks
        finally:
            blocks.close(verbose=False)
            os.environ["GRADIO_TEMP_DIR"] = _place()


def asked(model, path):
    """What the page says of an image, as plain data: {"run", "method", "answer", "probabilities", "set", "unlike",
    "said", "error"}."""
    try:
        return _answer(model, path)[0]
    except UserError as error:
        return {"run": str(model.folder), "method": model.method, "error": _without_place(error, path)}


def _without_place(error, path):
    return str(error).replace(str(path), "the image")


def _answer(model, path, among=()):
    """(record, Explanation)."""
    with ONE_AT_A_TIME:
        found = model.explain(path, among=among)
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


def _shown(models, path, number, among):
    """Values of the page's parts: none in the drop zone, the field for a frame, the image's name, what each run says.

    Args:
        number: of the frame, where the file has several; None: not said.
    """
    several = frames(path)
    image = f"{path}::{number}" if several > 1 and number is not None else path
    title = serve_html.of(Path(path).name, _part_of(path, several, number))
    parts = [None, gradio().update(visible=several > 1), title]
    for model in models:
        try:
            if several > 1 and number is None:
                raise UserError(f"It holds {several} frames: give the number of one above, and drop the file again.")
            record, found = _answer(model, image, among.images.get(id(model), ()))
            parts.append(serve_html.answered(model, record, found, among.labels))
        except UserError as error:
            parts.append(serve_html.failed(model, _without_place(error, path)))
    return parts


def _part_of(path, several, number):
    """Which frame or page of a file is shown, in words; "" where there is one."""
    if several > 1:
        return f"frame {number} of {several}" if number is not None else ""
    return f"the first of {count} pages" if (count := pages(path)) > 1 else ""
