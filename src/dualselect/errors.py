"""The one exception family: what a user can mend, said in one line.

Every error says where (file, row, field or option), what is wrong and how to mend it. The command line prints the
line and exits with 2; programming errors stay loud.
"""

import difflib
from collections.abc import Iterable


class DualSelectError(Exception):
    """A mistake that the user can mend; its message is one line with place, cause and cure."""


class ConfigError(DualSelectError):
    """An option, method or combination of settings that cannot work."""


class DataError(DualSelectError):
    """A data file, record or data set that cannot be used."""


class UnsupportedModuleError(DualSelectError):
    """A trainable module for which no per-sample gradient rule exists."""


class ResumeError(DualSelectError):
    """A checkpoint that does not belong to the run that wants to go on from it."""


def one_line(text: object) -> str:
    """Return what a message says, with every run of white space made one space."""
    return " ".join(str(text).split())


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a hint such as `; did you mean 'rho'?`, or the list of choices where none is near."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(match) for match in close) + "?"
    return f"; choose one of {', '.join(names)}" if names else ""
