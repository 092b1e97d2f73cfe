"""The one exception family: what a user can fix, said in one line.

Every error says where (file, row, field or option), what is wrong and how to fix it. The command line prints the line
and exits with 2; programming errors stay loud.
"""

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_LIBRARIES = frozenset(
    {
        "accelerate",
        "bitsandbytes",
        "datasets",
        "huggingface_hub",
        "jinja2",
        "peft",
        "safetensors",
        "tokenizers",
        "transformers",
        "trl",
    }
)
_SAID_OF_SETTINGS = (OSError, ValueError, LookupError, RuntimeError, ImportError)


class DualSelectError(Exception):
    """A mistake that the user can fix; its message is one line with place, cause and cure."""


class ConfigError(DualSelectError):
    """An option, method or combination of settings that cannot work."""


class DataError(DualSelectError):
    """A data file, record or data set that cannot be used."""


class UnsupportedModuleError(DualSelectError):
    """A trainable module for which no per-sample gradient rule exists."""


class TrainingError(DualSelectError):
    """A run that failed in training, such as with weights that are not finite."""


class OutputError(DualSelectError):
    """A file that could not be written, as where the disk is full or the folder is read-only."""


class ResumeError(DualSelectError):
    """A checkpoint that is not whole, or does not belong to the run that would continue from it."""


def one_line(text: object) -> str:
    """Return a message in one line, with every run of white space replaced by one space.

    What a terminal would act on instead of showing it, such as an escape sequence in a name, is written as an escape.
    """
    return printable(" ".join(str(text).split()))


def shortened(name: object) -> str:
    """Return a name for a message, without its middle where it is too long for one."""
    text = str(name)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-97:]}"


def printable(text: str) -> str:
    """Return text with all characters that do not print, but for spaces and line ends, written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


@contextmanager
def library_errors(place: str, cure: str) -> Iterator[None]:
    """Turn what a library below raises about the user's model or settings into a ConfigError.

    For loading and set-up, where the settings are what a library rejects. Exceptions of our own code pass, even
    where a library has called it, and so do types that mean a mistake in code.

    Args:
        place: Action or setting that failed.
        cure: Action for the user to take.

    Raises:
        ConfigError: A library raised an exception; its message is the cause.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DualSelectError) or not _is_of_library(error):
            raise
        cause = one_line(error).rstrip(".:;, ")
        raise ConfigError(f"{place}: {cause[:300]}{'...' if len(cause) > 300 else ''}; {cure}") from error


def _is_of_library(error: Exception) -> bool:
    if _package(type(error).__module__) in _LIBRARIES:
        return True
    packages = [_package(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = _package(__name__)
    below = packages[len(packages) - packages[::-1].index(own) :] if own in packages else packages
    return isinstance(error, _SAID_OF_SETTINGS) and not _LIBRARIES.isdisjoint(below)


def _package(module: str) -> str:
    return module.partition(".")[0]


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a hint such as `; did you mean 'rho'?`, or the list of choices where none is near."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(match) for match in close) + "?"
    return f"; choose one of {', '.join(names)}" if names else ""
