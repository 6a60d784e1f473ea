"""Reads the Python configs of mmcv and mmengine as data.

A checkpoint of the mmsegmentation family carries its training config as Python text, and its repository has the
config as a file that builds on base files. Both are read as literals (`statements`, `literals`) and never executed.
What cannot be read (a call of an unknown function, a name that an import brings, a base file that is not there) stops
nothing: an `Unreadable` stands in its place, which raises the error, with file and line, when somebody uses the value.
Inheritance follows mmcv: base files relative to the file, no key in two of them, dicts merged key by key,
``_delete_=True`` replaces instead of merging; ``{{ _base_.a.b }}`` (mmcv) and ``_base_.a.b`` (mmengine) read values of
the base files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segzoo.conversion.errors import ConfigReadError
from segzoo.conversion.reading.data_texts import DATA_FORMATS, parse_data
from segzoo.conversion.reading.limits import MAX_TEXT_LENGTH, Budget, TooMuch, parse
from segzoo.conversion.reading.statements import StatementReader
from segzoo.conversion.reading.unreadable import Unreadable, cause_of, is_unreadable

BaseLoader = Callable[[str], Mapping[str, Any] | None]

MAX_BASE_DEPTH = 20
_DELETE = "_delete_"
_INTERNAL_NAMES = ("_base_", "_deprecation_")
_BASE_SUFFIXES = (".py", *DATA_FORMATS)


def read_config_text(
    text: str, *, filename: str = "<config>", base_loader: BaseLoader | None = None
) -> dict[str, Any]:
    """Reads the text of a Python config as literals, never executed.

    Args:
        text: the config; at most a million characters.
        filename: name for messages.
        base_loader: gives the values of one base file for the text of its ``_base_`` entry, or None where it has no
            such file. Without a loader ``_base_`` is refused, as in the text of a checkpoint, which is resolved and
            has no folder.

    Returns:
        The names that the text assigns (those that begin with ``__``, modules, functions and classes left out), merged
        over its base files: a tree of dicts, lists, tuples, strings, numbers, booleans and None that shares nothing.
        Where a value holds more than literals, the tree has an `Unreadable`, at the top or deep inside.

    Raises:
        ConfigReadError: the text is not Python, asks for more work than any config needs, or its base files cannot be
            had. The message has the line. (An `Unreadable` raises it too, when it is used.)
    """
    budget = Budget()

    if base_loader is None:
        return _read(text, filename, budget, {}, None)

    def load_bases(references: list[str], line: int) -> dict[str, Any]:
        bases = [(reference, _loaded(base_loader, reference, filename, line, budget)) for reference in references]
        return join_bases(bases, filename, line)

    return _read(text, filename, budget, {}, load_bases)


def read_config_file(path: str | Path, *, base_loader: BaseLoader | None = None) -> dict[str, Any]:
    """Reads a Python, YAML or JSON config file and the base files that it builds on, as literals, never executed.

    Args:
        path: a ``.py``, ``.yaml`` or ``.json`` file, UTF-8.
        base_loader: gives the values of a base file of another package (``mmseg::_base_/models/fcn_r50-d8.py``), or
            None where it has no such file. Other base files lie beside the file.

    Returns:
        The merged values, as `read_config_text` gives them.

    Raises:
        ConfigReadError: the file or a base file does not exist, is no config, or asks for more work than any config
            needs, or the files build on each other in a circle.
    """
    return _read_file(Path(path), Budget(), (), base_loader or _no_package)


def _no_package(reference: str) -> None:
    """The base loader of who has no other package's files."""


def _loaded(
    loader: BaseLoader, reference: str, filename: str, line: int, budget: Budget
) -> dict[str, Any] | Unreadable:
    values = loader(reference)
    if values is None:
        cause = f"the base file {reference!r} belongs to another package, and the zoo does not have it"
        fix = "put the file next to this one and name it there, or give the resolved config (print_config prints it)"
        return Unreadable(ConfigReadError(filename, line, cause, fix))
    return copy_tree(values, filename, budget)


def _read_file(path: Path, budget: Budget, chain: tuple[Path, ...], base_loader: BaseLoader) -> dict[str, Any]:
    text = _file_text(path)
    try:
        budget.charge(1000)  # so that a few files that name each other many times end
    except TooMuch as error:
        raise ConfigReadError(path, None, str(error)) from None
    chain = (*chain, path.resolve())
    if len(chain) > MAX_BASE_DEPTH:
        raise ConfigReadError(path, None, f"the base files build on each other more than {MAX_BASE_DEPTH} deep")

    def load_bases(references: list[str], line: int) -> dict[str, Any]:
        bases: list[tuple[str, dict[str, Any] | Unreadable]] = []
        for reference in references:
            if "::" in reference:
                bases.append((reference, _loaded(base_loader, reference, str(path), line, budget)))
                continue
            base = path.parent / reference
            if not _is_there(base):
                cause = f"the base file {reference!r:.200} does not exist ({str(base):.200})"
                error = ConfigReadError(path, line, cause, "keep the configs folder whole")
                bases.append((reference, Unreadable(error)))
                continue
            if base.suffix not in _BASE_SUFFIXES and not base.is_dir():
                cause = f"the base file {reference!r:.200} is no config by its name"
                fix = f"a base file ends in {', '.join(_BASE_SUFFIXES)}"
                raise ConfigReadError(path, line, cause, fix)
            if base.resolve() in chain:
                raise ConfigReadError(path, line, f"the base file {reference!r} builds on this file in a circle")
            bases.append((reference, _read_file(base, budget, chain, base_loader)))
        return join_bases(bases, str(path), line)

    if path.suffix in DATA_FORMATS:
        return _read_data(text, path, budget, load_bases)
    folder = path.parent.absolute().as_posix()
    variables = {
        "fileDirname": folder,
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    return _read(text, str(path), budget, variables, load_bases)


def _is_there(path: Path) -> bool:
    """Whether anything has this name; False also where no file can have it, or where nobody may look."""
    try:
        return path.exists()
    except OSError:
        return False


def _file_text(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigReadError: there is none, or it is no regular file: a pipe or a device would give no end of text, or none
            ever.
    """
    if not _is_there(path):
        raise ConfigReadError(path, None, "there is no such file", "check the path of the config")
    if path.is_dir():
        raise ConfigReadError(path, None, "this is a folder", "give the config file in it")
    if not path.is_file():
        raise ConfigReadError(path, None, "this is not a regular file", "give a config file")
    if path.suffix not in (*_BASE_SUFFIXES, ".txt", ""):
        raise ConfigReadError(path, None, f"{path.suffix!r} files are not read", "give a .py, .yaml or .json config")
    try:
        if path.stat().st_size > 4 * MAX_TEXT_LENGTH:
            raise ConfigReadError(path, None, f"the file has {path.stat().st_size} bytes; no config is that long")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigReadError(path, None, "this is not text in UTF-8", "give a Python config file") from None
    except OSError as error:
        raise ConfigReadError(path, None, f"the file cannot be read ({error.strerror or error})") from None


def _read_data(
    text: str, path: Path, budget: Budget, load_bases: Callable[[list[str], int], dict[str, Any]]
) -> dict[str, Any]:
    values = parse_data(text, path)
    if not isinstance(values, dict):
        raise ConfigReadError(path, None, f"the {DATA_FORMATS[path.suffix]} is not a dict of config values")
    references = values.pop("_base_", [])
    references = [references] if isinstance(references, str) else references
    if not isinstance(references, list) or not all(isinstance(item, str) for item in references):
        raise ConfigReadError(path, None, "'_base_' must be a file name or a list of file names")
    base = load_bases(references, 1)
    return merge(copy_tree(values, str(path), budget), base, str(path))


def _read(
    text: str,
    filename: str,
    budget: Budget,
    variables: dict[str, str],
    load_bases: Callable[[list[str], int], dict[str, Any]] | None,
) -> dict[str, Any]:
    reader = StatementReader(filename, budget, variables, load_bases)
    reader.run(parse(text, filename))
    names = {
        name: value
        for name, value in reader.names.items()
        if not name.startswith("__") and name not in _INTERNAL_NAMES
    }
    base = copy_tree(reader.base or {}, filename, budget, reader.spoiled)
    if is_unreadable(base):
        raise cause_of(base)
    return merge(copy_tree(names, filename, budget, reader.spoiled), base, filename)


def join_bases(
    bases: list[tuple[str, dict[str, Any] | Unreadable]], filename: str, line: int | None
) -> dict[str, Any]:
    """The values of several base files in one dict.

    In the place of a file that is not there (an `Unreadable`), its error stands under the keys that such a file sets,
    of those without which nothing converts, unless another file sets them.

    Raises:
        ConfigReadError: a key stands in two of them.
    """
    joined: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for reference, values in bases:
        if is_unreadable(values):
            continue
        double = sorted(joined.keys() & values.keys())
        if double:
            raise ConfigReadError(
                filename,
                line,
                f"the base files {origin[double[0]]!r} and {reference!r} both set {', '.join(map(repr, double))}",
                "a key may stand in one base file only",
            )
        joined.update(values)
        origin.update(dict.fromkeys(values, reference))
    for reference, values in bases:
        if is_unreadable(values):
            joined = dict.fromkeys(_needed_keys(reference), values) | joined
    return joined


def _needed_keys(reference: str) -> tuple[str, ...]:
    """The keys that a base file sets by its place in the family's folders, of those without which nothing converts."""
    parts = reference.replace("::", "/").replace("\\", "/").removesuffix(".py").split("/")
    if "schedules" in parts or parts[-1].endswith("runtime"):
        return ()
    if "models" in parts:
        return ("model",)
    return ("test_pipeline",) if "datasets" in parts else ("model", "test_pipeline")


def merge(child: dict[str, Any], base: dict[str, Any], filename: str, where: str = "") -> dict[str, Any]:
    """``child`` merged over ``base`` as mmcv merges: dicts key by key, everything else replaced.

    ``_delete_=True`` in a dict of ``child`` replaces the dict of ``base`` instead; the marker itself is not kept.

    Args:
        child: the values that win.
        base: the values below; not changed.
        filename: name for messages.
        where: dotted path of the two dicts, for messages.

    Returns:
        The merged values. Where a dict would have to be merged into something that is none, an `Unreadable` says so.
    """
    merged = dict(base)
    for key, value in child.items():
        if key == _DELETE:
            continue
        if is_unreadable(value) or not isinstance(value, dict):
            merged[key] = _without_delete(value)
            continue
        place = f"{where}.{key}" if where else str(key)
        below = merged.get(key, {}) if not value.get(_DELETE) else {}
        if is_unreadable(below):
            continue
        if isinstance(below, dict):
            merged[key] = merge(value, below, filename, place)
        else:
            cause = f"{place!r} is a dict here and a {type(below).__name__} in the base file"
            merged[key] = Unreadable(ConfigReadError(filename, None, cause, f"add {_DELETE}=True to replace it"))
    return merged


def _without_delete(value: Any) -> Any:
    """``value`` without the ``_delete_`` markers of dicts inside of lists, where nothing is merged."""
    if is_unreadable(value):
        return value
    if isinstance(value, dict):
        return {key: _without_delete(item) for key, item in value.items() if key != _DELETE}
    if isinstance(value, list | tuple):
        return type(value)(_without_delete(item) for item in value)
    return value


def copy_tree(
    value: Any,
    filename: str,
    budget: Budget | None = None,
    spoiled: Mapping[int, tuple[Any, Unreadable]] | None = None,
) -> Any:
    """``value`` as plain dicts, lists, tuples and literals that share nothing, whatever kinds of dict it is made of.

    Args:
        value: the tree; not changed.
        filename: name for messages.
        budget: what the copy is charged to.
        spoiled: by ``id``, parts of the tree in whose place an `Unreadable` is put.

    Raises:
        ConfigReadError: it is too large or nested too deeply.
    """
    try:
        (budget or Budget()).charge_deep(value)
    except TooMuch as error:
        raise ConfigReadError(filename, None, str(error)) from None
    return _plain(value, spoiled or {})


def _plain(value: Any, spoiled: Mapping[int, tuple[Any, Unreadable]]) -> Any:
    if is_unreadable(value):
        return value
    if id(value) in spoiled:
        return spoiled[id(value)][1]
    if isinstance(value, Mapping):
        return {key: _plain(item, spoiled) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, spoiled) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item, spoiled) for item in value)
    return value
