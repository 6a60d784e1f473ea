"""Errors of the conversion, whose messages name the thing, the cause and the fix."""

from pathlib import Path

from segzoo.errors import SegZooError


class ConversionError(SegZooError):
    """An original checkpoint or config that cannot be converted."""


class UnknownTypeError(ConversionError):
    """A component of an original config whose type has no rule."""


class CheckpointError(ConversionError):
    """A checkpoint file that cannot be read.

    Args:
        path: the file that the user named.
        cause: what is wrong with it.
        fix: what to do about it; None where the cause says it.

    Attributes:
        path, cause, fix: the arguments. ``str(error)`` is ``path: cause; fix``.
    """

    def __init__(self, path: str | Path, cause: str, fix: str | None = None):
        self.path = Path(path)
        self.cause = cause
        self.fix = fix
        super().__init__(f"{path}: {cause}" + (f"; {fix}" if fix else ""))


class ConfigReadError(ConversionError):
    """A config text that cannot be read as literals.

    Args:
        filename: the file, or a name for a text that does not come from a file.
        line: line of the text, counted from 1; None for the whole file.
        cause: what is wrong with it.
        fix: what to do about it; None where the cause says it.

    Attributes:
        filename, line, cause, fix: the arguments. ``str(error)`` is ``filename, line N: cause; fix``.
    """

    def __init__(self, filename: str | Path, line: int | None, cause: str, fix: str | None = None):
        self.filename = str(filename)
        self.line = line
        self.cause = cause
        self.fix = fix
        where = f"{filename}, line {line}" if line is not None else f"{filename}"
        super().__init__(f"{where}: {cause}" + (f"; {fix}" if fix else ""))


class ConfigLimitError(ConfigReadError):
    """A config text whose reading cannot go on: it asks for more work or memory than any config needs, or it inherits
    in a way that is not read.
    """
