#!/usr/bin/env python
"""All runs of a protocol in one process, then their table.

    python scripts/driver.py PROTOCOL METHOD [DATASET] [SEED ...]      (scripts/<method>/<protocol>.sh calls this)

Environment: DATA OUTPUT SHOTS CFG BACKBONE WEIGHTS LLM EPOCHS METHODS HPARAMS FORCE THREADS PLUGIN OPTS TARGETS.
Finished runs are not repeated (FORCE=1 does).
"""

import argparse
import datetime
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dassl.utils.errors import UserError, run_main
from dassl.utils.paths import output_root
from scripts.lib import table as tables
from scripts.lib.plan import jobs_of, protocol_folder
from scripts.lib.settings import Request, base_config

PROTOCOLS = ("base2new", "few_shot", "full", "cross_dataset")


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("protocol", choices=PROTOCOLS)
    p.add_argument("method")
    p.add_argument("dataset", nargs="?", default="")
    p.add_argument("seeds", nargs="*", type=int)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    request = Request(args.protocol, args.method, args.dataset, args.seeds)
    folder = protocol_folder(output_root(), request)
    print(f"{request.protocol} on {request.dataset}: {', '.join(request.methods)}; backbone {request.backbone}")
    base = base_config(request.plugins)
    jobs = jobs_of(request, base, output_root())
    if request.protocol == "cross_dataset":
        refuse_overlaps(request)
    failed = run_all(request, jobs)
    table = tables.build(request, jobs)
    if not table["rows"]:
        raise UserError("nothing finished, so there is no table; the reasons stand above")
    tables.save(table, folder)
    print("\n" + tables.terminal(table))
    if request.protocol == "few_shot":
        from scripts.lib.plot import few_shot_curves

        few_shot_curves(table, folder / "curves.png")
    print(f"\nWritten: {folder / 'table.md'} (also .json, .csv, .tex); runs and logs are beside it")
    return 1 if failed else 0


def refuse_overlaps(request):
    import os

    import datasets

    if not request.targets:
        raise UserError("cross_dataset needs TARGETS='SET1 SET2': the data sets to test on")
    if os.environ.get("ALLOW_OVERLAP", "") in ("", "0"):
        for target in request.targets:
            datasets.refuse_overlap(request.dataset, target)


def run_all(request, jobs):
    """Run what is not finished; returns the number of failed jobs. One line a job, ETA from those done."""
    todo = [j for j in jobs if not j.why_not and (request.force or not j.finished)]
    if done := sum(1 for j in jobs if not j.why_not) - len(todo):
        print(f"{done} finished runs found, not repeated (FORCE=1 does)")
    if todo:
        have_knowledge(request, {j.method for j in todo})
    failed, start, broken = 0, time.time(), set()
    for number, job in enumerate(todo, start=1):
        if job.source is not None and job.source in broken:
            failed += 1
            continue
        try:
            seconds = run_one(job, request.force)
        except UserError as error:
            failed += 1
            broken.add(job.folder)
            print(f"[{number}/{len(todo)}] {job}: failed - {error}")
            if str(error) and all(j.method == job.method for j in jobs):
                break
            continue
        accuracy = job.result()["metrics"]["accuracy"]
        left = (time.time() - start) / number * (len(todo) - number)
        print(
            f"[{number}/{len(todo)}] {job}: accuracy {accuracy:.1f} ({seconds:.0f} s, "
            f"about {datetime.timedelta(seconds=round(left))} left)",
            flush=True,
        )
    return failed


def run_one(job, force):
    from scripts.lib.run import run

    if force and job.folder.exists():
        shutil.rmtree(job.folder)
    start = time.time()
    run(job.cfg, train=job.source is None, model_dir=str(job.source or ""), quiet=True)
    return time.time() - start


def have_knowledge(request, methods):
    """Extract the LLM representations that a method needs and nobody has made yet, saying so."""
    from dassl.engine import TRAINER_REGISTRY

    if not any(getattr(TRAINER_REGISTRY.get(m), "needs_llm", False) for m in methods):
        return
    import datasets
    import knowledge

    for name in (request.dataset, *request.targets):
        info = datasets.info(name, request.root)
        if knowledge.available(name, request.llm, list(info.classnames)):
            continue
        print(f"no representations of {name} by {request.llm} yet: extracting them", flush=True)
        path = knowledge.extract(name, list(info.classnames), request.llm, questions=info.questions())
        print(f"written: {path}")


if __name__ == "__main__":
    run_main(main, resume_hint="The same command goes on where it was: finished runs are kept.")
