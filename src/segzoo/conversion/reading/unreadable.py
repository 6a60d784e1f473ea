"""What stands in a config for a value that could not be read."""

from typing import Any, NoReturn

from segzoo.conversion.errors import ConfigReadError


class Unreadable:
    """A value that could not be read; it may lie anywhere in a config, and nobody is bothered who does not use it.

    It can be handed on. Whatever else is done with it (an attribute, a type check, a comparison, ``bool``, ``str``,
    an item, arithmetic) raises the error that says why it could not be read. `is_unreadable` and `cause_of` ask it.
    """

    __slots__ = ("_error",)

    def __init__(self, error: ConfigReadError):
        object.__setattr__(self, "_error", error)

    def _refuse(self, *arguments: Any) -> NoReturn:
        raise cause_of(self).with_traceback(None) from None

    __getattribute__ = __setattr__ = __delattr__ = _refuse
    __bool__ = __str__ = __repr__ = __format__ = __hash__ = __int__ = __float__ = __index__ = _refuse
    __len__ = __iter__ = __contains__ = __getitem__ = __setitem__ = __call__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = _refuse


def is_unreadable(value: Any) -> bool:
    """Whether ``value`` stands for one that could not be read."""
    return type(value) is Unreadable


def cause_of(value: Unreadable) -> ConfigReadError:
    """Why the value could not be read: an error with file and line."""
    return object.__getattribute__(value, "_error")
