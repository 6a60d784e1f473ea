"""What the lowest versions of our dependencies cannot do."""

from importlib.metadata import version

import pytest
from packaging.version import Version

TRANSFORMERS = Version(version("transformers"))

# Outputs of transformers' kind are registered when they are made, which torch 2.8 cannot trace.
whole_graph = pytest.mark.skipif(
    Version("5.6") > TRANSFORMERS and Version(version("torch")) < Version("2.9"),
    reason="compiling a model as one graph needs torch 2.9 or transformers 5.6",
)
