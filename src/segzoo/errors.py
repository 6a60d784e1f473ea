"""The error for every mistake that a user can correct, and texts of errors for messages."""

import errno

from segzoo.text import message_text

DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of the operating system's errors for a full disk, a used-up quota, and a file larger than is allowed."""


class SegZooError(ValueError):
    """Input that segzoo cannot use. The message names the thing, the cause and the fix, and fits on a terminal.

    Whatever names and values stand in it, it holds no control code, no password of an address, and at most
    `segzoo.text.MOST_IN_MESSAGE` characters.
    """

    def __init__(self, *args: object):
        super().__init__(*(message_text(arg) if isinstance(arg, str) else arg for arg in args))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty; for messages that name a cause."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cause_of(error: Exception) -> str:
    """What went wrong, for a message: the file and the operating system's reason, or the error's own text or type."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        fix = "; make room, or choose another disk" if error.errno in DISK_IS_FULL else ""
        return message_text(f"{error.filename}: {error.strerror}{fix}")
    return message_text(str(error).strip()) or type(error).__name__


def one_line(text: object) -> str:
    """The text with every run of whitespace, including line breaks, replaced by one space."""
    return " ".join(str(text).split())
