import datasets
import numpy as np
import PIL.Image
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """What `datasets` copies stays with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def make_folder(tmp_path, rng):
    """Writes a folder of pairs: {split: [stem, ...]} -> its path."""

    def make(splits, *, images="images", annotations="annotations", extension=".jpg", size=(24, 32), classes=5):
        for split, stems in splits.items():
            for stem in stems:
                image = tmp_path / images / split / f"{stem}{extension}"
                label = tmp_path / annotations / split / f"{stem}.png"
                image.parent.mkdir(parents=True, exist_ok=True)
                label.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(image)
                PIL.Image.fromarray(rng.integers(0, classes, size, dtype=np.uint8)).save(label)
        return tmp_path

    return make
