"""The parity table: how far our trainers are from the numbers of the authors' code.

    python -m cilmp.tests.official.table

Of each method, over its cases, the largest difference of a logit (scale 100), of the loss, and of a gradient relative
to its norm, and what else was compared. Cases beside the repository are taken where they are.
"""

import runpy
import tempfile
from collections import Counter
from pathlib import Path

from cilmp.tests.official import cilmp, hashed, parity
from cilmp.tests.trainers import cilmp_cases
from dassl.utils.paths import REPO

BESIDE = REPO.parent / "shared" / "data" / "oracle" / "peers"
MAIN = ("logits", "loss", "gradients")


def cilmp_differences(case):
    ours = cilmp_cases.official_learner(case)
    loss, logits = ours.loss(case["images"], case["labels"])
    loss.backward()
    gradients = parity.relative(cilmp_cases.official_gradients(ours), cilmp.part(case, "grad/"))
    return {"logits": parity.apart(logits, case["logits"]), "loss": parity.apart(loss, case["loss"]),
            "gradients": gradients}  # fmt: skip


def measured(folder):
    """(method, case, {quantity: difference}) of every case."""
    for name in cilmp.CASES:
        yield "CILMP", name, cilmp_differences(cilmp.load(name))
    here = parity.Workplace(folder, lambda preset: getattr(hashed, preset)())
    cases = [(name, hashed.load, name, here) for name in hashed.kept()]
    if BESIDE.is_dir():
        yield "CILMP", "shared", cilmp_differences(cilmp.load("shared", BESIDE.parent))
        (folder / "shared").mkdir()
        there = parity.Workplace(folder / "shared", runpy.run_path(str(BESIDE / "weights.py"))["weights"])
        cases += [(name, parity.load, BESIDE / f"{name}.npz", there) for name in parity.SHARED]
    for name, load, what, workplace in cases:
        for method, found in parity.differences(load(what), workplace).items():
            yield method, name, found


def table(rows):
    """Lines of Markdown; a number that is no fault of ours is left out of the largest and named below."""
    largest, cases, left_out = {}, Counter(), []
    for method, name, found in rows:
        cases[method] += 1
        for quantity, value in found.items():
            if quantity in parity.LOOSE.get(name, ()) or quantity in parity.THEIR_FAULT.get(name, ()):
                left_out.append(f"{name}: {quantity} {value:.1e}")
                continue
            of_method = largest.setdefault(method, {})
            of_method[quantity] = max(value, of_method.get(quantity, 0.0))
    lines = ["| method | cases | logits | loss | gradients | besides |", "|---|---|---|---|---|---|"]
    for method, found in sorted(largest.items()):
        main = [f"{found[q]:.0e}" if q in found else "-" for q in MAIN]
        besides = ", ".join(f"{q} {v:.0e}" for q, v in found.items() if q not in MAIN)
        lines.append(f"| {method} | {cases[method]} | {' | '.join(main)} | {besides} |")
    return [*lines, "", *left_out]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(*table(measured(Path(folder))), sep="\n")
