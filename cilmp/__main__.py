"""The command `cilmp` (`python -m cilmp`): one word says what, that word's own --help says how."""

import importlib
import os
import sys

if not __package__:  # called by its folder's name, which needs no installation: python PATH/TO/cilmp
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import cilmp

cilmp.off_path()
__spec__ = None  # a spawned worker then runs this file by its path, and so finds cilmp where it is not installed

COMMANDS = {  # word: (module:function of the words behind it, one line)
    "train": ("cilmp.experiments.single:main", "one run: one method, one data set, one seed (CoOp's flags)"),
    "run": ("cilmp.experiments.commands:run", "a protocol for some methods, then its table: run PROTOCOL METHOD ..."),
    "compare": ("cilmp.experiments.commands:compare", "every method on one data set, one table"),
    "study": ("cilmp.experiments.commands:study", "methods x data sets x shots x seeds: planned, run, restartable"),
    "sweep": ("cilmp.experiments.commands:sweep", "a grid of settings, chosen on val or shown on test"),
    "predict": ("cilmp.inference.predict:main", "what a finished run says of new images"),
    "calibrate": ("cilmp.inference.calibrate:main", "how sure its answers may be: temperature, sets with a promise"),
    "explain": ("cilmp.inference.explain_command:main", "why a finished run answers an image as it does"),
    "serve": ("cilmp.inference.serve_command:main", "a page on this machine that answers images"),
    "export": ("cilmp.inference.export:main", "a finished run as one folder to hand on"),
    "report": ("cilmp.experiments.commands:report", "all tables and pictures of output folders and archives"),
    "archive": ("cilmp.experiments.commands:archive", "an output folder's results as one file to take elsewhere"),
    "prepare": ("cilmp.datasets.prepare.command:main", "raw images in, a split out"),
    "check": ("cilmp.datasets.check_command:main", "what can be said against a data set"),
    "extract": ("cilmp.experiments.extract:main", "what a language model says about the classes"),
    "list": ("cilmp.experiments.commands:listing", "methods, protocols, data sets, backbones, language models"),
}
HIDDEN = {"_in_checkout": "cilmp.experiments.in_checkout:main"}  # how the command calls itself


def usage():
    lines = [f"  {word:<9} {line}" for word, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: cilmp COMMAND ...", "", "Adapt CLIP-like models to medical images with few labels.", "",
                      *lines, "", "cilmp COMMAND --help says more; cilmp --version."])  # fmt: skip


def version():
    """Version and commit of what runs."""
    from dassl.utils.version import commit, number

    return " ".join(["cilmp", number(), *([f"({found})"] if (found := commit()) else [])])


def main(argv=None):
    """Run a command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(version())
        return 0
    if words[0] not in (*COMMANDS, *HIDDEN):
        from dassl.utils.errors import unknown_name

        remedy = "`cilmp --help` says what each does, `cilmp list` which methods, data sets ... there are."
        raise unknown_name("command", words[0], COMMANDS, remedy)
    module, function = (HIDDEN.get(words[0]) or COMMANDS[words[0]][0]).split(":")
    return getattr(importlib.import_module(module), function)(words[1:])


def console():
    """The console script."""
    from dassl.utils.errors import run_main

    run_main(main, resume_hint="The same command goes on where it was: finished runs are kept.")


if __name__ == "__main__":
    console()
