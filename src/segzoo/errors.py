"""The error that every mistake of a user ends in."""


class SegZooError(ValueError):
    """Input that segzoo cannot use. The message names the thing, the cause and the fix, and fits on a terminal."""
