# %% [markdown]
# # Convert a checkpoint
#
# From a `.pth` of mmsegmentation to a model folder that transformers loads, without mmcv, mmengine or a compiler.
#
# The first cell makes `iter_80000.pth`, a small checkpoint in the format of mmsegmentation 0.x with random weights. It stands for yours.

# %%
import torch
from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.reading.configs import read_config_file
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import original_state_dict

CONFIG = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='ResNetV1c', depth=18, num_stages=4, out_indices=(0, 1, 2, 3), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4),
        norm_cfg=norm_cfg, norm_eval=False, style='pytorch', contract_dilation=True),
    decode_head=dict(
        type='PSPHead', in_channels=512, in_index=3, channels=128, pool_scales=(1, 2, 3, 6), dropout_ratio=0.1, num_classes=4,
        norm_cfg=norm_cfg, align_corners=False, loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    test_cfg=dict(mode='whole'))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(256, 128), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg),
        dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])])]
"""
with open("my_config.py", "w") as file:
    file.write(CONFIG)

torch.manual_seed(0)
translation = translate_config(read_config_file("my_config.py"))
weights = original_state_dict(SegZooForSemanticSegmentation(translation.config).state_dict(), translation.components)
torch.save(
    {"state_dict": weights, "meta": {"config": CONFIG, "CLASSES": ("sky", "road", "car", "tree")}}, "iter_80000.pth"
)
list(weights)[:4]

# %% [markdown]
# ## What would happen
#
# The config is read as literals and never executed. A dry run needs no weights and writes nothing.

# %%
# !segzoo convert --dry_run --config my_config.py

# %% [markdown]
# An option that would change the numbers and that segzoo does not have is refused by name. So is one that nobody has heard of:

# %%
with open("other_config.py", "w") as file:
    file.write(CONFIG.replace("depth=18,", "depth=18, shiny_new_option=1,"))

# !segzoo convert --dry_run --config other_config.py

# %% [markdown]
# ## Convert

# %%
# !segzoo convert iter_80000.pth --output model --report

# %%
import json
import os

report = json.load(open("model/conversion_report.json"))
print(sorted(os.listdir("model")))
print(sorted(report))

# %% [markdown]
# ## Use it
#
# Every weight has arrived, under the name that the key tables give it.

# %%
import segzoo

model, processor = segzoo.load("model")
kernel = weights["decode_head.conv_seg.weight"]
print(
    [
        name
        for name, tensor in model.state_dict().items()
        if tensor.shape == kernel.shape and torch.equal(tensor, kernel)
    ]
)
print(model.config.id2label)

# %%
import numpy as np
from PIL import Image
from transformers import pipeline

picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8))
[part["label"] for part in pipeline("image-segmentation", "model")(picture)]
