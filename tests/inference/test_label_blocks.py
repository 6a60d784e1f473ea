import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F

from segzoo.inference import label_blocks, label_map_from_logits, label_maps


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def definition(logits, stages, align_corners):
    maps = logits.float() if logits.dtype.itemsize < 4 else logits
    for (height, width), size in stages:
        maps = maps[:, :height, :width].contiguous()
        maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=align_corners)[0]
    return maps.argmax(0)


def regions(classes, height, width, *, generator, step=3):
    """Logits of which one class is the largest in squares of ``step`` x ``step`` positions."""
    winners = torch.randint(classes, (-(-height // step), -(-width // step)), generator=generator)
    winners = winners.repeat_interleave(step, 0).repeat_interleave(step, 1)[:height, :width]
    logits = torch.randn((classes, height, width), generator=generator, dtype=torch.float64)
    return logits.scatter_add_(0, winners[None], torch.full((1, height, width), 9.0, dtype=torch.float64))


def with_rivals(logits, *, generator):
    """The logits in which some class follows the largest one everywhere, at a distance of -2 to 2 roundings."""
    rival = torch.randint(len(logits), (), generator=generator)
    largest = logits.amax(0)
    offsets = torch.randint(-2, 3, largest.shape, generator=generator)
    logits[rival] = largest * (1 + offsets * torch.finfo(logits.dtype).eps)
    return logits


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    logits = regions(draw(st.integers(1, 7)), height, width, generator=generator, step=draw(st.integers(2, 12)))
    kind = draw(st.sampled_from(["plain", "rivals", "integers", "near zero"]))
    logits = logits.round() if kind == "integers" else logits * 1e-38 if kind == "near zero" else logits
    logits = logits.to(dtype)
    if kind == "rivals":
        logits = with_rivals(logits, generator=generator)
    if draw(st.integers(0, 4)) == 0:
        place = tuple(int(torch.randint(length, (), generator=generator)) for length in logits.shape)
        logits[place] = draw(st.sampled_from([torch.inf, -torch.inf, torch.nan]))
    if draw(st.booleans()):
        size = height * draw(st.integers(1, 5)), width * draw(st.integers(1, 5))
    else:
        size = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    plan = {"size": size}
    if draw(st.booleans()):
        plan["input_size"] = draw(st.integers(1, 70)), draw(st.integers(1, 70))
        if draw(st.booleans()):
            plan["crop"] = tuple(draw(st.integers(1, side)) for side in plan["input_size"])
            plan["size"] = draw(st.sampled_from([plan["size"], plan["crop"]]))
    return logits, plan, draw(st.booleans())


@given(case=cases(), search=st.integers(1, 3000), contest=st.integers(1, 3000), rivals=st.sampled_from([0.4, 1.0]))
@settings(max_examples=150, deadline=None)
def test_labels_are_those_of_interpolate_and_argmax(case, search, contest, rivals):
    logits, plan, align_corners = case
    stages = label_maps.resize_stages(logits.shape, **plan)
    if logits.isfinite().all():
        expected = definition(logits, stages, align_corners)
    else:  # Products of infinity and a weight of zero are NaN, which a step that changes no size does without.
        expected = label_maps.upsampled_logits(logits, align_corners=align_corners, **plan).argmax(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_maps, "_SMALL_VALUES", 0)
        patch.setattr(label_maps, "_SEARCHED_VALUES", search)
        patch.setattr(label_maps, "_CONTEST_VALUES", contest)
        patch.setattr(label_blocks, "_MOST_RIVALS", rivals)  # 1: everything is computed in blocks
        assert torch.equal(label_map_from_logits(logits, align_corners=align_corners, **plan), expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "plan",
    [{"size": (120, 160)}, {"size": (101, 143)}, {"size": (97, 131), "input_size": (128, 170), "crop": (90, 161)}],
)
def test_near_ties_are_decided_as_by_interpolate(plan, dtype, align_corners, monkeypatch):
    monkeypatch.setattr(label_blocks, "_MOST_RIVALS", 1.0)
    generator = torch.Generator().manual_seed(0)
    logits = with_rivals(regions(5, 30, 40, generator=generator).to(dtype), generator=generator)
    stages = label_maps.resize_stages(logits.shape, **plan)
    expected = definition(logits, stages, align_corners)
    assert torch.equal(label_maps._by_blocks(logits, stages, align_corners), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "plan", [{"size": (240, 320)}, {"size": (201, 260), "input_size": (250, 320), "crop": (240, 320)}]
)
def test_large_regions_are_filled(plan, layout, monkeypatch):
    """No strip is computed, and few pixels."""
    logits = regions(21, 60, 80, generator=torch.Generator().manual_seed(0), step=20).float()
    logits = logits[None].contiguous(memory_format=layout)[0]
    stages = label_maps.resize_stages(logits.shape, **plan)
    monkeypatch.delattr(label_maps, "strips")
    blocks = label_blocks.Blocks(logits, stages, align_corners=False, dtype=torch.float32)
    rivals = blocks.search(2**16)
    assert len(rivals.blocks) < 0.4 * rivals.labels.numel()
    assert rivals.counts.float().mean() < 4
    assert torch.equal(label_maps._by_blocks(logits, stages, False), definition(logits, stages, False))


@pytest.mark.parametrize("input_size", [None, (70, 90)])
def test_other_orders_of_adding_change_no_label(input_size, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = with_rivals(regions(5, 30, 40, generator=generator).float(), generator=generator)
    stages = label_maps.resize_stages(logits.shape, (120, 160), None, input_size)
    expected = definition(logits, stages, False)
    resized = label_blocks._Steps.resized

    def rounded_otherwise(steps, values, chosen):
        found = resized(steps, values, chosen)
        return found * (1 + torch.randint(-1, 2, found.shape, generator=generator) * 2**-23)

    monkeypatch.setattr(label_blocks._Steps, "resized", rounded_otherwise)
    monkeypatch.setattr(label_blocks, "_MOST_RIVALS", 1.0)
    changed = (label_maps._by_blocks(logits, stages, False) != expected).sum()
    assert changed > 100
    monkeypatch.setattr(label_maps, "_DOUBTS", 1)
    monkeypatch.setattr(label_maps, "adds_like_interpolate", lambda *_: False)
    assert torch.equal(label_maps._by_blocks(logits, stages, False), expected)


def test_rounding_may_turn_an_order_into_a_tie():
    """Two classes at a distance of one rounding, the later one larger everywhere: the earlier one wins where they meet."""
    rows = torch.tensor([1.5, 1.7, 1.9]).repeat(4, 2)
    logits = torch.stack([rows, torch.nextafter(rows, torch.tensor(9.0))])
    stages = label_maps.resize_stages(logits.shape, (13, 131))
    expected = definition(logits, stages, False)
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(label_maps._by_blocks(logits, stages, False), expected)


@pytest.mark.parametrize("size", [(60, 7), (60, 60)])
def test_ties_in_small_results_of_large_inputs(size):
    """F.interpolate sums small results in another order, also those of a step behind a large one."""
    for seed in range(4):
        logits = torch.randn((19, 5, 7), generator=torch.Generator().manual_seed(seed)).round()
        stages = label_maps.resize_stages(logits.shape, size, None, (1024, 1024))
        assert torch.equal(
            label_map_from_logits(logits, size, input_size=(1024, 1024)), definition(logits, stages, False)
        )


def test_this_cpu_adds_like_interpolate():
    """Otherwise the labels are right all the same, in more time."""
    for dtype in (torch.float32, torch.float64):
        assert label_blocks.adds_like_interpolate(dtype, 150, torch.get_num_threads())


@pytest.mark.parametrize("classes", [2, 3, 4, 19])
def test_labels_of_half_precision_with_one_thread(classes, one_thread):
    """There F.interpolate has a way of its own for three classes. Few values of bfloat16 make many near ties."""
    coarse = torch.randn((1, classes, 10, 10), generator=torch.Generator().manual_seed(3))
    logits = 8 * torch.nn.functional.interpolate(coarse, (160, 150), mode="bicubic")[0].bfloat16()
    expected = definition(logits, label_maps.resize_stages(logits.shape, (1500, 1333)), False)
    assert torch.equal(label_map_from_logits(logits, (1500, 1333)), expected)


def test_doubtful_pixels_of_half_precision_are_summed_in_float32(monkeypatch):
    """As on GPUs, where no rounding is known beforehand."""
    monkeypatch.setattr(label_maps, "adds_like_interpolate", lambda *_: False)
    monkeypatch.setattr(label_maps, "_DOUBTS", 1)
    monkeypatch.setattr(label_blocks, "_MOST_RIVALS", 1.0)
    generator = torch.Generator().manual_seed(0)
    logits = with_rivals(regions(5, 30, 40, generator=generator).bfloat16(), generator=generator)
    stages = label_maps.resize_stages(logits.shape, (101, 143))
    assert torch.equal(label_maps._by_blocks(logits, stages, False), definition(logits, stages, False))
