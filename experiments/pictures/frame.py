"""The frame of every picture: a print column's width, colours that colour-blind readers tell apart, words that fit, and
files (SVG and PNG) that are the same bytes for the same numbers.

No pyplot: figures are objects, nothing is kept between them.
"""

import contextlib
import itertools
from functools import cache
from pathlib import Path

import numpy as np

from dassl.utils.io import atomic_path

WIDTH = 7.0  # inches, the text of a page
# Okabe and Ito (2008), black last, yellow left out as it is lost on paper; then other lines and markers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vP*"
QUIET = "#767676"
FONT = "DejaVu Sans"  # comes with matplotlib
MORE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei",
              "PingFang SC", "Arial Unicode MS", "Noto Sans")  # for letters it has not, where one is installed
TITLE, LABEL = 9, 8  # points
DPI = 150


@contextlib.contextmanager
def style():
    """Everything is drawn and saved within: fonts, colours, no mathematics in names, a fixed salt of SVG's ids."""
    import matplotlib
    from cycler import cycler

    n = len(COLOURS)  # another marker for each round of the colours
    cycle = cycler(color=COLOURS * len(LINES), linestyle=[line for line in LINES for _ in COLOURS],
                   marker=[MARKERS[(i + 2 * (i // n)) % n] for i in range(n * len(LINES))])  # fmt: skip
    with matplotlib.rc_context({
        "svg.hashsalt": "cilmp", "svg.fonttype": "path", "text.parse_math": False, "axes.prop_cycle": cycle,
        "font.family": fonts(), "font.size": LABEL, "axes.labelsize": LABEL, "xtick.labelsize": LABEL,
        "ytick.labelsize": LABEL, "legend.fontsize": LABEL, "legend.frameon": False, "axes.titlesize": LABEL,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
        "grid.color": "#dddddd", "grid.linewidth": 0.6, "lines.markersize": 4, "lines.linewidth": 1.3,
        "hatch.linewidth": 0.5, "errorbar.capsize": 2,
    }):  # fmt: skip
        yield


@cache
def fonts():
    """The font, and those of MORE_FONTS that are installed."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return [FONT, *(name for name in MORE_FONTS if name in there)]


def looks(count):
    """The first `count` looks of lines, [{color, linestyle, marker}], as the axes' own cycle gives them."""
    import matplotlib

    return list(itertools.islice(matplotlib.rcParams["axes.prop_cycle"](), count))


def figure(title, height, rows=1, columns=1, width=WIDTH, **more):
    """(figure, axes (rows, columns)) below a title that is wrapped, never cut; the height is the axes'."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", dpi=100)
    made.get_layout_engine().set(h_pad=0.06, w_pad=0.06)
    FigureCanvasAgg(made)
    lines = wrapped(made, title, width - 0.3, TITLE)
    made.set_figheight(height + 0.17 * len(lines))
    made.suptitle("\n".join(lines), x=0.1 / width, ha="left", fontsize=TITLE)
    return made, made.subplots(rows, columns, squeeze=False, **more)


def clean(text):
    """One line of a name: no line breaks or control characters, and no first "_", by which a legend hides a line."""
    text = " ".join("".join(c if c.isprintable() or c.isspace() else " " for c in str(text)).split())
    return f" {text}" if text.startswith("_") else text


def width_of(made, text, size):
    """Inches that a text takes."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=fonts(), size=size)
    return made.canvas.get_renderer().get_text_width_height_descent(text, font, False)[0] / made.dpi


def wrapped(made, text, inches, size):
    """[line] of a text, none wider than `inches`; its own line breaks stay, a word too long is broken."""
    lines = []
    for part in str(text).split("\n"):
        line = ""
        for word in clean(part).split(" "):
            if line and width_of(made, f"{line} {word}", size) > inches:
                lines.append(line)
                line = ""
            line = f"{line} {word}" if line else word
            while width_of(made, line, size) > inches and len(line) > 1:
                keep = _longest(made, line, inches, size)
                lines.append(line[:keep])
                line = line[keep:]
        lines.append(line)
    return lines


def fitted(made, text, inches=1.9, size=LABEL):
    """A name on one line, its middle left out where it is too wide: both ends of a name tell it apart."""
    text = clean(text)
    if width_of(made, text, size) <= inches:
        return text
    n = _longest(made, text, inches, size)
    while n > 2 and width_of(made, f"{text[:n - n // 2]}…{text[-(n // 2):]}", size) > inches:
        n -= 1
    return f"{text[:n - n // 2]}…{text[-(n // 2):]}"


def _longest(made, text, inches, size):
    """Letters of a text's beginning that fit, one at least."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width_of(made, text[:middle], size) <= inches else (low, middle - 1)
    return low


def legend(made, handles, labels, columns=3):
    """A legend below the axes, as many columns as names leave room for; columns = 0: one at the right of the last."""
    if not columns:
        names = [fitted(made, label, 2.2) for label in labels]
        made.axes[-1].legend(handles, names, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        return
    names = [fitted(made, label, 2.6) for label in labels]
    widest = max((width_of(made, name, LABEL) for name in names), default=0)
    columns = max(1, min(columns, len(names), int((made.get_figwidth() - 0.3) / (widest + 0.55))))
    made.set_figheight(made.get_figheight() + 0.17 * -(-len(names) // columns))
    made.legend(handles, names, loc="outside lower left", ncols=columns)


def short_number(value):
    """1,234 or 12 k or 3.4 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1000 if unit == 'k' else size):.3g} {unit}"
    return f"{value:,.6g}"


def save(made, stem, forms=("svg", "png")):
    """<stem>.svg and <stem>.png without dates or versions: equal pictures are equal files."""
    stem = Path(stem)
    made.draw_without_rendering()  # titles find their places,
    made.get_layout_engine().execute(made)  # and the layout heeds them, once for both files
    made.set_layout_engine("none")
    nothing = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    for form in forms:
        with atomic_path(stem.with_name(f"{stem.name}.{form}")) as temporary:
            made.savefig(temporary, format=form, dpi=DPI, metadata=nothing[form])


def band(axes, x, values, look, **more):
    """The mean line of (S, n) values over seeds, and one deviation on both sides."""
    values = np.asarray(values, float)
    mean, deviation = values.mean(0), values.std(0)
    (line,) = axes.plot(x, mean, **look, **more)
    if len(values) > 1:
        axes.fill_between(x, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.15, linewidth=0)
    return line
