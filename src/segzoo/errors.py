"""The error that every mistake of a user ends in."""


class SegZooError(ValueError):
    """Input that segzoo cannot use. The message names the thing, the cause and the fix, and fits on a terminal."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing: for a message about its cause."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(text: object) -> str:
    """A text on one line, with single spaces."""
    return " ".join(str(text).split())
