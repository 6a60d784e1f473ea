# %% [markdown]
# # Export, and run without segzoo
#
# A model as one file for onnxruntime: any picture size, RGB in, class ids out. Needs `pip install "segzoo[onnx]"`.
#
# The first cell makes a small model with random weights and some pictures; a folder from a training or a conversion does as well.

# %%
from PIL import Image
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.data.scenes import write_scenes
from segzoo.hub import save_model_folder

write_scenes("scenes", num_train=4, num_validation=1, size=(96, 128))
folder = save_model_folder(
    SegZooForSemanticSegmentation(SegZooConfig.tiny()), SegZooImageProcessor(do_resize=False), "model"
)
# %% [markdown]
# ## Export
#
# The file is compared with the model in onnxruntime, at two sizes, before it is kept.

# %%
# !segzoo export model --output model.onnx --labels --uint8

# %% [markdown]
# ## Run
#
# From here on nothing of segzoo is needed, and no torch.

# %%
import json
import os

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(name,) = os.listdir("scenes/images/validation")
picture = np.asarray(Image.open(f"scenes/images/validation/{name}").convert("RGB"))
(labels,) = session.run(None, {session.get_inputs()[0].name: picture[None]})
labels.shape

# %% [markdown]
# What the file says of itself:

# %%
about = session.get_modelmeta().custom_metadata_map
print(about["input"])
print(about["output"])
print(json.loads(about["class_names"]))

# %% [markdown]
# ## The same labels as the model

# %%
import segzoo
from segzoo.inference import Predictor

model, processor = segzoo.load("model")
expected = Predictor(model, processor).label_map(Image.fromarray(picture), picture.shape[:2]).numpy()
f"equal at {(labels[0] == expected).mean():.2%} of the pixels"

# %% [markdown]
# ## In 8 bits
#
# Ranges are taken from pictures like those that the model will see.

# %%
# !segzoo export model --output int8.onnx --int8 scenes/images/train
