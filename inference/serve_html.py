"""What the page of `cilmp serve` shows of a run, as HTML: names and sentences are text, pictures lie in the page."""

import base64
import html
import io

from dassl.utils.errors import UserError

from .images import picture

BARS = 8
THUMBNAIL = 112  # pixels
BANNER = """<h1>What trained models say of an image</h1>
<p class="banner" role="note"><strong>No medical device.</strong> Research software: it answers every image with one of
its classes, whatever is shown, and must not be used to diagnose, treat or decide anything about a person.</p>"""
STYLE = """
.or { color: inherit !important }
.cilmp { overflow-wrap: anywhere }
.cilmp h1 { font-size: 1.5rem; font-weight: 700; margin: 0 0 .75rem }
.cilmp .banner { border: 1px solid #b45309; border-left-width: 6px; border-radius: 6px; padding: .6rem .9rem; margin: 0;
  background: #fef3c7; color: #451a03 }
.cilmp h2 { font-size: 1.2rem; font-weight: 700; margin: 0 }
.cilmp h3 { font-size: 1rem; font-weight: 600; margin: 1.4rem 0 .4rem }
.cilmp p { margin: .3rem 0 }
.cilmp .place, .cilmp .small, .cilmp figcaption { color: var(--body-text-color); opacity: .85; font-size: .85rem }
.cilmp .run { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 1rem;
  background: var(--block-background-fill) }
.cilmp .answer { font-size: 1.6rem; font-weight: 700; margin: .9rem 0 .5rem }
.cilmp .bars { list-style: none; margin: 0; padding: 0 }
.cilmp .bars li {
  display: grid; grid-template-columns: minmax(0, 11rem) minmax(2rem, 1fr) 4rem; gap: .6rem; align-items: center;
  padding: .12rem 0;
  font-variant-numeric: tabular-nums }
.cilmp .bars li > :last-child { text-align: right }
.cilmp .track { background: var(--border-color-primary); border-radius: 3px; height: .8rem }
.cilmp .track i { background: #2563eb; border-radius: 3px; display: block; height: 100% }
.cilmp .set { border-left: 4px solid #2563eb; padding: .2rem .8rem; margin-top: 1rem }
.cilmp .warn { border-left: 4px solid #dc2626; padding: .2rem .8rem }
.cilmp .pair { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem }
.cilmp figure { margin: 0; min-width: 0 }
.cilmp .pair img { width: 100%; border-radius: 4px }
.cilmp blockquote { margin: .4rem 0; padding: 0 .8rem; border-left: 4px solid var(--border-color-primary) }
.cilmp .near { display: grid; grid-template-columns: repeat(auto-fit, minmax(5rem, 1fr)); gap: .5rem }
.cilmp .near img { width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px; background: #000 }
"""


def text(words):
    """As HTML. Braces, too: Gradio's templates look for them."""
    return html.escape(str(words)).replace("{", "&#123;").replace("$", "&#36;")


def name(words):
    """Of a class, a file, a folder, as HTML: whatever direction it is written in, its neighbours keep theirs."""
    return f"<bdi>{text(words)}</bdi>"


def of(file, part=""):
    """What is asked about: a file's name, and which part of it."""
    return f"<p>Of <strong>{name(file)}</strong>{', ' if part else ''}{part}:</p>"


def run(model, said, below=""):
    """What is said of an image, which a screen reader reads aloud when it changes, and what stands below."""
    return f"""<section class="run"><h2>{text(model.method)} on {text(model.spec["dataset"])}</h2>
<p class="place">{name(model.folder)}</p><div role="status">{said}</div>{below}</section>"""


def nothing(model):
    return run(model, "<p>No image yet.</p>")


def failed(model, why):
    return run(model, f'<p class="warn">{name(why)}</p>')


def answered(model, record, found, labels):
    """Of what the page knows of an image (`serve.asked`), its Explanation, and {file: class} of similar images."""
    said = [f'<p class="answer">{name(record["answer"])}</p>', _bars(record["probabilities"]), _set(model, record)]
    if record["unlike"]:
        said.append('<p class="warn"><strong>Unlike the training images</strong>: no promise holds for it.</p>')
    return run(model, "".join(said), _map(record, found) + _said(record["said"]) + _near(found.nearest, labels))


def percent(p):
    """12 %, 1.2 %, < 0.1 %, never 100 % of what is less."""
    if p < 0.001:
        return "< 0.1 %"
    return f"{100 * p:.0f} %" if 0.0995 <= p < 0.995 else f"{min(100 * p, 99.9):.1f} %"


def _bars(probabilities):
    best = sorted(probabilities.items(), key=lambda pair: -pair[1])
    rows = [f'<li><span>{name(c)}</span><span class="track" aria-hidden="true"><i style="width:{100 * p:.1f}%"></i>'
            f'</span><span>{percent(p)}</span></li>' for c, p in best[:BARS]]  # fmt: skip
    rest = best[BARS:]
    more = f'<p class="small">{len(rest)} more: {percent(sum(p for _, p in rest))} together</p>' if rest else ""
    return f'<ul class="bars" aria-label="probabilities">{"".join(rows)}</ul>{more}'


def _set(model, record):
    """The prediction set in words."""
    if record["set"] is None:
        why = (model.calibration or {}).get("why_no_sets") or "this run is not calibrated (cilmp calibrate)"
        return f'<p class="set">No prediction set: {text(why)}.</p>'
    sets = model.calibration["sets"]
    share, names = f"{100 * (sets['level'] - sets['shift']):.3g} %", [name(c) for c in record["set"]]
    listed = f"<strong>{'</strong>, <strong>'.join(names)}</strong>"
    which = f"is {listed}" if len(names) == 1 else f"is one of {len(names)}: {listed}"
    return (f'<p class="set">Prediction set: the class {which}. Sets made so hold the true class of {share} of new '
            f"{sets['unit']}s, if they are like those of the calibration.</p>")  # fmt: skip


def _map(record, found):
    check = found.classes[found.predicted].check
    sound = "says something" if check["deletion"] < check["random"] else "says no more than chance: do not trust it"
    answer = record["answer"]
    return f"""<h3>What moved the answer</h3><div class="pair">
<figure><img src="{_png(found.image)}" alt="the image as the model saw it" style="image-rendering:pixelated">
<figcaption>what the model saw</figcaption></figure>
<figure><img src="{_png(found.picture(found.predicted))}" alt="heat map for {text(answer)}">
<figcaption>bright: speaks for {name(answer)}</figcaption></figure></div>
<p class="small">The map {sound}: the class keeps {percent(check["deletion"])} on average while the image is
taken away by it, {percent(check["random"])} in random order.</p>"""


def _said(sentences):
    if not sentences:
        return ""
    lines = [text(" ".join(sentence.split())) for sentence in sentences]
    quotes = "".join(f'<blockquote dir="auto">{line}</blockquote>' for line in lines)
    return f"<h3>What the language model said of this class</h3>{quotes}"


def _near(nearest, labels):
    if nearest is None:
        return ""
    shown = []
    for file, cosine in nearest:
        try:
            small = picture(file)
        except UserError:  # gone since it was read
            continue
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        known = labels.get(file, "class unknown")
        shown.append(f'<figure><img src="{_png(small)}" alt="a similar image: {text(known)}"><figcaption>{name(known)}'
                     f"<br>{cosine:.2f}</figcaption></figure>")  # fmt: skip
    return f"""<h3>Similar training images</h3><div class="near">{"".join(shown)}</div>
<p class="small">Numbers: cosine of image features, 1 for the same.</p>"""


def _png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
