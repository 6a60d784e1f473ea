#!/usr/bin/env python3
"""Convert a segmentation checkpoint of ViT-Adapter (https://github.com/czczup/ViT-Adapter) to a Hugging Face model.

    python conversion_scripts/convert_vit_adapter_to_hf.py upernet_deit_adapter_tiny_512_160_ade20k.pth.tar --output DIR

The training config is taken from the checkpoint; where it has none, give ``--config FILE`` or ``--name ZOO_NAME``.
The arguments are those of ``segzoo convert``.
"""

import sys

from segzoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
