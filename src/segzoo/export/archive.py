"""Programs of ``torch.export`` as files, written so that a full disk is an error and not the end of the process."""

import io
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch


def write_program(
    program: torch.export.ExportedProgram, path: str | os.PathLike, extra_files: Mapping[str, str]
) -> None:
    """Write a ``.pt2`` file as `torch.export.save` does.

    Args:
        program: the traced program.
        path: the file.
        extra_files: texts that go into the file, by name.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "wb") as file:
        stream = _NeverFails(file)
        torch.export.save(program, stream, extra_files=dict(extra_files))
        if stream.error is not None:
            raise stream.error


class _NeverFails(io.RawIOBase):
    """A stream into a file for PyTorch's writer in C++, which ends the process where writing fails.

    The first error is kept in ``error``, and what comes after it is not written.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes; returns how many there are."""
        if self.error is None:
            try:
                self.file.write(data)
                self.file.flush()
            except OSError as error:
                self.error = error
        return len(data)

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, by which PyTorch leaves room in the file; returns the new one."""
        return self.file.seek(offset, whence) if self.error is None else 0
