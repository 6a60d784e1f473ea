"""Whatever the bytes are, the readers of configs and checkpoints answer with values or a SegZooError, soon and in little
memory, and run nothing.

`fuzz.targets` lets a SegZooError pass and raises where something ran; tests/fuzz goes on from here for hours.
"""

import json
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from fuzz.targets import TARGETS, TESTS, read_config, seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segzoo.conversion.reading.configs import read_config_file, read_config_text

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = {target: sorted(seeds(target), key=len) for target in TARGETS}
TOKENS = {
    target: [
        line.strip()[1:-1].encode().decode("unicode_escape").encode("latin-1")
        for line in (TESTS / "fuzz" / f"{target}.dict").read_text().splitlines()
    ]
    for target in TARGETS
}
# PyYAML reads back neither a line end of other alphabets nor a byte order mark.
keys = st.text(st.characters(codec="utf-8", exclude_characters="{}\x85\u2028\u2029\ufeff"), max_size=6).filter(
    lambda key: key[:1] != "_"
)
literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(
        st.characters(codec="utf-8", exclude_characters="{}\x85\u2028\u2029\ufeff", exclude_categories=["C"]),
        max_size=12,
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


@st.composite
def mutated(draw, target):
    """A seed of the target with a few parts replaced by tokens, other bytes, or parts of another seed."""
    data = bytearray(draw(st.sampled_from(SEEDS[target])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + draw(st.sampled_from([0, 1, 8, 200])))))
        other = draw(st.sampled_from(SEEDS[target]))
        place = draw(st.integers(0, len(other)))
        part = st.sampled_from(TOKENS[target]) | st.binary(max_size=4) | st.just(other[place : place + 60])
        data[start:stop] = draw(part)
    return bytes(data)


@contextmanager
def bounded():
    """At most thirty seconds of processor time, even on a slow machine, and half a gigabyte more of memory."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    unit = 1 if sys.platform == "darwin" else 1024
    assert time.process_time() - begun < 30
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 512 << 20


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_reach_far(target, tmp_path):
    """Most of them are read whole, so that what is made of them tests more than the first line of the reader."""
    read = [TARGETS[target](seed, tmp_path) is not None for seed in SEEDS[target]]
    assert sum(read) > 0.4 * len(read)


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_files(target, tmp_path):
    @FEW
    @given(mutated(target))
    def check(data):
        with bounded():
            TARGETS[target](data, tmp_path)

    check()


@FEW
@given(kind=st.sampled_from([b"\0", b"\1", b"\2", b"\3"]), text=st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_as_config(kind, text, tmp_path):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    with bounded():
        read_config(kind + data, tmp_path)


@FEW
@given(st.lists(st.sampled_from(TOKENS["config"]), max_size=25).map(b" ".join))
def test_words_of_configs_in_any_order(text):
    with bounded():
        read_config(b"\0" + text, Path())


@FEW
@given(values=st.dictionaries(keys, literals, max_size=4))
def test_values_come_back_in_every_format(values, tmp_path):
    for suffix, text in ((".json", json.dumps(values)), (".yaml", yaml.safe_dump(values, allow_unicode=True))):
        path = tmp_path / f"config{suffix}"
        path.write_text(text, encoding="utf-8")
        assert read_config_file(path) == values
    assert read_config_text(f"x = {values!r}")["x"] == values
