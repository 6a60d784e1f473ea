"""Model folders that load anywhere, written whole or not at all, and pushed to the Hugging Face Hub.

A folder carries a one-line ``modeling_segzoo.py`` and, in its JSON files, an ``auto_map`` that points to it. So
``AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True)`` loads the installed classes where
nobody has imported segzoo, and where it is not installed transformers says "pip install segzoo".
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import SafetensorError

from segzoo.errors import SegZooError

SHIM_NAME = "modeling_segzoo.py"
SHIM = "from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor  # noqa: F401\n"

AUTO_MAP = {
    "AutoConfig": "modeling_segzoo.SegZooConfig",
    "AutoModelForSemanticSegmentation": "modeling_segzoo.SegZooForSemanticSegmentation",
}
"""``auto_map`` of ``config.json``."""


def write_shim(directory: str | os.PathLike) -> Path:
    """Write the one-line module that ``auto_map`` points to, which imports the installed classes.

    Args:
        directory: an existing model folder.

    Returns:
        The path of the file.
    """
    path = Path(directory) / SHIM_NAME
    path.write_text(SHIM, encoding="utf-8")
    return path


class WritesShim:
    """First base of model, config and image processor: the shim is written, and pushed, with each of them."""

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as transformers does (same arguments), and write the shim."""
        result = super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True) and os.path.isdir(save_directory):
            write_shim(save_directory)
        return result

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        # save_pretrained(push_to_hub=True) uploads what has changed before it returns: the shim must be there by then.
        write_shim(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)


def save_model_folder(
    model, processor, directory: str | os.PathLike, *, card: str | None = None, max_shard_size: int | str = "5GB"
) -> Path:
    """Save a model and its image processor as a folder that loads with the Auto classes, whole or not at all.

    Everything is written into a hidden folder beside the target, synced to the disk and renamed. A process that is
    killed leaves at most that hidden folder behind, which the next save to the same target removes.

    Args:
        model: a `SegZooForSemanticSegmentation`.
        processor: its image processor; None writes none.
        directory: the folder to make; it may exist if it is empty.
        card: text of ``README.md`` (see `segzoo.cards.model_card`); None writes none.
        max_shard_size: largest size of one safetensors file, in bytes or as text such as ``"5GB"``.

    Returns:
        The folder.

    Raises:
        SegZooError: the folder is not empty, is a file, or cannot be written (no permission, disk full); nothing is
            left behind.
    """
    target = Path(directory)
    with replacing_folder(target) as partial:
        # Native keys: a conversion mapping that happens to be registered must not rename them on the way out.
        model.save_pretrained(partial, max_shard_size=max_shard_size, save_original_format=False)
        if processor is not None:
            processor.save_pretrained(partial)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
    return target


def check_folder_is_free(directory: str | os.PathLike) -> None:
    """Check that a folder can be made here: call it before long work whose result goes there.

    Raises:
        SegZooError: it is a file, or a folder that is not empty.
    """
    target = Path(directory)
    if target.is_dir():
        if any(target.iterdir()):
            raise SegZooError(f"{target}: the folder is not empty; choose another one, or empty it first")
    elif os.path.lexists(target):
        raise SegZooError(f"{target}: is not a folder; choose another name for the output")


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        SegZooError: ``target`` is not free (`check_folder_is_free`) or cannot be written; nothing is left behind.
    """
    check_folder_is_free(target)
    target = Path(os.path.realpath(target))
    partial = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    lock = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target)
        partial.mkdir()
        lock = try_lock(partial)
        yield partial
        _sync(partial)
        if target.is_dir():
            target.rmdir()  # os.rename replaces an empty folder on POSIX only
        os.rename(partial, target)
        _sync_folder(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise SegZooError(
                f"{target}: was filled by someone else in the meantime; choose another folder"
            ) from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SegZooError(f"{target}: could not be written ({reason}); nothing was left behind") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def remove_abandoned(target: Path) -> None:
    """Remove what a killed save to the same target left: hidden folders that no living process has locked."""
    for folder in target.parent.glob(f".{target.name}.partial-*"):
        lock = try_lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def try_lock(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or the process dies; None when it is locked or cannot be."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None


def _sync(folder: Path) -> None:
    """Wait until the files of a folder, and the folder itself, are on the disk; the files are as open as the folder."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors makes files that nobody else may read, whatever the umask
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def reserve_repository(repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Make a repository on the Hub if it is not there yet: a wrong name or token shows before any work is done.

    Args:
        repo_id, private, token: as in `push_folder`.

    Returns:
        The full name, ``"namespace/name"``.

    Raises:
        SegZooError: the name is not valid, there is no token or it may not write there, or the Hub did not answer.
    """
    try:
        # None keeps the organisation's default, which may be private.
        return HfApi(token=token).create_repo(repo_id, private=True if private else None, exist_ok=True).repo_id
    except Exception as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        raise SegZooError(f"cannot push to {repo_id}: {explanation}") from error


def push_folder(
    directory: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a segzoo model",
    ignore_patterns: Sequence[str] = (),
) -> str:
    """Upload a model folder to the Hub; the repository is made if need be.

    A push that broke off is repeated with the same call: what has arrived is not sent again.

    Args:
        directory: a folder written by `save_model_folder` or ``save_pretrained``.
        repo_id: ``"namespace/name"``, or ``"name"`` for the namespace of the token's user.
        private: make a new repository private; an existing one stays as it is.
        token: access token; None takes the one of ``hf auth login`` or ``HF_TOKEN``.
        revision: branch to push to, made from ``main`` if need be; None is ``main``.
        commit_message: first line of the commit.
        ignore_patterns: files that stay here, as shell patterns such as ``"step_*/*"``.

    Returns:
        The address of the repository.

    Raises:
        SegZooError: the folder holds no model, the name is not valid, there is no token or it may not write there, or
            the Hub did not answer. The message says which, and what to do.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise SegZooError(
            f"{directory}: is not a model folder (it has no config.json); push what save_pretrained wrote"
        )
    try:
        api = HfApi(token=token)
        # None keeps the organisation's default, which may be private.
        url = api.create_repo(repo_id, private=True if private else None, exist_ok=True)
        if revision is not None:
            api.create_branch(url.repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=directory,
            revision=revision,
            commit_message=commit_message,
            ignore_patterns=list(ignore_patterns) or None,
            run_as_future=False,
        )
        return str(url)
    except SegZooError:
        raise
    except Exception as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        raise SegZooError(f"cannot push {directory} to {repo_id}: {explanation}") from error


def _explain(error: BaseException) -> str | None:
    """What went wrong at the Hub and how to mend it; None for an error that is not the Hub's."""
    if isinstance(error, HFValidationError):
        return f"{_one_line(error)} Name it as NAMESPACE/NAME, of letters, digits, '-', '_' and '.'."
    if isinstance(error, LocalTokenNotFoundError):
        return "no access token; run `hf auth login`, or set HF_TOKEN to a token with write access"
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE"
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error)
    if isinstance(error, (HTTPError, ConnectionError, TimeoutError)):
        return f"the connection to the Hub failed ({_one_line(error)}); repeat the push, it goes on where it stopped"
    # The upload of one file wraps what happened.
    return _explain(error.__cause__) if error.__cause__ is not None else None


def _explain_status(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = _one_line(error.server_message or error)
    if status == 401:
        return "the Hub knows no valid token; run `hf auth login`, or set HF_TOKEN to a token with write access"
    if status == 403:
        return f"the token may not write there ({said}); use a token with write access to this namespace"
    if status == 404:
        return "the repository does not exist or the token may not see it; check the name and the token"
    if status == 429:
        return "the Hub refuses more requests for now (429); wait some minutes and repeat the push"
    if status >= 500:
        return f"the Hub has a fault of its own ({status}); repeat the push later, it goes on where it stopped"
    return f"the Hub refused it ({status}: {said})"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
