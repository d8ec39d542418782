"""A study on a cluster: one readable sbatch array script, submitted and followed. SLURM does the rest."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import write_text
from dassl.utils.paths import REPO, cache_root, slug

from .launch import Launch, Outcome, accuracy_of, finished
from .spec_file import write_spec

POLL_SECONDS = 5
WARNING_SECONDS = 120  # before the time limit a task is told to stop: it writes a checkpoint and asks to go on later
FLAGS = {  # of `cilmp study`: (sbatch's, metavar, help)
    "partition": ("partition", "NAME", "where to run"),
    "gpus": ("gpus-per-task", "N", "GPUs of a task"),
    "cpus": ("cpus-per-task", "N", "cores of a task"),
    "time": ("time", "D-H:M:S", "limit of a task; what is not done then goes on in the queue"),
    "mem": ("mem", "SIZE", "memory of a task"),
    "account": ("account", "NAME", "who pays"),
    "at-once": ("", "N", "tasks at a time"),
}


class Slurm(Launch):
    """As Launch, each training (and the tests of what it learned) a task of one array job.

    Args:
        name: of the study; OUTPUT/studies/<name>/ holds the tasks' specs, the script and the logs.
        asked: {flag of FLAGS: text}.
    """

    def __init__(self, specs, output, force=False, name="study", asked=None):
        super().__init__(specs, output, force)
        self.folder, self.asked = Path(output).absolute() / "studies" / slug(name), asked or {}

    def work(self, todo):
        if not todo:
            return
        job = running(self.folder)
        if job:
            print(f"job {job} of this study is in the queue; following it")
        else:
            if not shutil.which("sbatch"):
                raise UserError("no sbatch here: run this where SLURM's commands are, or --print to see the script")
            script = self.written(todo)
            self.removed(todo)
            job = asked("sbatch", "--parsable", str(script)).split(";")[0]
            write_text(f"{job}\n", self.folder / "job.txt")
            print(f"job {job}: {script}; Ctrl-C leaves it in the queue, the same command follows it again")
        self.follow(job, todo)

    def removed(self, todo):
        """FORCE: what was there goes before the job, as a task cannot tell a first try from one after preemption."""
        for spec in todo if self.force else ():
            shutil.rmtree(spec.folder(self.output), ignore_errors=True)

    def written(self, todo):
        """Path of the array script; the specs of its tasks, and their logs' folder, are made."""
        shutil.rmtree(self.folder / "tasks", ignore_errors=True)
        shutil.rmtree(self.folder / "logs", ignore_errors=True)
        chains = self.chains(todo)
        for i, chain in enumerate(chains):
            for k, spec in enumerate(chain):
                write_spec(spec, self.folder / "tasks" / str(i) / f"{k}.json")
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        write_text(self.script(len(chains)), self.folder / "array.sh")
        return self.folder / "array.sh"

    def chains(self, todo):
        """[[a training, the tests of it]]; tests alone where the training is done."""
        found = {}
        for spec in todo:
            found.setdefault(str(spec.first.folder(self.output)), []).append(spec)
        return list(found.values())

    def script(self, n):
        """The sbatch script of n tasks."""
        most = f"%{self.asked['at-once']}" if self.asked.get("at-once") else ""
        lines = ["#!/bin/bash", f"#SBATCH --job-name=cilmp-{self.folder.name}", f"#SBATCH --array=0-{n - 1}{most}",
                 f"#SBATCH --output={shlex.quote(self._logs())}", "#SBATCH --open-mode=append", "#SBATCH --requeue",
                 f"#SBATCH --signal=B:TERM@{WARNING_SECONDS}"]  # fmt: skip
        lines += [f"#SBATCH --{FLAGS[flag][0]}={shlex.quote(str(value))}"
                  for flag, value in self.asked.items() if FLAGS[flag][0]]  # fmt: skip
        quoted = {k: shlex.quote(str(v)) for k, v in {
            "OUTPUT": self.output, "CILMP_CACHE": cache_root(), "python": sys.executable, "cilmp": REPO / "cilmp",
            "tasks": self.folder / "tasks"}.items()}  # fmt: skip
        lines += [
            f"export OUTPUT={quoted['OUTPUT']} CILMP_CACHE={quoted['CILMP_CACHE']}",
            "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
            "# Told to stop (time limit, preemption): the step ends, a checkpoint is written, the task queues again.",
            "trap 'kill -TERM $run; wait $run; "
            "scontrol requeue ${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID} || true; exit 143' TERM",
            f"{quoted['python']} {quoted['cilmp']} train --spec {quoted['tasks']}/$SLURM_ARRAY_TASK_ID/*.json &",
            "run=$!",
            "wait $run",
        ]
        return "\n".join(lines) + "\n"

    def _logs(self):
        """The tasks' logs as sbatch takes it: % begins a pattern, %a is a task's number."""
        return f"{self.folder}/logs".replace("%", "%%") + "/%a.log"

    def follow(self, job, todo):
        """Tell of each run as its results come in; of those without, when the job has left the queue, why."""
        left = list(todo)
        while left:
            there = in_queue(job)
            left = [spec for spec in left if not (finished(spec, self.output) and self.settled(spec, self.found(spec)))]
            if not there:
                break
            time.sleep(POLL_SECONDS)
        numbers = {id(s): i for i, chain in enumerate(self.chains(todo)) for s in chain}
        for spec in left:
            self.settled(spec, Outcome("failed", last_word(self.folder / "logs" / f"{numbers[id(spec)]}.log")))

    def found(self, spec):
        return Outcome("done", accuracy_of(spec, self.output))


def asked(*command):
    """What a command of SLURM prints; UserError with its own words where it refuses."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())
        raise UserError(f"{command[0]} refused: {words or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def in_queue(job):
    """States of the tasks of a job that are waiting or running; [] when it has left the queue."""
    done = subprocess.run(["squeue", "-h", "-r", "-j", str(job), "-o", "%T"], capture_output=True, text=True)
    return done.stdout.split()  # squeue does not know a job that ended some minutes ago, and says so as an error


def running(folder):
    """The job of an earlier command of this study, if it is still in the queue; else ""."""
    path = Path(folder) / "job.txt"
    job = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return job if job and shutil.which("squeue") and in_queue(job) else ""


def last_word(log):
    """The line of a task's log that says why it ended without results."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.is_file() else []
    told = [line for line in lines if line.startswith("error:") or ": failed" in line] or list(filter(None, lines))
    return told[-1] if told else f"its task left no word ({log}); see: scontrol show job, and the node's slurmd log"
