#!/usr/bin/env python3
"""Convert a scene-parsing model of MIT (https://github.com/CSAILVision/semantic-segmentation-pytorch) to a Hugging Face model.

    python conversion_scripts/convert_mit_scene_parsing_to_hf.py encoder_epoch_20.pth decoder_epoch_20.pth \
        --name ade20k-resnet50dilated-ppm_deepsup --output DIR

Such a model is two files without a config. The architecture is taken from ``--name`` (a released model), from ``--config`` (the YAML file
that you trained with) or, except for ResNets, from the weights themselves. The arguments are those of ``segzoo convert``.
"""

import sys

from segzoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
