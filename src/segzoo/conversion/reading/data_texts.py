"""Config texts in JSON and YAML, read within bounds; no message quotes them, as those of a config's Python do not."""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from segzoo.conversion.errors import ConfigLimitError, ConfigReadError
from segzoo.conversion.reading.limits import MAX_TEXT_LENGTH
from segzoo.errors import one_line

DATA_FORMATS = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}

_MAX_YAML_LENGTH = 200_000  # some seconds of PyYAML
_MAX_MERGED = 100_000
_MAX_NUMBER = 400


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, in which merges (``<<``) do not multiply and a long number takes no quadratic time."""

    def __init__(self, text: str):
        super().__init__(text)
        self._merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge" and isinstance(value, yaml.SequenceNode) and len(value.value) > 20:
                raise yaml.constructor.ConstructorError(None, None, "too many mappings are merged", key.start_mark)
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > _MAX_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "too many keys are merged", node.start_mark)

    def construct_scalar(self, node: yaml.ScalarNode) -> Hashable:
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and len(node.value) > _MAX_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, "the number is too long", node.start_mark)
        return super().construct_scalar(node)


def parse_data(text: str, path: Path) -> Any:
    """The values of a JSON or YAML text; the suffix of ``path`` is one of `DATA_FORMATS`.

    Values may share parts, which a budget must be charged for before they are copied.

    Raises:
        ConfigReadError: the text is too long, is not of the format, or is nested too deeply.
    """
    kind = DATA_FORMATS[path.suffix]
    most = MAX_TEXT_LENGTH if kind == "JSON" else _MAX_YAML_LENGTH
    if len(text) > most:
        raise ConfigLimitError(
            path, None, f"the text has {len(text)} characters; configs in {kind} have at most {most}"
        )
    line = None
    try:
        return json.loads(text) if kind == "JSON" else yaml.load(text, _Loader)  # a safe loader
    except json.JSONDecodeError as error:
        line, cause = error.lineno, error.msg
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        cause = one_line(error.problem)
    except RecursionError:
        cause = "it is nested too deeply"
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, yaml.YAMLError):
        cause = "it holds characters or values that are none"
    raise ConfigReadError(path, line, f"this is not {kind} ({cause:.200})") from None
