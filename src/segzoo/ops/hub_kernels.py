"""The operators' layers and the kernels that the ``kernels`` library can put in their place."""

import os
from pathlib import Path
from typing import Any

from segzoo.errors import SegZooError
from segzoo.ops.dcnv3 import DCNv3
from segzoo.ops.ms_deform_attn import MSDeformAttn

# The folder of each layer's kernel under kernels/; the kernel's layer has the same name as ours.
_FOLDERS = {DCNv3: "dcnv3", MSDeformAttn: "ms_deform_attn"}


def kernel_mapping(folder: str | os.PathLike, *, device: str = "cuda") -> dict[str, dict[str, Any]]:
    """The mapping from segzoo's layers to kernels built in a folder, as the ``kernels`` library takes it.

    Nothing has to be mapped for speed: on GPUs the operators launch the same kernels from the installed package. The
    mapping is for kernels that were changed or built elsewhere::

        with kernels.use_kernel_mapping(kernel_mapping("built")):
            kernels.kernelize(model, mode=kernels.Mode.INFERENCE)

    After ``kernels.register_kernel_mapping(kernel_mapping("built"))``, ``from_pretrained(..., use_kernels=True)`` does
    it too. Models on other devices keep segzoo's own operators.

    Args:
        folder: what ``python kernels/build.py --output FOLDER`` wrote.
        device: the kind of device that the kernels are for.

    Raises:
        SegZooError: ``kernels`` is not installed, or the folder has no kernels.
    """
    try:
        from kernels import LocalLayerRepository
    except ImportError as error:
        raise SegZooError(
            f'kernel_mapping needs the kernels library ({error}); pip install "segzoo[kernels]"'
        ) from error
    mapping = {}
    for layer, name in _FOLDERS.items():
        repository = Path(folder).absolute() / name
        if not (repository / "build").is_dir():
            raise SegZooError(f"{repository} has no kernel; write it with python kernels/build.py --output {folder}")
        layer_name = layer.kernel_layer_name
        mapping[layer_name] = {device: LocalLayerRepository(repository, layer_name=layer_name)}
    return mapping
