#!/usr/bin/env python
"""Time and memory of the fast forms against the plain ones, one table a suite.

    python -m cilmp.benchmarks.run [--suite cilmp] [--case NAME] [--device cpu|cuda] [--json FILE]

Fast and plain runs are interleaved in one process and medians are given; each memory figure is the growth of the
peak in a process of its own. A plain form that would need more than 60 % of the memory is not run. Suite precision
measures numbers, not time: see benchmarks/precision.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]

import torch  # noqa: E402

from cilmp.benchmarks.cases import CASES, equality  # noqa: E402
from dassl.utils.errors import run_main, unknown_name  # noqa: E402
from dassl.utils.io import write_json  # noqa: E402

SUITES = sorted({suite for suite, _, _ in CASES.values()})


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--suite", choices=SUITES)
    p.add_argument("--case")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--json", metavar="FILE")
    p.add_argument("--picture", metavar="FILE", default="scaling.png", help="where suite scaling draws its picture")
    p.add_argument("--memory", choices=["fast", "plain", "image"], help=argparse.SUPPRESS)
    return p


def timed(function, device):
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds(forms, device, rounds):
    """{form: median seconds}, the forms taking turns."""
    for function in forms.values():
        function()
    taken = {name: [] for name in forms}
    for _ in range(rounds):
        for name, function in forms.items():
            taken[name].append(timed(function, device))
    return {name: statistics.median(t) for name, t in taken.items()}


def memory_mib(case, form, device):
    """Growth of the peak memory by one step, in a process of its own."""
    call = [sys.executable, __file__, "--case", case, "--memory", form, "--device", device]
    out = subprocess.run(call, capture_output=True, text=True, check=False)
    return float(out.stdout.split()[-1]) if out.returncode == 0 else None


def measure_memory(case, form, device):
    """Printed by the child: peak of the step minus what stood before it."""
    _, kind, sizes = CASES[case]
    step = kind(device=device, **sizes)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        getattr(step, form)()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = current_mib()
    Path("/proc/self/clear_refs").write_text("5")  # peak resident size starts anew
    getattr(step, form)()
    return peak_mib() - before


def current_mib():
    """Resident size now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mib():
    """Peak resident size since the last reset, in MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def matmul_rate(device):
    """FLOP/s of a large float32 matrix product."""
    a, b = torch.randn(2048, 2048, device=device), torch.randn(2048, 2048, device=device)
    return 2 * 2048**3 / seconds({"mm": lambda: a @ b}, device, 7)["mm"]


def flops(step):
    """FLOPs of the fast form as torch counts them (matrix products)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step.fast()
    return counter.get_total_flops()


def measure(case, device, rounds):
    """One row of the report."""
    suite, kind, sizes = CASES[case]
    step = kind(device=device, **sizes)
    if suite == "precision":
        return {"suite": suite, "case": case, **step.row()}
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if suite == "scaling" and sizes["B"] * sizes["C"] > 128:
        ram = 0  # the plain form would only take long
    limit = 0.6 * (torch.cuda.get_device_properties(0).total_memory if device == "cuda" else ram)
    plain = step.plain_bytes() < limit
    forms = {"fast": step.fast} | ({"plain": step.plain} if plain else {})
    if sizes.get("part") == "step":
        forms["image"] = step.image
    heavy = sizes.get("B", 1) * sizes.get("C", 1) > 1000
    rate = matmul_rate(device)
    if heavy:  # minutes a run: once, counted and timed together
        start = time.perf_counter()
        work = flops(step)
        taken = {"fast": time.perf_counter() - start}
        if "image" in forms:
            taken["image"] = timed(step.image, device)
    else:
        taken, work = seconds(forms, device, rounds), flops(step)
    difference = equality(step) if plain else None
    share = work / rate / taken["fast"]
    fast_mib = memory_mib(case, "fast", device)
    plain_mib = memory_mib(case, "plain", device) if plain else None
    return {
        "suite": suite, "case": case, "fast_seconds": taken["fast"], "plain_seconds": taken.get("plain"),
        "image_seconds": taken.get("image"), "speedup": taken["plain"] / taken["fast"] if plain else None,
        "fast_mib": fast_mib, "plain_mib": plain_mib, "memory_ratio": plain_mib / fast_mib if plain_mib else None,
        "max_abs_diff": difference, "dropout_mode": dropout_mode(case, sizes),
        "limit_share": share,
    }  # fmt: skip


def dropout_mode(case, sizes):
    """Only CILMP drops anything, and only in training."""
    return sizes.get("dropout_mode", "hidden") if case.startswith(("cilmp", "scaling")) and sizes["train"] else None


def main(argv=None):
    args = parser().parse_args(argv)
    if args.case and args.case not in CASES:
        raise unknown_name("case", args.case, CASES)
    if args.memory:
        print(measure_memory(args.case, args.memory, args.device))
        return 0
    chosen = [args.case] if args.case else [c for c, (s, _, _) in CASES.items() if args.suite in (None, s)]
    rows = []
    for case in chosen:
        rows.append(measure(case, args.device, args.rounds))
        print(json.dumps(rows[-1]), flush=True)
    show(rows, args.device)
    if args.suite == "scaling":
        print(f"\nPicture: {scaling_picture(rows, args.picture)}")
    if args.json:
        write_json(rows, args.json)
    return 0


def scaling_picture(rows, path):
    """Seconds and MiB of the text branch against B, C and L, one axis at a time; fast and plain."""
    import re

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    found = {r["case"]: r for r in rows}
    middle = {"B": 4, "C": 8, "rows": 32}
    figure, panels = plt.subplots(2, 3, figsize=(11, 6))
    for column, (axis, title) in enumerate((("B", "images B"), ("C", "classes C"), ("rows", "LLM rows L"))):
        for name, row in found.items():
            mode, *sizes = re.match(r"scaling/(\w+)/b(\d+)c(\d+)l(\d+)", name).groups()
            at = dict(zip(("B", "C", "rows"), map(int, sizes)))
            row["at"] = at[axis] if all(at[k] == middle[k] for k in at if k != axis) and at["C"] <= 64 else None
            row["mode"] = mode
        for mode, form, style in (("train", "fast", "C0o-"), ("train", "plain", "C0o--"), ("eval", "fast", "C1s-"),
                                  ("eval", "plain", "C1s--")):  # fmt: skip
            for line, unit in enumerate(("seconds", "mib")):
                points = sorted((r["at"], r[f"{form}_{unit}"]) for r in rows
                                if r["at"] and r["mode"] == mode and r[f"{form}_{unit}"])  # fmt: skip
                panels[line][column].plot(*zip(*points), style, label=f"{mode}, {form}", markersize=4)
                panels[line][column].set(xlabel=title, ylabel=("seconds", "MiB")[line], xscale="log", yscale="log")
                panels[line][column].xaxis.set_minor_formatter(NullFormatter())
                ticks = sorted({r["at"] for r in rows if r["at"]})
                panels[line][column].set_xticks(ticks, labels=list(map(str, ticks)))
    for row in rows:
        del row["at"], row["mode"]
    panels[0][0].legend(fontsize=7)
    figure.suptitle("CILMP text branch, ViT-B/16 width, D = 4096, rank 8", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


def show(rows, device):
    from tabulate import tabulate

    keys = list(rows[0])[1:]
    form = lambda v: "-" if v is None else f"{v:.3g}" if isinstance(v, float) else v  # noqa: E731
    print(f"\n{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    print(tabulate([[form(r[k]) for k in keys] for r in rows], headers=keys, disable_numparse=True))


if __name__ == "__main__":
    run_main(main)
