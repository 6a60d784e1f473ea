"""Names on the Hugging Face Hub: what can be one, and a Hub that is asked once, not for a minute.

The loaders of transformers and `datasets` ask an unreachable Hub again and again, for each of many files. Here it is
asked first, briefly; where it does not answer, they look into their caches alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.request import getproxies

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from segzoo.errors import SegZooError, one_line

_WORDS = {"model": "model folder", "dataset": "folder or file"}
_FILE_SUFFIXES = (
    *(".zip", ".tar", ".gz", ".7z", ".rar", ".parquet", ".odgt", ".json", ".jsonl", ".csv", ".txt", ".yaml", ".py"),
    *(".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".onnx", ".pt2"),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif"),
)
_PAUSE = 60.0  # seconds in which a Hub that did not answer is not asked again
_unreachable: dict[str, tuple[float, str]] = {}


def no_hub_name(name: str) -> str | None:
    """Why a text cannot be a name on the Hub, in words; None if it can."""
    if name.startswith(("/", "./", "../", "~")) or "\\" in name or Path(name).is_absolute():
        return "it is a path"
    if name.rstrip("/").count("/") > 1:
        return "names there have one slash at most"
    if name.lower().endswith(_FILE_SUFFIXES):
        return f"it ends in {Path(name).suffix}, as files do"
    try:
        validate_repo_id(name)
    except HFValidationError:
        return "names there are of letters, digits, '-', '_' and '.'"
    return None


def refuse_wrong_path(name: str, kind: Literal["model", "dataset"] = "model") -> None:
    """Refuse what is neither on this machine nor can be a name on the Hub; nothing is asked.

    Args:
        name: path or Hub name.
        kind: what it should be.

    Raises:
        SegZooError: it can be neither; the message says why.
    """
    path = Path(name).expanduser()
    if kind == "model" and path.exists() and not Path(name).exists():
        raise SegZooError(f"{name}: in quotes, and in Python, ~ does not stand for the home folder; give {path}")
    if path.exists() and not (kind == "model" and path.is_file()):
        return
    if path.is_file():
        raise SegZooError(f"{name}: is a file; give a model folder, or a name on the Hub")
    reason = no_hub_name(name)
    if reason is not None:
        start = "There is no folder or file" if kind == "dataset" else f"{name}: there is no such model folder"
        shown = f" {path}" if kind == "dataset" else ""
        raise SegZooError(f"{start}{shown}, and it is no name on the Hub ({reason}); check the path")


def hub_session() -> Any:
    """The client through which huggingface_hub sends all requests, to the Hub and elsewhere.

    Raises:
        SegZooError: it cannot use the proxy that the environment names.
    """
    try:
        return get_session()
    except (ImportError, ValueError) as error:
        found = {f"{kind.upper()}_PROXY": address for kind, address in getproxies().items()}
        odd = [name for name, address in found.items() if not address.lower().startswith(("http://", "https://"))]
        cause = "the package socksio is missing" if isinstance(error, ImportError) else one_line(error)
        raise SegZooError(
            f"{' and '.join(odd or found)}: this proxy cannot be used ({cause}); for a SOCKS5 proxy, pip install socksio; "
            "otherwise give the address of an http proxy, or unset it"
        ) from error


@contextmanager
def hub_or_cache(
    name: str,
    kind: Literal["model", "dataset"] = "model",
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Iterator[None]:
    """A context for loading a name: from this machine, the Hub, or the cache if the Hub does not answer.

    The Hub is asked at most twice, for 5 seconds each (half of ``HF_HUB_ETAG_TIMEOUT``, in seconds). If it does not answer, the process is in offline mode
    within the context. Nothing is asked for what exists as a path.

    Args:
        name: path or Hub name.
        kind: what it names.
        revision: branch, tag or commit on the Hub; None: its main branch.
        token: access token; None or True takes the one of ``hf auth login`` or ``HF_TOKEN``.

    Raises:
        SegZooError: there is no such path, and the name cannot be one on the Hub, the Hub does not have it or does not
            show it, or it does not answer and the cache has no copy. The message says what was tried.
    """
    refuse_wrong_path(name, kind)
    if Path(name).expanduser().exists():
        yield
        return
    trouble = _ask(name, kind, revision, token)
    if trouble is None:
        yield
        return
    with _offline(kind):
        try:
            yield
        except SegZooError:
            raise
        except OSError as error:  # what transformers and datasets raise where the cache has no copy
            if isinstance(error, FileNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                raise  # a file that the copy lacks
            raise SegZooError(
                f"{name}: there is no such {_WORDS[kind]} here, {trouble}, and the cache of earlier downloads has no "
                "copy; check the name and the connection"
            ) from error


def _ask(name: str, kind: str, revision: str | None, token: str | bool | None) -> str | None:
    """Ask the Hub whether it has a repository.

    Returns:
        None if it has; in words why it gave no answer.

    Raises:
        SegZooError: the Hub does not have it, or does not show it, or the proxy cannot be used.
    """
    if constants.HF_HUB_OFFLINE:
        return "offline mode is on (HF_HUB_OFFLINE)"
    hub_session()
    api = HfApi(token=token)
    since, said = _unreachable.get(api.endpoint, (-_PAUSE, ""))
    if time.monotonic() - since < _PAUSE:
        return said
    timeout = constants.HF_HUB_ETAG_TIMEOUT / 2
    for attempt in (1, 2):
        try:
            api.repo_info(name, repo_type=kind, revision=revision, timeout=timeout)
            return None
        except RevisionNotFoundError:
            raise SegZooError(
                f"{name}: {api.endpoint} has it, but no revision {revision!r}; check --revision"
            ) from None
        except GatedRepoError:
            return None  # its files are asked for, with the token; the answer to that says what to do
        except RepositoryNotFoundError:
            raise SegZooError(_not_there(name, kind, api.endpoint)) from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403, 404):
                raise SegZooError(_not_there(name, kind, api.endpoint)) from None
            said = f"{api.endpoint} answered {status} only"
        except (HTTPError, OSError) as error:
            reason = one_line(error) or type(error).__name__
            said = f"{api.endpoint} did not answer ({reason}; asked twice, for {timeout:g} s each)"
        if attempt == 1:
            time.sleep(0.5)
    _unreachable[api.endpoint] = time.monotonic(), said
    return said


def _not_there(name: str, kind: str, endpoint: str) -> str:
    what = "data set" if kind == "dataset" else "model"
    return (
        f"{name}: there is no such {_WORDS[kind]} here, and {endpoint} has no {what} of this name, or does not show it "
        "to you; check the path or the name, and for a private one the token"
    )


@contextmanager
def _offline(kind: str) -> Iterator[None]:
    """A context in which the libraries that load models, or data sets, look into their caches alone."""
    modules: list[Any] = [constants]
    if kind == "dataset":
        import datasets

        modules.append(datasets.config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
