import json

import numpy as np
import pytest
import torch
import yaml
from torchvision import tv_tensors

from segzoo import SegZooError
from segzoo.data import Augmentation, build_train_transform
from segzoo.data.augmentation import pipeline_names
from segzoo.data.pipelines import PipelineStep, kept_pipeline, read_pipeline

TORCHVISION = [
    {"RandomRotation": {"degrees": [40, 40], "interpolation": "bilinear"}},
    {"RandomApply": {"p": 1.0, "transforms": [{"ColorJitter": {"brightness": 0.4}}]}},
    "RandomHorizontalFlip",
]


def albumentations(*transforms):
    import albumentations as library

    return library.to_dict(library.Compose(list(transforms)))


@pytest.fixture(scope="module")
def library():
    pytest.MonkeyPatch().setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    return pytest.importorskip("albumentations")


@pytest.fixture
def write(tmp_path):
    def write(content, name="aug.yaml"):
        (tmp_path / name).write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content))
        return tmp_path / name

    return write


@pytest.fixture
def pair(rng):
    """A picture whose channels are ids times 20, and its mask, of the classes 0 to 4 in squares of 8 pixels."""
    ids = np.kron(rng.integers(0, 5, (8, 10)), np.ones((8, 8))).astype(np.uint8)
    return np.repeat(ids[..., None] * 20, 3, axis=-1), ids


def apply(pipeline, pair, seed=0, ignore_index=255):
    step = PipelineStep(pipeline, ignore_index)
    image, mask = pair
    return step(
        tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
        None if mask is None else tv_tensors.Mask(torch.from_numpy(mask)),
        np.random.default_rng(seed),
    )


def test_torchvision_moves_picture_and_mask_together_and_what_is_outside_does_not_count(write, pair):
    pipeline = read_pipeline(write(TORCHVISION[:1]))
    image, mask = apply(pipeline, pair)
    assert set(mask.unique().tolist()) <= {0, 1, 2, 3, 4, 255} and (mask == 255).float().mean() > 0.1
    assert (image[:, mask == 255].float().mean()) < 6  # black, but for the border of nearest and bilinear
    inside = mask != 255
    assert (image[0][inside].float() - 20.0 * mask[inside]).abs().median() == 0
    _, other = apply(pipeline, pair, ignore_index=-100)
    assert (other == -100).equal(mask == 255)


def test_albumentations_does_the_same(write, pair, library):
    pipeline = read_pipeline(write(albumentations(library.Affine(rotate=(40, 40), p=1.0)), "aug.json"))
    assert list(pipeline) == ["albumentations"] and pipeline_names(pipeline) == ["Affine"]
    image, mask = apply(pipeline, pair)
    assert set(mask.unique().tolist()) <= {0, 1, 2, 3, 4, 255} and (mask == 255).float().mean() > 0.1
    inside = mask != 255
    assert (image[0][inside].float() - 20.0 * mask[inside]).abs().median() == 0
    picture, none = apply(pipeline, (pair[0], None))
    assert none is None and picture.equal(image)


def test_the_generator_decides_and_two_transforms_of_albumentations_are_independent(write, pair, library):
    flips = albumentations(library.HorizontalFlip(p=0.5), library.VerticalFlip(p=0.5), library.Transpose(p=0.0))
    for content in (TORCHVISION, flips):
        pipeline = read_pipeline(write(content))
        results = [apply(pipeline, pair, seed)[0] for seed in range(12)]
        torch.manual_seed(5)
        again = [apply(pipeline, pair, seed)[0] for seed in reversed(range(12))][::-1]
        assert all(a.equal(b) for a, b in zip(results, again, strict=True))
    kinds = {tuple(result.flatten()[:200].tolist()) for result in results}
    assert len(kinds) == 4  # neither, each, both


def test_it_takes_the_place_of_all_but_crop_and_normalisation(write, pair):
    pipeline = read_pipeline(write([{"RandomCrop": {"size": [48, 40]}}]))
    augmentation = Augmentation(pipeline=pipeline, crop_size=(40, 56))
    transform = build_train_transform(augmentation, image_mean=(0.0,) * 3, image_std=(1.0,) * 3, rescale_factor=1.0)
    done = transform(*pair, np.random.default_rng(0))
    assert done["pixel_values"].shape == (3, 40, 56) and done["labels"].shape == (40, 56)
    assert (done["labels"][:, 40:] == 255).all() and (done["labels"][:, :40] != 255).all()
    assert (done["pixel_values"][0, :, :40] == 20 * done["labels"][:, :40]).all()  # no photometric distortion


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["RandomHorisontalFlip"], "no transform 'RandomHorisontalFlip'; did you mean 'RandomHorizontalFlip'"),
        ([{"RandomRotation": {"degree": 3}}], "RandomRotation has no argument 'degree'; did you mean 'degrees'"),
        ([{"RandomRotation": {"degrees": -3}}], "RandomRotation cannot be made with"),
        ([{"Resize": {"size": 8, "interpolation": "linear"}}], "interpolation is 'linear'; it is one of"),
        (["Lambda"], "Lambda cannot be used here"),
        (["Normalize"], "Normalize cannot be used here"),
        (["os.system"], "no transform 'os.system'"),
        ([{"RandomApply": {"transforms": ["ToTensor"]}}], "ToTensor cannot be used here"),
        ([5], "5 is no transform"),
        ({"transforms": []}, "neither a list of torchvision's"),
        ([], "neither a list of torchvision's"),
    ],
)
def test_wrong_files_of_torchvision_are_refused(write, content, message):
    path = write(content)
    with pytest.raises(SegZooError, match=message) as error:
        read_pipeline(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"__class_fullname__": "HorizontalFlop"}, "no transform 'HorizontalFlop'; did you mean 'HorizontalFlip'"),
        ({"__class_fullname__": "HorizontalFlip", "q": 1}, "HorizontalFlip has no argument 'q'"),
        ({"__class_fullname__": "HorizontalFlip", "p": "often"}, "HorizontalFlip cannot be made with"),
        ({"__class_fullname__": "Normalize"}, "Normalize cannot be used here"),
        ({"__class_fullname__": "other.package.Flip"}, "no transform 'other.package.Flip'"),
        ({"p": 1}, "is no transform that albumentations.save has written"),
    ],
)
def test_wrong_files_of_albumentations_are_refused(write, node, message, library):
    content = {"transform": {"__class_fullname__": "Compose", "transforms": [node]}}
    with pytest.raises(SegZooError, match=message):
        read_pipeline(write(content))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(SegZooError, match=r"no\.yaml: cannot be read"):
        read_pipeline(tmp_path / "no.yaml")
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(SegZooError, match=r"a\.json: is neither YAML nor JSON"):
        read_pipeline(tmp_path / "a.json")


def test_what_fails_at_a_picture_is_told_with_its_size(write, pair):
    pipeline = read_pipeline(write([{"RandomCrop": {"size": 200}}]))
    with pytest.raises(SegZooError, match=r"RandomCrop cannot be applied to a picture of 80x64"):
        apply(pipeline, pair)
    with pytest.raises(SegZooError, match="ids 0 to 254"):
        apply(pipeline, (pair[0], pair[1].astype(np.int32) + 300))
    with pytest.raises(SegZooError, match="reduced_decoding follows from the random scale"):
        Augmentation(pipeline=pipeline, reduced_decoding=True)


def test_a_training_that_goes_on_keeps_its_transforms(tmp_path):
    kept, other = {"torchvision": ["RandomVerticalFlip"]}, {"torchvision": ["RandomHorizontalFlip"]}
    assert kept_pipeline(None, None, kept) == kept_pipeline("gone.yaml", None, kept) == kept
    assert kept_pipeline(None, None, None) is None
    assert kept_pipeline("aug.yaml", other, None) == other  # a checkpoint without them
    with pytest.raises(SegZooError, match="aug.yaml: the training began with .*VerticalFlip.*these are .*Horizontal"):
        kept_pipeline("aug.yaml", other, kept)
    with pytest.raises(SegZooError, match="gone.yaml: cannot be read"):
        kept_pipeline(str(tmp_path / "gone.yaml"), None, None)


def test_a_class_255_is_refused_where_another_id_is_ignored():
    step = PipelineStep({"torchvision": ["RandomHorizontalFlip"]}, ignore_index=-1)
    mask = torch.full((8, 8), 255, dtype=torch.uint8)
    with pytest.raises(SegZooError, match="works with the ids 0 to 254; a mask here has others"):
        step(
            tv_tensors.Image(torch.zeros(3, 8, 8, dtype=torch.uint8)), tv_tensors.Mask(mask), np.random.default_rng(0)
        )
