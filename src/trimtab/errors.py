"""Errors a user can mend. Each is also a stdlib error and carries a hint: what to do about it."""

from __future__ import annotations


class TrimtabError(Exception):
    """Base of every error that Trimtab raises on purpose.

    Args:
        message: what is wrong, in one line.
        hint: how to mend it, in one line.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}; {self.hint}" if self.hint else message


class DataError(TrimtabError, ValueError):
    """Preference or prompt data that cannot be used."""


class MissingFileError(TrimtabError, FileNotFoundError):
    """A file or folder that was named is not there."""


class PreferenceError(TrimtabError, ValueError):
    """A preference or a strength that has no meaning: unknown objective, bad weight."""


class VocabularyError(TrimtabError, ValueError):
    """Two models whose next-token distributions cannot be fused."""


class ModelLoadError(TrimtabError, OSError):
    """A model folder that cannot be loaded, or that Trimtab refuses to load."""


class ConfigError(TrimtabError, ValueError):
    """An option, or a combination of options, that cannot work."""


class BusyError(TrimtabError, RuntimeError):
    """An engine that cannot take another request now."""


class ClosedError(TrimtabError, RuntimeError):
    """An engine that takes no requests any more."""


class AnswerError(TrimtabError, RuntimeError):
    """An answer that went wrong here, through no fault of its request."""


class TrainingError(TrimtabError, ArithmeticError):
    """A training that cannot go on."""


class OutputError(TrimtabError, OSError):
    """An output path that must not be overwritten or cannot be written."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this machine had no memory left (PyTorch has no one class for both)."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


def first_line(error: BaseException) -> str:
    """The first line of a library's error that says something, cut to a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lead = lines[:1] if lines and not lines[0].endswith((":", "):")) else lines[:2]
    return " ".join(lead)[:200] or type(error).__name__
