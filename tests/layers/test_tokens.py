import pytest
import torch
from torch.nn import functional as F

from segzoo.layers import to_map, to_tokens


@pytest.mark.parametrize("batch", [1, 2])
def test_maps_of_tokens_are_seen_as_channels_last(batch):
    """A single image too, of whose strides operators guess the format."""
    tokens = torch.randn(batch, 12, 5)
    x = to_map(tokens, (3, 4))
    assert x.shape == (batch, 5, 3, 4) and torch.equal(to_tokens(x), tokens)
    assert x.data_ptr() == tokens.data_ptr() == to_tokens(x).data_ptr(), "views, not copies"
    assert torch.equal(x[:, :, 1, 2], tokens[:, 6])
    resized = F.interpolate(x, size=(6, 8), mode="bilinear")
    assert resized.stride()[1] == 1 and resized.is_contiguous(memory_format=torch.channels_last)
