"""A saved folder in clean processes that never say ``import segzoo``, without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import segzoo
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.heads import FCNHeadConfig
from segzoo.hub import save_model_folder

CLASSES = {0: "road", 1: "sky", 2: "tree"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working directory with a model folder, an image, and the logits that the model gives for it."""
    torch.manual_seed(0)
    config = SegZooConfig.from_backbone(
        ResNetConfig.tiny(),
        FCNHeadConfig(channels=8, num_convs=1, concat_input=False),
        auxiliary=False,
        id2label=CLASSES,
    )
    model = SegZooForSemanticSegmentation(config).eval()
    processor = SegZooImageProcessor(size={"height": 64, "width": 96})
    home = tmp_path_factory.mktemp("clean")
    save_model_folder(model, processor, home / "a-model v1.0")
    pixels = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(home / "image.png")
    with torch.no_grad():
        outputs = model(**processor(images=Image.open(home / "image.png"), return_tensors="pt"))
    label_map = processor.post_process_semantic_segmentation(outputs, target_sizes=[(40, 60)])[0]
    torch.save({"logits": outputs.logits, "label_map": label_map}, home / "expected.pt")
    processor.save_pretrained(home / "processor")
    segformer = SegformerForSemanticSegmentation(SegformerConfig(hidden_sizes=[8] * 4, num_attention_heads=[1] * 4))
    save_model_folder(segformer, processor, home / "segformer")
    return home


PROGRAMS = {
    "auto_classes": """
import sys, torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
assert "segzoo" not in sys.modules
folder = "a-model v1.0"
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
config = AutoConfig.from_pretrained("./" + folder + "/", trust_remote_code=True)
assert type(config).__module__ == "segzoo.configuration_segzoo", type(config)
model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    logits = model(**processor(images=Image.open("image.png"), return_tensors="pt")).logits
torch.testing.assert_close(logits, torch.load("expected.pt")["logits"])

# What was loaded so can be built anew, saved, and loaded without trust: segzoo is imported by now.
AutoModelForSemanticSegmentation.from_config(config)
model.save_pretrained("again")
processor.save_pretrained("again")
AutoModelForSemanticSegmentation.from_pretrained("again")
AutoImageProcessor.from_pretrained("again")
""",
    "auto_model": """
import sys
from transformers import AutoImageProcessor, AutoModel
assert "segzoo" not in sys.modules
for folder in ("processor", "segformer"):
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(processor).__name__ == "SegZooImageProcessor" and processor.size["width"] == 96
assert type(AutoModel.from_pretrained("a-model v1.0", trust_remote_code=True)).__name__ == "SegZooForSemanticSegmentation"
assert type(AutoModel.from_pretrained("a-model v1.0")).__name__ == "SegZooForSemanticSegmentation"
""",
    "pipeline": """
import sys, numpy, torch
from transformers import pipeline
assert "segzoo" not in sys.modules
segment = pipeline("image-segmentation", model="a-model v1.0", trust_remote_code=True)
found = segment("image.png")
expected = torch.load("expected.pt")["label_map"].numpy()
names = {0: "road", 1: "sky", 2: "tree"}
assert sorted(part["label"] for part in found) == sorted(names[i] for i in numpy.unique(expected))
for part in found:
    wanted = [[names[i] == part["label"] for i in row] for row in expected.tolist()]
    assert (numpy.asarray(part["mask"]) > 0).tolist() == wanted
""",
    "missing": """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "segzoo":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())

from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
for auto_class in (AutoConfig, AutoModelForSemanticSegmentation, AutoImageProcessor):
    try:
        auto_class.from_pretrained("a-model v1.0", trust_remote_code=True)
    except ImportError as error:
        assert "pip install segzoo" in str(error), error
    else:
        raise SystemExit(f"{auto_class} loaded without segzoo")
for auto_class, folder in (
    (AutoConfig, "a-model v1.0"), (AutoModelForSemanticSegmentation, "a-model v1.0"), (AutoImageProcessor, "segformer")
):
    try:
        auto_class.from_pretrained(folder)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    else:
        raise SystemExit(f"{auto_class} loaded {folder} without trust")
try:
    pipeline("image-segmentation", model="a-model v1.0", trust_remote_code=True)
except ImportError as error:
    assert "pip install segzoo" in str(error), error
else:
    raise SystemExit("the pipeline loaded without segzoo")
""",
}

# A clean process imports transformers and nothing of segzoo, and forks for each program: imports take seconds.
EACH = """
import json, os, sys, traceback
import PIL.Image, torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, pipeline
torch.set_num_threads(1)
ended = {}
for name, program in json.load(sys.stdin).items():
    child = os.fork()
    if child == 0:
        for descriptor in (1, 2):
            os.dup2(os.open(f"{name}.{descriptor}", os.O_WRONLY | os.O_CREAT), descriptor)
        code = 1
        try:
            exec(compile(program, name, "exec"), {"__name__": "__main__"})
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    ended[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
json.dump(ended, open("ended.json", "w"))
"""


@pytest.fixture(scope="module")
def ended(home):
    """What each of the programs ended with, and what it printed as errors."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "hf"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(segzoo.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", EACH],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        input=json.dumps(PROGRAMS),
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads((home / "ended.json").read_text())
    return {name: (code, (home / f"{name}.2").read_text()) for name, code in codes.items()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_loads_or_says_what_is_missing(name, ended):
    code, errors = ended[name]
    assert code == 0, errors
    assert "is not supported for image-segmentation" not in errors


def test_what_was_loaded_so_is_saved_whole(ended, home):
    assert {path.name for path in (home / "again").iterdir()} == {
        path.name for path in (home / "a-model v1.0").iterdir()
    }
