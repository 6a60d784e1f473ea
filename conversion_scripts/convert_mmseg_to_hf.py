#!/usr/bin/env python3
"""Convert a checkpoint of mmsegmentation 0.x or 1.x, a released one or your own, to a Hugging Face model.

    python conversion_scripts/convert_mmseg_to_hf.py work_dirs/my_model/latest.pth --output DIR

The training config is taken from the checkpoint; where it has none, give ``--config FILE`` or ``--name ZOO_NAME``.
The arguments are those of ``segzoo convert``.
"""

import sys

from segzoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
