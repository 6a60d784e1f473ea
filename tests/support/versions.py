"""What the lowest versions of our dependencies cannot do."""

from importlib.metadata import version

import pytest
from packaging.version import Version

TORCH, TRANSFORMERS = (Version(version(name)) for name in ("torch", "transformers"))

# Outputs of transformers' kind are registered when they are made, which torch 2.8 cannot trace.
whole_graph = pytest.mark.skipif(
    Version("5.6") > TRANSFORMERS and Version("2.9") > TORCH,
    reason="compiling a model as one graph needs torch 2.9 or transformers 5.6",
)

# Models of any size in half precision at opset 17, and an InternImage of any size: torch 2.8 says that they have no form in ONNX.
onnx_of_any_size = pytest.mark.skipif(Version("2.9") > TORCH, reason="the exporter of torch 2.8 writes less to ONNX")

# With transformers 5.5 layers whose weights lie on disk under device_map find them on the wrong device. Which version
# mended that was not looked up; 5.24 has it.
device_map_with_disk = pytest.mark.skipif(
    Version("5.24") > TRANSFORMERS, reason="device_map with disk needs a newer transformers than 5.5"
)
ONEFORMER_NEEDS_TEXTS = Version("5.23") > TRANSFORMERS
oneformer_needs_texts = pytest.mark.skipif(
    ONEFORMER_NEEDS_TEXTS, reason="OneFormer without texts learns with transformers 5.23 or newer"
)

# The minima of Triton 3.4's interpreter (torch 2.8) are NaN where one number is; a GPU's are the other number.
triton_interpreter = pytest.mark.skipif(
    Version("2.9") > TORCH, reason="the interpreter of torch 2.8's Triton computes minima otherwise than GPUs"
)

DATASETS_WITHOUT_TORCH = Version(version("datasets")) >= Version("5")  # 4.4 imports torch itself where it is installed

SEGFORMER_CHECKPOINTS = Version("5.6") <= TRANSFORMERS  # 5.5 has no gradient checkpointing in SegFormer, 5.24 has
