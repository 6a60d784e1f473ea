"""The format of a checkpoint file, and its extraction from a zip archive, within bounds and without trust in names."""

import lzma
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from segzoo.conversion.errors import CheckpointError
from segzoo.text import listed

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors", ".pkl", ".model")
MAX_UNPACKED_BYTES = 64 << 30
MAX_MEMBERS = 100_000
MAX_RATIO = 50
RATIO_FREE_BYTES = 256 << 20
CHUNK = 1 << 20

_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, NotImplementedError)
_FIX_DOWNLOAD = "download it again and compare the size with the one at its source"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", "unpack it with gunzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"BZh", "a bzip2 archive", "unpack it"),
    (b"\xfd7zXZ", "an xz archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", "unpack it"),
    (b"\x89HDF", "an HDF5 file", "give the PyTorch checkpoint"),
    (b"GGUF", "a GGUF file", "give the PyTorch checkpoint"),
    (b"\x89PNG", "a PNG picture", "give the PyTorch checkpoint"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the PyTorch checkpoint"),
    (b"%PDF", "a PDF document", "give the PyTorch checkpoint"),
)
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def file_kind(path: Path, source: Path) -> str:
    """The format of a checkpoint file: ``"zip"``, ``"legacy"`` or ``"safetensors"``.

    Args:
        path: the file.
        source: the file that the user named, for messages.

    Raises:
        CheckpointError: the file does not exist, is empty, or has another format; the message says which.
    """
    try:
        if path.is_dir():
            raise CheckpointError(source, "this is a folder", "give the checkpoint file in it")
        if not path.exists():
            raise CheckpointError(source, "there is no such file", "check the path of the checkpoint")
        if not path.is_file():  # a pipe or a device would give no end of it, or none ever
            raise CheckpointError(source, "this is not a regular file", "give a checkpoint file")
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(source, "the file is empty (0 bytes)", "download it again")
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise CheckpointError(source, f"the file cannot be read ({error.strerror or error})") from None
    # This comes first, because the length of a safetensors header may look like the beginning of any format.
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return "zip"
    if head[:1] == b"\x80":
        return "legacy"
    raise CheckpointError(source, *_what_it_is(head, size))


def _what_it_is(head: bytes, size: int) -> tuple[str, str]:
    """Cause and fix for a file that is not a checkpoint."""
    if head.startswith(b"version https://git-lfs.github.com/spec"):
        fields = dict(line.split(b" ", 1) for line in head.splitlines() if b" " in line)
        wanted = fields.get(b"size", b"?").decode("ascii", "replace")
        return (
            f"this is a git-lfs pointer of {size} bytes, not the checkpoint of {wanted} bytes",
            "fetch the file with 'git lfs pull', or download it from its page",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--", b"<error")):
        return (
            f"this is a web page ({size} bytes of HTML or XML) saved under the name of a checkpoint",
            "the download was answered with a page: open the link in a browser and download the file itself",
        )
    if head[257:262] == b"ustar":
        return "this is a tar archive", "unpack it and give the checkpoint file in it"
    for magic, name, fix in _MAGIC:
        if head.startswith(magic):
            return f"this is {name}, not a checkpoint", fix
    if not head.strip(b"\0"):
        return "the file begins with zeros: a download that was not completed", _FIX_DOWNLOAD
    if all(byte in b"\t\r\n" or byte >= 32 for byte in head) and b"\x7f" not in head:
        first = head.split(b"\n", 1)[0][:60].decode("utf-8", "replace").strip()
        return f"this is a text file, not a checkpoint; it begins with {first!r}", "give the .pth or .safetensors file"
    return (
        f"this is not a checkpoint in a known format ({size} bytes, begins with {head[:8].hex(' ')})",
        "give a .pth file that torch.save wrote, a .safetensors file, or a zip archive with one of them",
    )


def is_legacy_torch(path: Path) -> bool:
    """Whether a pickle was written by torch.save before torch 1.6: its first pickle is torch's magic number."""
    with path.open("rb") as file:
        return _LEGACY_MAGIC in file.read(32)


def open_zip(path: Path, source: Path) -> zipfile.ZipFile:
    """Opens a zip file, and checks its table of contents.

    Args:
        path: the zip file.
        source: the file that the user named, for messages.

    Raises:
        CheckpointError: the file was cut off, or its table of contents is damaged or hostile.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (*_DAMAGE, OSError, OverflowError) as error:
        size = path.stat().st_size
        raise CheckpointError(
            source, f"the file is cut off or damaged: its {size} bytes end without a table of contents", _FIX_DOWNLOAD
        ) from error
    members = archive.infolist()
    size = path.stat().st_size
    problem = None
    if len(members) > MAX_MEMBERS:
        problem = f"the archive has {len(members)} members, no checkpoint has more than {MAX_MEMBERS}"
    elif len({member.filename for member in members}) != len(members):
        problem = "the archive has two members of one name"
    elif not all(member.filename for member in members):
        problem = "the archive is damaged: a member has no name"
    elif any(not 0 <= member.header_offset <= size - member.compress_size for member in members):
        problem = "the file is cut off: a member lies outside of it"
    elif sum(member.compress_size for member in members) > size:
        problem = "the members of the archive overlap"
    if problem:
        archive.close()
        raise CheckpointError(source, problem, _FIX_DOWNLOAD)
    return archive


def torch_folder(archive: zipfile.ZipFile) -> str | None:
    """The folder inside a zip file that torch.save wrote (since torch 1.6), or None for any other zip file."""
    for name in archive.namelist():
        folder, _, rest = name.partition("/")
        if rest == "data.pkl":
            return folder
    return None


def check_torch_zip(archive: zipfile.ZipFile, folder: str, source: Path) -> None:
    """Reads all of a file that torch.save wrote and compares its checksums, which torch does not do.

    Args:
        archive: the file, opened.
        folder: the folder inside it, from `torch_folder`.
        source: the file that the user named, for messages.

    Raises:
        CheckpointError: a record is compressed (torch.save never does that), does not match its checksum, or is cut
            off; or the file is a TorchScript program.
    """
    names = archive.namelist()
    if f"{folder}/constants.pkl" in names or any(name.startswith(f"{folder}/code/") for name in names):
        raise CheckpointError(
            source, "this is a TorchScript program, not a checkpoint", "give the training checkpoint"
        )
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise CheckpointError(
                source,
                f"the record {member.filename!r} is compressed, which torch.save never does",
                "give the file as torch.save wrote it",
            )
        if member.CRC == 0:  # torch.serialization.set_crc32_options(False) leaves the checksums out
            continue
        try:
            with archive.open(member) as stream:
                while stream.read(CHUNK):
                    pass
        except (*_DAMAGE, OSError) as error:
            raise CheckpointError(
                source,
                f"the file is damaged: the record {member.filename!r} is not what was saved ({error})",
                _FIX_DOWNLOAD,
            ) from None


def stored_bytes(path: Path, member: zipfile.ZipInfo) -> bytes:
    """The content of an uncompressed member; `check_torch_zip` has compared its checksum, if it has one."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(30).ljust(30, b"\0"))
        file.seek(name + extra, 1)
        return file.read(member.file_size)


def checkpoint_member(archive: zipfile.ZipFile, source: Path) -> zipfile.ZipInfo:
    """The single checkpoint in an ordinary zip archive.

    Raises:
        CheckpointError: there is no checkpoint, or more than one (they are listed), its name leads out of the archive,
            or it is encrypted.
    """
    files = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not member.filename.startswith("__MACOSX/") and not _is_hidden(member.filename)
    ]
    found = [member for member in files if member.filename.lower().endswith(CHECKPOINT_SUFFIXES)]
    if len(found) != 1:
        names = listed((member.filename for member in (found or files)), 5, quoted=True)
        if found:
            raise CheckpointError(
                source, f"the archive holds {len(found)} checkpoints: {names}", "unpack it and give one of them"
            )
        raise CheckpointError(
            source,
            f"the archive holds no checkpoint, only {names}" if files else "the archive is empty",
            f"a checkpoint is a file that ends in {', '.join(CHECKPOINT_SUFFIXES)}",
        )
    member = found[0]
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise CheckpointError(
            source,
            f"the member {member.filename!r} has a name that leads out of the archive",
            "do not trust this file",
        )
    if member.flag_bits & 1:
        raise CheckpointError(source, "the archive is encrypted", "unpack it with its password")
    return member


def _is_hidden(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).name.startswith(".")


@contextmanager
def extracted(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: Path) -> Iterator[Path]:
    """A temporary file with the content of ``member``, which is removed at the end.

    Raises:
        CheckpointError: the content is larger than any checkpoint (a zip bomb), is damaged, or does not fit on the
            disk.
    """
    _check_size(member.file_size, member, source)
    with tempfile.TemporaryDirectory(prefix="segzoo-") as folder:
        free = shutil.disk_usage(folder).free
        if member.file_size > free:
            raise CheckpointError(
                source,
                f"{member.filename!r} needs {member.file_size} bytes in {folder}, and {free} are free",
                "unpack it elsewhere and give the checkpoint, or set TMPDIR to a larger disk",
            )
        # The file has a fixed name: a name from an archive is never used as a path.
        target = Path(folder) / (
            "checkpoint.safetensors" if member.filename.endswith(".safetensors") else "checkpoint"
        )
        written = 0
        try:
            with archive.open(member) as stream, target.open("wb") as file:
                while chunk := stream.read(CHUNK):
                    written += len(chunk)
                    _check_size(written, member, source)
                    file.write(chunk)
        except _DAMAGE as error:
            raise CheckpointError(
                source, f"{member.filename!r} in the archive is damaged ({error})", _FIX_DOWNLOAD
            ) from None
        except OSError as error:
            raise CheckpointError(
                source,
                f"{member.filename!r} could not be unpacked to {folder} ({error.strerror or error})",
                "unpack it elsewhere and give the checkpoint, or set TMPDIR to a larger disk",
            ) from None
        yield target


@contextmanager
def in_utf8(path: Path) -> Iterator[Path]:
    """The path; for a name with bytes that are no UTF-8, which torch and safetensors cannot map, a link for the time of the block."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="segzoo-") as folder:
            link = Path(folder) / "checkpoint"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path


def check_unpacked_size(archive: zipfile.ZipFile, source: Path) -> None:
    """Checks what all members together announce, before they are unpacked into memory.

    Args:
        archive: the file, opened.
        source: the file that the user named, for messages.

    Raises:
        CheckpointError: it is more than weights of this size in the file can be (a zip bomb).
    """
    size, packed = (sum(getattr(m, name) for m in archive.infolist()) for name in ("file_size", "compress_size"))
    if size > RATIO_FREE_BYTES and size > MAX_RATIO * packed:
        raise CheckpointError(
            source,
            f"it would unpack from {packed} to {size} bytes: a zip bomb",
            "weights do not compress like that; do not trust this file",
        )


def _check_size(size: int, member: zipfile.ZipInfo, source: Path) -> None:
    ratio = size / max(member.compress_size, 1)
    if size > MAX_UNPACKED_BYTES or (size > RATIO_FREE_BYTES and ratio > MAX_RATIO):
        raise CheckpointError(
            source,
            f"{member.filename!r} would unpack from {member.compress_size} to {size} bytes or more: a zip bomb",
            "weights do not compress like that; do not trust this file",
        )
