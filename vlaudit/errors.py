"""Errors that users see: one sentence that says what is wrong, one that says the cure, and the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlaudit.secrets import redact


class VlauditError(Exception):
    """Base of every error vlaudit raises on purpose. Anything else is a bug and keeps its traceback."""

    exit_code = 3

    def __init__(self, message: str, cure: str = "") -> None:
        self.message, self.cure = redact(message), redact(cure)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.cure}".strip()


class UsageError(VlauditError):
    """A wrong flag, file, data set or configuration: nothing was run."""

    exit_code = 2


class ModelError(VlauditError):
    """A model could not be loaded."""

    exit_code = 4


class OutOfMemory(ModelError):
    """Memory ran out where nothing smaller can be tried."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "Use a smaller --dtype, another --device, or a quantised checkpoint.")


class UnsafeFileError(ModelError):
    """A model or prompt file would run code when loaded. It was refused, not opened. ``danger`` says what it is and calls."""

    def __init__(self, path: object, danger: str) -> None:
        super().__init__(f"'{path}' is {danger}; it was not opened.", "Ask its author for a safetensors file.")
        self.danger = danger


class NotAssessed(VlauditError):
    """Raised by a probe when it cannot judge this target: the reason becomes a ``not-assessed`` finding."""


class CapabilityError(NotAssessed):
    """The target lacks something the caller needs, such as pixel gradients."""


class VlauditWarning(UserWarning):
    """Something users should know that stops nothing, in one sentence; the command line prints it without its place."""


def did_you_mean(word: str, known: list[str]) -> str:
    """A cure naming the closest known word, or those that are as close; all of them when none is close."""
    import difflib

    def closeness(other: str) -> float:
        return difflib.SequenceMatcher(None, other.lower(), word.lower()).ratio()

    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5) or difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.5)
    best = [f"'{other}'" for other in close if closeness(other) > closeness(close[0]) - 0.01]
    return f"Did you mean {' or '.join(best)}?" if best else f"Known: {', '.join(sorted(known)) or 'none'}."


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line without its full stop: to be put into a sentence of ours."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.removeprefix("Got: ").rstrip(".")  # how the hub's client begins


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch says that there is no memory left."""
    text = str(error).lower()
    said = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


@contextmanager
def foreign(sentence: str, cure: str = "", kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Around calls of a library that reads what others made: what it raises becomes a ModelError, "SENTENCE: its words."

    A panic of a library in Rust (tokenizers, safetensors), which is only a BaseException, is caught whatever ``kinds`` are.
    Memory that ran out is said as that, unless there are no ``kinds``: whoever runs the model may try again with less.
    """
    try:
        yield
    except VlauditError:
        raise
    except BaseException as error:
        if kinds and ran_out_of_memory(error):
            raise OutOfMemory(f"{sentence}: memory ran out.") from error
        if not isinstance(error, kinds) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{sentence}: {first_line(error)[:300]}.", cure) from error
