"""Types of the benchmarks' options, so that what cannot be measured is refused before anything is."""

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """A type for `argparse`: integers that are not below ``least``."""

    def number(text: str) -> int:
        found = int(text)
        if found < least:
            raise argparse.ArgumentTypeError(f"{found} is less than {least}")
        return found

    number.__name__ = "int"  # which argparse names where the text is no integer
    return number


def device(text: str) -> str:
    """A type for `argparse`: a device that PyTorch can use."""
    import torch

    try:
        torch.empty(1, device=text)
    except Exception as error:  # each backend has its own
        raise argparse.ArgumentTypeError(str(error).partition("\n")[0]) from None
    return text
