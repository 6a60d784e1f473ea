import pytest
from support.checked_folder import FIVE

from segzoo.data.checks.inspection import inspect_dataset


@pytest.fixture
def folder(make_folder):
    """Four pairs of noise that nothing is wrong with; every class is in every mask."""
    return make_folder({"train": ["a", "b", "c"], "val": ["v"]})


@pytest.fixture
def inspect(folder):
    def run(**options):
        return inspect_dataset(folder, **{"classes": FIVE, **options})

    return run
