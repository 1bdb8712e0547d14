"""The errors that a user can cause, each saying what is wrong, where, and what to do."""

from __future__ import annotations


class SftError(Exception):
    """Base of all errors that sftkit raises on purpose.

    Args:
        what: One sentence: what is wrong and where (file, row, column, parameter).
        fix: One or more sentences: what the reader can do about it.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        self.what = what
        self.fix = fix
        super().__init__(f"{what}\n  {fix}" if fix else what)

    def __reduce__(self):  # pickled with both parts, so that it crosses processes whole
        return type(self), (self.what, self.fix)


class AssetError(SftError):
    """A pinned model or data set could not be fetched, verified or unpacked."""


class CorpusError(SftError):
    """A data set could not be read, or its content cannot be used."""


class EncodeError(SftError):
    """Text could not be turned into token ids and labels."""


class ModelError(SftError):
    """A model could not be loaded, changed or saved."""


class FitError(SftError):
    """Training cannot start or cannot go on."""


class CheckpointError(SftError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class ParameterError(SftError):
    """A parameter is unknown, has the wrong type, or is out of range."""


class RunError(SftError):
    """A notebook could not be built or run."""
