#!/usr/bin/env python3
"""Convert a segmentation checkpoint of InternImage (https://github.com/OpenGVLab/InternImage) to a Hugging Face model.

    python conversion_scripts/convert_internimage_to_hf.py upernet_internimage_t_512_160k_ade20k.pth --output DIR

The training config is taken from the checkpoint; where it has none, give ``--config FILE`` or ``--name ZOO_NAME``. In the place of a
file, the name of a released checkpoint (``segzoo list internimage``) downloads it. A classification checkpoint, such as
``internimage_l_22k_192to384.pth``, becomes a backbone to train from: give its folder to ``--backbone`` of the training script.

The arguments are those of ``segzoo convert``.
"""

import sys

from segzoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
