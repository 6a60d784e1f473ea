import shutil

import pytest

from segzoo.data import DataSource
from segzoo.data.scenes import write_scenes
from segzoo.data.splits import load_splits
from segzoo.errors import SegZooError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", num_train=8, num_validation=3, size=(32, 48))


@pytest.fixture
def only_train(scenes, tmp_path):
    for kind in ("images", "annotations"):
        shutil.copytree(scenes / kind / "train", tmp_path / kind)
    return tmp_path


def names(rows):
    return rows["image_path"]


def test_both_splits(scenes):
    train, validation = load_splits(str(scenes))
    assert len(train) == 8 and len(validation) == 3


def test_a_part_is_set_aside_and_the_seed_decides_which(only_train):
    train, validation = load_splits(str(only_train), train_val_split=0.25, seed=3)
    assert len(train) == 6 and len(validation) == 2 and not set(names(train)) & set(names(validation))
    assert names(load_splits(str(only_train), train_val_split=0.25, seed=3)[1]) == names(validation)
    others = [set(names(load_splits(str(only_train), train_val_split=0.25, seed=seed)[1])) for seed in range(6)]
    assert any(other != set(names(validation)) for other in others)


def test_groups_stay_on_one_side(make_folder):
    """Whatever the seed; a copy elsewhere, and files in another order, are split in the same way."""
    stems = [f"flight{flight}/p{number}" for flight in range(6) for number in range(1 + flight)]
    folder = make_folder({"train": stems})

    def groups(rows):
        return {name.split("/")[-2] for name in names(rows)}

    chosen = set()
    for seed in range(6):
        train, validation = load_splits(folder, train_val_split=0.3, train_val_groups=r"flight\d", seed=seed)
        assert not groups(train) & groups(validation) and len(groups(train) | groups(validation)) == 6
        largest = max(len([name for name in names(validation) if group in name]) for group in groups(validation))
        assert 0.3 * 21 <= len(validation) < 0.3 * 21 + largest and len(train) + len(validation) == 21
        chosen.add(tuple(sorted(groups(validation))))
    assert len(chosen) > 1
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}_flight9"))
    for pattern in (r"flight\d", r"(flight)(\d)/"):
        train, validation = load_splits(copy, train_val_split=0.3, train_val_groups=pattern, seed=5)
        assert tuple(sorted(groups(validation))) in chosen and not groups(train) & groups(validation)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "is no regular expression"),
        ("flight(7)", "does not fit images/train/"),
        (r"\.jpg$", "finds one group alone"),
    ],
)
def test_groups_that_cannot_be(make_folder, pattern, words):
    with pytest.raises(SegZooError, match=words):
        load_splits(make_folder({"train": ["a", "b"]}), train_val_groups=pattern)


def test_groups_where_nothing_is_set_aside(scenes):
    with pytest.raises(SegZooError, match="has a validation split, so that nothing is set aside"):
        load_splits(scenes, train_val_groups=".*")


def test_a_few_of_each(scenes):
    train, validation = load_splits(str(scenes), max_train_samples=5, max_eval_samples=100, seed=1)
    assert len(train) == 5 and len(validation) == 3
    assert names(train) == names(load_splits(str(scenes), max_train_samples=5, seed=1)[0])


def test_a_share_is_the_beginning_of_a_shuffled_order(scenes):
    def of(share, **options):
        return names(load_splits(str(scenes), train_fraction=share, seed=1, **options)[0])

    half = of(0.5)
    assert half == of(1.0)[:4] and sorted(of(1.0)) == sorted(names(load_splits(str(scenes))[0]))
    assert of(0.3) == half[:2] and of(0.01) == half[:1] and of(0.5, max_train_samples=3) == half[:3]
    assert half != names(load_splits(str(scenes), train_fraction=0.5, seed=2)[0])
    with pytest.raises(SegZooError, match="does not tell"):
        load_splits(DataSource(str(scenes), streaming=True), train_fraction=0.5)
    load_splits(DataSource(str(scenes), streaming=True), train_fraction=1.0)  # all there are


def test_only_a_validation_split(scenes, tmp_path):
    for kind in ("images", "annotations"):
        shutil.copytree(scenes / kind / "validation", tmp_path / kind / "val")
    train, validation = load_splits(str(tmp_path))
    assert train is None and len(validation) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train_val_split": 1.0}, "--train_val_split is 1.0; it must lie between 0 and 1"),
        ({"max_train_samples": 0}, "0 pictures"),
        ({"train_fraction": 1.5}, "--train_fraction is 1.5; it must be above 0"),
    ],
)
def test_numbers_that_make_no_sense(scenes, options, message):
    with pytest.raises(SegZooError, match=message):
        load_splits(str(scenes), **options)
