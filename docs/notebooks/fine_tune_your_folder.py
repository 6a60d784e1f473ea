# %% [markdown]
# # Fine-tune on your folder
#
# From a folder of pictures and masks to a model folder: check the data, look at them, train, evaluate, label new pictures. Everything here runs on two CPU
# cores in about a minute.
#
# The first cell draws 48 synthetic street scenes. They stand for your folder: put your own pictures into `my_data/images/{train,validation}` and masks with one class id in
# each pixel into `my_data/annotations/{train,validation}`, and leave the cell out.

# %%
from segzoo.data.scenes import write_scenes

data = write_scenes("my_data", num_train=40, num_validation=8, size=(96, 128))
# %% [markdown]
# ## Check, and look
#
# `segzoo data check` reads every pair and names what would break a training.

# %%
# !segzoo data check my_data

# %%
# !segzoo data show my_data --output sheet.png --count 2 --cell_width 160

# %%
from PIL import Image

Image.open("sheet.png")

# %% [markdown]
# ## Train
#
# A new small model from random weights, since this notebook runs without a network. With one, `--backbone resnet50` begins with published weights, and
# `--model_name_or_path NAME` with a whole model, which is what you want for a data set of your own.

# %%
# !segzoo train --dataset_name my_data --output_dir run --backbone resnet18_v1c --random_backbone --head fcn --head_channels 32 --recipe quick --crop_size 96 128 --max_train_steps 60 --num_warmup_steps 5 --eval_steps 0 --logging_steps 20 --seed 0

# %% [markdown]
# `run` is a model folder: configuration, weights with their hash, image processor, model card, and the report of the training.

# %%
import os

sorted(os.listdir("run"))

# %% [markdown]
# ## Evaluate
#
# Scores are computed at each picture's own size. After 60 steps from random weights they are low: sky and road come first.

# %%
# !segzoo evaluate run my_data --output scores

# %% [markdown]
# ## Label pictures

# %%
import segzoo
from segzoo.images.drawing import overlay_with_legend
from segzoo.inference import Predictor

model, processor = segzoo.load("run")
names = sorted(os.listdir("my_data/images/validation"))
image = Image.open(f"my_data/images/validation/{names[0]}").convert("RGB")
labels = Predictor(model, processor).label_map(image, (image.height, image.width))
overlay_with_legend(image, labels, model.config.palette, list(model.config.id2label.values()))

# %% [markdown]
# `segzoo predict photos/ --model run --output labelled` does this for a folder; transformers loads the folder as any other model:

# %%
from transformers import pipeline

segment = pipeline("image-segmentation", "run")
[part["label"] for part in segment(image)]
