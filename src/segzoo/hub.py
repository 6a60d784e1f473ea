"""Model folders that load anywhere, written whole or not at all, and pushed to the Hugging Face Hub.

A folder contains a one-line ``modeling_segzoo.py``, and its ``config.json`` has an ``auto_map`` that points to it. So
``AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True)`` loads the installed classes even
if nobody has imported segzoo; if segzoo is not installed, transformers says "pip install segzoo".
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import SafetensorError

from segzoo.errors import SegZooError, one_line
from segzoo.files import whole_folder
from segzoo.hub_names import hub_session
from segzoo.model_folder import CARD, WEIGHT_PATTERNS, complete_weights, of_other_weights

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

SHIM_NAME = "modeling_segzoo.py"
SHIM = "from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor  # noqa: F401\n"

# A sentence of the template that transformers uploads where a repository has no card.
_EMPTY_CARD = "This is the model card of a 🤗 transformers model that has been pushed on the Hub."

AUTO_MAP = {
    "AutoConfig": "modeling_segzoo.SegZooConfig",
    "AutoModel": "modeling_segzoo.SegZooForSemanticSegmentation",
    "AutoModelForSemanticSegmentation": "modeling_segzoo.SegZooForSemanticSegmentation",
}
"""The ``auto_map`` entry of ``config.json``."""


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
    """First base class of model, config and image processor; writes and pushes the shim together with each of them."""

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save as transformers does, with the same arguments, and write the shim into the folder."""
        result = super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True) and os.path.isdir(save_directory):
            self._complete(save_directory)
        return result

    def _complete(self, directory: str | os.PathLike) -> None:
        """Write what belongs beside the files that transformers has written."""
        write_shim(directory)

    def hub_card(self, repo_id: str) -> str | None:
        """The model card for a repository that has none; None for a config or an image processor alone.

        Args:
            repo_id: name of the repository on the Hub.
        """
        return None

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # save_pretrained(push_to_hub=True) uploads the changed files before it returns: the others must exist by then.
        self._complete(working_dir)
        _replace_empty_card(Path(working_dir) / "README.md", self.hub_card(repo_id))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


class WritesHashes:
    """First base class of a model: every save leaves one model in the folder, with the hashes of its weights."""

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does, with the same arguments, and write the hashes.

        Weights of an earlier model are removed, also where transformers leaves them.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True) and os.path.isdir(save_directory):
            complete_weights(save_directory)

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        complete_weights(working_dir)
        commit = super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)
        api, revision = HfApi(token=kwargs.get("token")), commit.pr_revision or kwargs.get("revision")
        stale = of_other_weights(api.list_repo_files(repo_id, revision=revision), Path(working_dir))
        if stale:  # readers would prefer them to those that have just arrived
            api.delete_files(
                repo_id, stale, revision=revision, commit_message="Remove the weights of the earlier model"
            )
        return commit


def _replace_empty_card(path: Path, card: str | None) -> None:
    """Put a card in place of transformers' template, which says nothing about a model; any other card stays."""
    if path.is_file() and _EMPTY_CARD in path.read_text(encoding="utf-8"):
        if card is None:
            path.unlink()
        else:
            path.write_text(card, encoding="utf-8")


def save_model_folder(
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    directory: str | os.PathLike,
    *,
    card: str | None = None,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Save a model and its image processor as a folder that loads with the Auto classes, whole or not at all.

    Everything is written into a hidden folder next to the target, or in it if it is there, synced to the disk and
    renamed or moved out (`whole_folder`). A process that is killed leaves at most that hidden folder behind, which the next save
    to the same target removes; if it is killed while files move out, some of them, too, but no ``config.json``.

    Args:
        model: a `SegZooForSemanticSegmentation`.
        processor: its image processor; None writes no processor.
        directory: the folder to create; it may exist if it is empty.
        card: text of ``README.md`` (see `segzoo.cards.model_card`); None writes no card.
        max_shard_size: largest size of one safetensors file, in bytes or as text such as ``"5GB"``.

    Returns:
        The folder.

    Raises:
        SegZooError: the folder is not empty, is a file, or cannot be written (no permission, disk full); nothing is
            left behind.
    """
    with whole_folder(directory) as partial:
        write_model_files(model, processor, partial, card=card, max_shard_size=max_shard_size)
    return Path(directory)


def write_model_files(
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    directory: Path,
    *,
    card: str | None = None,
    max_shard_size: int | str = "5GB",
    state: dict[str, Any] | None = None,
) -> None:
    """Write the files of `save_model_folder` into an existing folder, one after the other.

    Args:
        model, processor, card, max_shard_size: as in `save_model_folder`.
        directory: the existing folder.
        state: the weights to write; None: the model's.

    Raises:
        OSError: a file cannot be written.
    """
    try:
        # Native keys: a conversion mapping that happens to be registered must not rename them on the way out.
        model.save_pretrained(directory, state_dict=state, max_shard_size=max_shard_size, save_original_format=False)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    if not isinstance(model, WritesHashes):  # one of transformers
        complete_weights(directory)
    if processor is not None:
        processor.save_pretrained(directory)
    if card is not None:
        (directory / CARD).write_text(card, encoding="utf-8")


def reserve_repository(repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Create a repository on the Hub if it does not exist, so that a wrong name or token fails before any work is
    done.

    Args:
        repo_id, private, token: as in `push_folder`.

    Returns:
        The full name, ``"namespace/name"``.

    Raises:
        SegZooError: the name is not valid, there is no token, the token may not write there, the proxy cannot be used, or
            the Hub did not answer.
    """
    hub_session()
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
    """Upload a model folder to the Hub, creating the repository if necessary.

    After an interrupted push, repeat the same call: files that have arrived are not sent again.

    Args:
        directory: a folder written by `save_model_folder` or ``save_pretrained``.
        repo_id: ``"namespace/name"``, or ``"name"`` for the namespace of the token's user.
        private: make a new repository private; an existing one stays as it is.
        token: access token; None takes the one of ``hf auth login`` or ``HF_TOKEN``.
        revision: branch to push to, created from ``main`` if necessary; None is ``main``.
        commit_message: first line of the commit message.
        ignore_patterns: files that are not uploaded, as shell patterns such as ``"step_*/*"``.

    Returns:
        The address of the repository.

    Raises:
        SegZooError: the folder has no config.json, the name is not valid, there is no token, the token may not write
            there, the proxy cannot be used, or the Hub did not answer. The message says which, and what to do.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise SegZooError(
            f"{directory}: is not a model folder (it has no config.json); push what save_pretrained wrote"
        )
    hub_session()
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
            delete_patterns=list(WEIGHT_PATTERNS),  # those of an earlier model, which readers might prefer
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
    """What went wrong at the Hub and how to fix it; None for an error that does not come from the Hub."""
    if isinstance(error, HFValidationError):
        return f"{one_line(error)} Name it as NAMESPACE/NAME, of letters, digits, '-', '_' and '.'."
    if isinstance(error, LocalTokenNotFoundError):
        return "no access token; run `hf auth login`, or set HF_TOKEN to a token with write access"
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE"
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error)
    if isinstance(error, (HTTPError, ConnectionError, TimeoutError)):
        return f"the connection to the Hub failed ({one_line(error)}); repeat the push, it goes on where it stopped"
    # The upload of a single file wraps the original error.
    return _explain(error.__cause__) if error.__cause__ is not None else None


def _explain_status(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = one_line(error.server_message or error)
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
