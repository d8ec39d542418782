"""The words behind a command: flags anywhere among them, a wrong call in one line, help with its defaults."""

import argparse
import difflib

from .errors import ConfigError


class _Form(argparse.RawDescriptionHelpFormatter):
    """Descriptions keep their lines; a flag whose default is a number or a word says it."""

    def _get_help_string(self, action):
        said, default = action.help or "", action.default
        plain = isinstance(default, (int, float, str)) and not isinstance(default, bool) and default not in ("", 0)
        if not (action.option_strings and plain and action.default is not argparse.SUPPRESS) or "default" in said:
            return said
        return f"{said} (default: {str(default).replace('%', '%%')})".lstrip()


class Parser(argparse.ArgumentParser):
    """An argparse parser of `prog`; its parse_args() raises a ConfigError of one line for a wrong call."""

    def __init__(self, prog=None, description=None):
        super().__init__(prog, description=description, formatter_class=_Form)

    def parse_args(self, args=None, namespace=None):
        """Words may stand before, between and behind flags; where the last ones are whatever is left, before these."""
        rest = any(action.nargs == argparse.REMAINDER for action in self._actions)
        parse = self.parse_known_args if rest else self.parse_known_intermixed_args
        found, unknown = parse(args, namespace)
        if unknown:
            self.error(f"unknown {' '.join(unknown)}{self._nearest(unknown)}")
        return found

    def _nearest(self, words):
        """ - did you mean ...?, of the first flag among the words that is like one of ours."""
        for word in (w.partition("=")[0] for w in words if w.startswith("--")):
            if near := difflib.get_close_matches(word, self._option_string_actions, n=1):
                return f" - did you mean {near[0]}?"
        return ""

    def error(self, message):
        raise ConfigError(f"{message}; see {self.prog} --help")
