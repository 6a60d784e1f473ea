# %% [markdown]
# # Huge pictures
#
# A picture that does not fit through a model at once goes through it in windows. Their logits are never held all together: memory is bounded by some rows of the picture.
#
# The first cell makes a picture of 6000 x 4000 pixels out of synthetic scenes, and a small model with random weights.

# %%
import numpy as np
import segzoo
from PIL import Image
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.data.scenes import draw_scene
from segzoo.hub import save_model_folder

scenes = [draw_scene(index, size=(400, 600))[0] for index in range(4)]
rows = [np.concatenate([scenes[(i + j) % 4] for j in range(10)], axis=1) for i in range(10)]
Image.fromarray(np.concatenate(rows)).save("huge.png")
folder = save_model_folder(
    SegZooForSemanticSegmentation(SegZooConfig.tiny()), SegZooImageProcessor(do_resize=False), "model"
)
# %% [markdown]
# ## On the command line
#
# `--window` is the size that the model is applied to, best that of its training crops. `--stride` is two thirds of it by default, so that windows overlap and borders are averaged.

# %%
# !segzoo predict huge.png --model model --output labelled --slide --window 512 --stride 512

# %%
Image.open("labelled/huge_overlay.jpg").reduce(8)

# %% [markdown]
# ## In Python
#
# The processor must not shrink the picture, and `windows_per_pass` says how many windows go through the model at once.

# %%
from segzoo.inference import InferenceSettings, Predictor

model, processor = segzoo.load("model")
settings = InferenceSettings(window_size=(512, 512), window_stride=(512, 512), windows_per_pass=2)
image = Image.open("huge.png").convert("RGB")
labels = Predictor(model, processor, settings).label_map(image, (image.height, image.width))
labels.shape, labels.dtype

# %% [markdown]
# ## The memory
#
# All logits of this picture for 150 classes in float32 would be:

# %%
f"{6000 * 4000 * 150 * 4 / 2**30:.1f} GiB"

# %% [markdown]
# The peak of a process of its own, with the picture, its label map and the libraries in it:

# %%
PROGRAM = """
import resource, segzoo
from PIL import Image
from segzoo.inference import InferenceSettings, Predictor

model, processor = segzoo.load("model")
settings = InferenceSettings(window_size=(512, 512), window_stride=(512, 512), windows_per_pass=2)
image = Image.open("huge.png").convert("RGB")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Predictor(model, processor, settings).label_map(image, (image.height, image.width))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"the label map took {(after - before) / 1024:.0f} MiB above what lay in memory before")
"""
with open("program.py", "w") as file:
    file.write(PROGRAM)

# !python program.py
