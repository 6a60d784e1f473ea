"""Against a definition written with loops over pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo.errors import SegZooError
from segzoo.losses import cross_entropy


def by_hand(logits, labels, weights, average, ignore):
    losses, valid = [], 0
    for b in range(logits.shape[0]):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                label = labels[b, y, x]
                if label == ignore:
                    continue
                scores = logits[b, :, y, x]
                log_probability = scores[label] - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
                losses.append(-(weights[label] if weights is not None else 1.0) * log_probability)
                valid += 1
    return sum(losses) / (labels.size if average == "all" else max(valid, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["all", "valid"]), st.booleans(), st.floats(0, 1))
def test_equals_the_definition(seed, average, weighted, ignored):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 4, 3, 5)) * 3
    labels = rng.integers(0, 4, size=(2, 3, 5))
    labels[rng.random(labels.shape) < ignored] = 255
    weights = rng.uniform(0.2, 3, 4).tolist() if weighted else None
    value = cross_entropy(torch.tensor(logits), torch.tensor(labels), class_weights=weights, average=average)
    assert float(value) == pytest.approx(by_hand(logits, labels, weights, average, 255), abs=1e-9)


def test_wrong_options_are_named():
    logits, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(SegZooError, match="2 entries for 3 classes"):
        cross_entropy(logits, labels, class_weights=[1.0, 2.0])
    with pytest.raises(SegZooError, match="'some' is unknown"):
        cross_entropy(logits, labels, average="some")
