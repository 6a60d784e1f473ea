"""Checkpoints of every layout and file format that original systems save."""

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from fuzz.targets import in_legacy, in_zip
from safetensors.torch import save_file
from support.pickle_code import call, imported, mapping, part, storage, tensor

from segzoo.conversion.errors import CheckpointError
from segzoo.conversion.reading import safe_pickle
from segzoo.conversion.reading.checkpoints import all_finite, read_checkpoint

CONFIG = "model = dict(type='EncoderDecoder')\n"
FORMATS = ["zip", "legacy"]


def weights(seed=0, prefix="", dtype=torch.float32):
    """A small state dict, as ``module.state_dict()`` gives it."""
    generator = torch.Generator().manual_seed(seed)
    state = OrderedDict()
    state[f"{prefix}backbone.conv1.weight"] = torch.randn(4, 3, 3, 3, generator=generator).to(dtype)
    state[f"{prefix}backbone.bn1.running_mean"] = torch.randn(4, generator=generator).to(dtype)
    state[f"{prefix}backbone.bn1.num_batches_tracked"] = torch.tensor(seed)
    state[f"{prefix}decode_head.conv_seg.bias"] = torch.randn(2, generator=generator).to(dtype)
    state._metadata = OrderedDict([("", {"version": 1})])
    return state


def save(value, path, form="zip", **options):
    """``torch.save`` in the format since 1.6 (``zip``) or the one before (``legacy``)."""
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip", **options)
    return path


def assert_equal(state, expected):
    """Same keys in the same order, bit-equal values of the same dtype."""
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].dtype == value.dtype and torch.equal(state[key], value), key
        assert type(state[key]) is torch.Tensor and not state[key].requires_grad


@pytest.fixture
def mmengine(monkeypatch):
    """Classes with the names and the pickled shape of mmengine's, for the time that a file is written."""

    class HistoryBuffer:
        def __init__(self):
            self.max_length = 10
            self._log_history, self._count_history = np.array([0.5, 0.25]), np.array([1, 1])
            self._statistics_methods = {"min": HistoryBuffer.min}

        def min(self):
            return 0

    class ConfigDict(dict):
        def __reduce_ex__(self, protocol):
            return (ConfigDict, (dict(self),))

    def place(module, thing):
        name = thing.__name__
        thing.__module__, thing.__qualname__ = module, name
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            full = ".".join(parts[:depth])
            if full not in sys.modules:
                monkeypatch.setitem(sys.modules, full, types.ModuleType(full))
        setattr(sys.modules[module], name, thing)

    place("mmengine.logging.history_buffer", HistoryBuffer)
    HistoryBuffer.min.__qualname__ = "HistoryBuffer.min"
    HistoryBuffer.min.__module__ = HistoryBuffer.__module__
    place("mmengine.config.config", ConfigDict)
    return types.SimpleNamespace(HistoryBuffer=HistoryBuffer, ConfigDict=ConfigDict)


@pytest.fixture
def no_mmengine(monkeypatch):
    """Takes the stand-ins of the fixture above away, as on a machine without mmengine."""

    def forget():
        for name in [name for name in sys.modules if name.split(".")[0] == "mmengine"]:
            monkeypatch.delitem(sys.modules, name)

    return forget


class TestLayouts:
    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("entry", ["state_dict", "model", "module", ""])
    @pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod."])
    def test_weights(self, tmp_path, form, entry, prefix):
        state = weights(prefix=prefix)
        path = save({entry: state, "epoch": 3} if entry else state, tmp_path / "a.pth", form)
        checkpoint = read_checkpoint(path)
        assert_equal(checkpoint.state_dict, weights())
        assert checkpoint.entry == entry and not checkpoint.averaged and checkpoint.source == path
        assert checkpoint.ignored == (("epoch",) if entry else ())
        assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_the_dtype_is_kept(self, tmp_path, form, dtype):
        assert_equal(
            read_checkpoint(save(weights(dtype=dtype), tmp_path / "a.pth", form)).state_dict, weights(0, "", dtype)
        )

    def test_parameters_and_shared_storage(self, tmp_path):
        whole = torch.arange(10.0)
        state = {
            "w": torch.nn.Parameter(torch.ones(2)),
            "a": whole[2:5],
            "b": whole[2:5],
            "t": torch.randn(3, 4).t(),
            "s": torch.tensor(1.5),
            "e": torch.zeros(0),
        }
        assert_equal(
            read_checkpoint(save(state, tmp_path / "a.pth")).state_dict, {k: v.detach() for k, v in state.items()}
        )

    def test_a_file_of_mmcv(self, tmp_path):
        meta = {
            "mmseg_version": "0.27.0+",
            "config": CONFIG,
            "CLASSES": ("wall", "building"),
            "PALETTE": [[120, 120, 120], [180, 120, 120]],
            "env_info": "GPU",
            "seed": np.int64(3),
            "best": np.float32(0.5),
            "hook_msgs": defaultdict(list, {"a": [1]}),
        }
        optimizer = {"state": {0: {"step": 1, "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": np.float64(0.1)}]}
        for form in FORMATS:
            path = save(
                {"meta": meta, "state_dict": weights(), "optimizer": optimizer}, tmp_path / f"{form}.pth", form
            )
            checkpoint = read_checkpoint(path)
            assert_equal(checkpoint.state_dict, weights())
            assert checkpoint.config_text == CONFIG and checkpoint.config is None
            assert checkpoint.class_names == ["wall", "building"]
            assert checkpoint.palette == [[120, 120, 120], [180, 120, 120]]
            assert checkpoint.meta["seed"] == 3 and checkpoint.meta["best"] == 0.5
            assert type(checkpoint.meta["seed"]) is int and checkpoint.meta["hook_msgs"] == {"a": [1]}
            assert checkpoint.ignored == ("optimizer",)

    @pytest.mark.parametrize("form", FORMATS)
    def test_a_file_of_mmengine(self, tmp_path, mmengine, no_mmengine, form):
        content = {
            "meta": {
                "cfg": CONFIG,
                "mmengine_version": "0.10.3",
                "dataset_meta": {"classes": ["road", "car"], "palette": np.array([[1, 2, 3], [4, 5, 6]], np.uint8)},
            },
            "state_dict": weights(),
            "message_hub": {
                "log_scalars": OrderedDict(loss=mmengine.HistoryBuffer()),
                "runtime_info": OrderedDict(iter=1, more=mmengine.ConfigDict(a=mmengine.ConfigDict(b=2))),
            },
            "param_schedulers": [{"last_step": np.int64(3)}],
        }
        path = save(content, tmp_path / "a.pth", form)
        assert b"history_buffer" in path.read_bytes() and b"getattr" in path.read_bytes()
        no_mmengine()
        checkpoint = read_checkpoint(path)
        assert_equal(checkpoint.state_dict, weights())
        assert checkpoint.config_text == CONFIG
        assert checkpoint.class_names == ["road", "car"] and checkpoint.palette == [[1, 2, 3], [4, 5, 6]]
        assert not any(name.startswith("mmengine") for name in sys.modules)

    @pytest.mark.parametrize(
        ("meta", "extra", "text", "values"),
        [
            ({"config": CONFIG}, {}, CONFIG, None),
            ({"cfg": CONFIG}, {}, CONFIG, None),
            ({"cfg": CONFIG.encode()}, {}, CONFIG, None),
            ({}, {"cfg": CONFIG}, CONFIG, None),
            ({"config": {"model": {"type": "E"}}}, {}, None, {"model": {"type": "E"}}),
            ({"config": OrderedDict(model={"n": (1, 2)})}, {}, None, {"model": {"n": (1, 2)}}),
            ({}, {"message_hub": {"runtime_info": {"cfg": CONFIG}}}, CONFIG, None),
            ({"config": "configs/upernet.py"}, {}, None, None),
            ({"config": ""}, {"cfg": {"lr": 1}}, None, None),
            ({}, {"cfg": argparse.Namespace(lr=1)}, None, None),
        ],
    )
    def test_where_the_config_is(self, tmp_path, meta, extra, text, values):
        path = save({"state_dict": weights(), "meta": meta, **extra}, tmp_path / "a.pth")
        checkpoint = read_checkpoint(path)
        assert (checkpoint.config_text, checkpoint.config) == (text, values)

    @pytest.mark.parametrize(
        ("meta", "names", "palette"),
        [
            ({"CLASSES": ["a"], "PALETTE": None}, ["a"], None),
            ({"CLASSES": "water"}, ["water"], None),
            ({"CLASSES": None, "dataset_meta": {"CLASSES": ("a",), "PALETTE": ((1, 2, 3),)}}, ["a"], [[1, 2, 3]]),
            ({"CLASSES": [1, 2]}, None, None),
            ({"CLASSES": ["a"], "PALETTE": [[1, 2]]}, ["a"], None),
            ({"CLASSES": ["a"], "PALETTE": [[1, 2, 999]]}, ["a"], None),
            ({"CLASSES": ["a"], "PALETTE": np.array([[0.0, 1.0, 255.0]])}, ["a"], [[0, 1, 255]]),
            (None, None, None),
        ],
    )
    def test_classes_and_palette(self, tmp_path, meta, names, palette):
        checkpoint = read_checkpoint(save({"state_dict": weights(), "meta": meta}, tmp_path / "a.pth"))
        assert (checkpoint.class_names, checkpoint.palette) == (names, palette)

    def test_other_plain_objects_become_data(self, tmp_path):
        meta = {
            "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=[1])),
            "path": pathlib.PurePosixPath("runs/a"),
            "torch": torch.__version__,
            "array": np.arange(6, dtype=">i2").reshape(2, 3, order="F"),
            "flags": np.array([True, False]),
            "text": np.str_("é"),
            "half": np.float16(0.5),
            "object": np.array([{"a": 1}], dtype=object),
            "set": {1},
        }
        read = read_checkpoint(save({"state_dict": weights(), "meta": meta}, tmp_path / "a.pth")).meta
        assert read == {
            "args": {"lr": 0.1, "nested": {"a": [1]}},
            "path": "runs/a",
            "torch": str(torch.__version__),
            "array": [[0, 2, 4], [1, 3, 5]],
            "flags": [True, False],
            "text": "é",
            "half": 0.5,
            "object": None,
            "set": None,
        }

    @pytest.mark.parametrize("legacy", [False, True])
    def test_tensors_as_earlier_versions_of_torch_wrote_them(self, tmp_path, legacy):
        stored, flags = storage(legacy=legacy), b"\x88\x89" + call("collections.OrderedDict")
        parameter = imported("torch.nn.parameter.Parameter") + tensor(stored)
        as_tensor = (
            imported("torch._utils._rebuild_tensor_v2")
            + imported("torch.Tensor")
            + b"("
            + part(stored)
            + flags[1:]
            + b"t}"
        )
        forms = {
            "today": tensor(stored),
            "with attributes": call("torch._tensor._rebuild_from_type_v2", as_tensor),
            "0.3": parameter + b"\x85R(" + flags + b"tb",
            "0.1": call("torch.FloatTensor") + b"(" + part(stored) + b"tb",
            "0.1, new": call("torch.FloatTensor", new=True) + b"(" + part(stored) + b"tb",
        }
        code = b"\x80\x02" + mapping(**forms) + b"."
        (tmp_path / "a.pth").write_bytes(in_legacy(code) if legacy else in_zip(code))
        state = read_checkpoint(tmp_path / "a.pth").state_dict
        assert state.keys() == forms.keys()
        assert all(torch.equal(each, state["today"]) for each in state.values()) and state["today"].all()

    def test_bytes(self, tmp_path):
        meta = {"a": bytes(range(256)), "b": [b"repeated", b"repeated"]}
        assert read_checkpoint(save({"state_dict": weights(), "meta": meta}, tmp_path / "a.pth")).meta == meta

    def test_what_others_allowed_is_neither_used_nor_lost(self, tmp_path):
        before = set(torch.serialization.get_safe_globals())
        torch.serialization.add_safe_globals([argparse.Namespace])
        try:
            path = save({"state_dict": weights(), "meta": {"args": argparse.Namespace(a=1)}}, tmp_path / "a.pth")
            assert read_checkpoint(path).meta == {"args": {"a": 1}}
            assert set(torch.serialization.get_safe_globals()) == before | {argparse.Namespace}
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(list(before))


class TestAverages:
    @pytest.mark.parametrize("entry", ["ema_state_dict", "state_dict_ema", "model_ema"])
    def test_an_entry_beside_the_weights(self, tmp_path, entry):
        average = OrderedDict((f"module.{key}", value) for key, value in weights(1).items())
        average["n_averaged"] = torch.tensor(5)
        path = save({"state_dict": weights(), entry: average, "meta": {"config": CONFIG}}, tmp_path / "a.pth")
        plain = read_checkpoint(path)
        assert_equal(plain.state_dict, weights())
        assert plain.ignored == (entry,) and not plain.averaged
        chosen = read_checkpoint(path, prefer_ema=True)
        assert_equal(chosen.state_dict, weights(1))
        assert chosen.entry == entry and chosen.averaged and chosen.config_text == CONFIG

    def test_what_was_not_averaged_comes_from_the_weights(self, tmp_path):
        average = {key: value for key, value in weights(1).items() if ".bn1." not in key}
        path = save({"model": weights(), "model_ema": average}, tmp_path / "a.pth")
        expected = {**weights(), **average}
        assert_equal(read_checkpoint(path, prefer_ema=True).state_dict, expected)

    def test_mmengine_saves_the_average_as_the_weights(self, tmp_path):
        training = OrderedDict((f"module.{key}", value) for key, value in weights(1).items())
        training["steps"] = torch.tensor(7)
        content = {"state_dict": weights(), "ema_state_dict": training, "meta": {"mmengine_version": "0.10.3"}}
        path = save(content, tmp_path / "a.pth")
        for prefer in (False, True):
            checkpoint = read_checkpoint(path, prefer_ema=prefer)
            assert_equal(checkpoint.state_dict, weights())
            assert checkpoint.averaged

    def test_mmcv_s_buffers(self, tmp_path):
        state = weights()
        averaged = ["backbone.conv1.weight", "decode_head.conv_seg.bias"]
        for key in averaged:
            state[f"ema_{key.replace('.', '_')}"] = weights(1)[key]
        path = save({"state_dict": state}, tmp_path / "a.pth")
        assert_equal(read_checkpoint(path).state_dict, weights())
        chosen = read_checkpoint(path, prefer_ema=True)
        assert_equal(chosen.state_dict, {**weights(), **{key: weights(1)[key] for key in averaged}})
        assert chosen.averaged

    @pytest.mark.parametrize(
        ("config", "best", "swapped"),
        [
            ("runner = dict(type='IterBasedRunner')", None, False),
            ("total_iters = 100", None, False),
            ("runner = dict(type='EpochBasedRunner')", None, None),
            (None, None, None),
            ("not a config", None, None),
            ("EPOCHS; custom_hooks = [dict(type='EMAHook')]", None, False),
            ("EPOCHS; custom_hooks = [dict(type='EMAHook', priority='ABOVE_NORMAL')]", None, True),
            ("EPOCHS; custom_hooks = [dict(type='X'), dict(type='ExpMomentumEMAHook', priority=49)]", None, True),
            ("EPOCHS; custom_hooks = [dict(type='EMAHook', priority='ODD')]", None, None),
            ("EPOCHS; custom_hooks = [dict(type='EMAHook')]", "work/best_mIoU_epoch_3.pth", True),
            ("EPOCHS; custom_hooks = [dict(type='EMAHook')]", "work/best_mIoU_epoch_2.pth", False),
            (
                "EPOCHS; checkpoint_config = dict(by_epoch=False); custom_hooks = [dict(type='EMAHook', priority=49)]",
                None,
                False,
            ),
        ],
    )
    def test_mmcv_s_hook_swaps_both_at_the_end_of_an_epoch(self, tmp_path, config, best, swapped):
        """Of the files that mmcv 1.7.2's runners and hooks write (``best``: the file of the best score so far)."""
        state, key = weights(), "decode_head.conv_seg.bias"
        state["ema_decode_head_conv_seg_bias"] = weights(1)[key]
        meta = {"epoch": 3, "iter": 12, "hook_msgs": {"best_ckpt": best}}
        if config is not None:
            meta["config"] = config.replace("EPOCHS", "runner = dict(type='EpochBasedRunner')").replace("; ", "\n")
        path = save({"state_dict": state, "meta": meta}, tmp_path / "a.pth")
        plain, chosen = (read_checkpoint(path, prefer_ema=prefer) for prefer in (False, True))
        assert plain.may_be_swapped is chosen.may_be_swapped is (swapped is None)
        assert plain.averaged is bool(swapped) and chosen.averaged
        assert_equal(plain.state_dict, weights())
        assert torch.equal(chosen.state_dict[key], weights(0 if swapped else 1)[key])

    def test_buffers_that_could_belong_to_two_keys(self, tmp_path):
        state = {"a.b": torch.ones(1), "a_b": torch.ones(1), "ema_a_b": torch.ones(1)}
        path = save(state, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match="'ema_a_b' could be the average of 'a.b' and of 'a_b'"):
            read_checkpoint(path, prefer_ema=True)

    def test_a_key_that_only_looks_like_an_average_stays(self, tmp_path):
        state = {"a.b": torch.ones(1), "ema_c": torch.ones(1)}
        assert list(read_checkpoint(save(state, tmp_path / "a.pth")).state_dict) == ["a.b", "ema_c"]

    def test_only_an_average(self, tmp_path):
        checkpoint = read_checkpoint(save({"model_ema": weights(), "epoch": 1}, tmp_path / "a.pth"))
        assert_equal(checkpoint.state_dict, weights())
        assert checkpoint.averaged

    def test_none(self, tmp_path):
        with pytest.raises(CheckpointError, match="holds no moving average"):
            read_checkpoint(save(weights(), tmp_path / "a.pth"), prefer_ema=True)


class TestFiles:
    @pytest.mark.parametrize("name", ["model.pth", "model.pth.tar", "modèle 1.pt", "no_suffix"])
    @pytest.mark.parametrize("form", FORMATS)
    def test_the_name_does_not_matter(self, tmp_path, name, form):
        assert_equal(read_checkpoint(str(save(weights(), tmp_path / name, form))).state_dict, weights())

    @pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
    @pytest.mark.parametrize("form", [*FORMATS, "safetensors"])
    def test_a_name_that_is_no_utf_8(self, tmp_path, monkeypatch, form):
        path = tmp_path / os.fsdecode(b"a\xff.pth")
        save_file(dict(weights()), tmp_path / "a") if form == "safetensors" else save(weights(), tmp_path / "a", form)
        (tmp_path / "a").rename(path)
        monkeypatch.chdir(tmp_path)
        for name in (path, path.name):
            state = read_checkpoint(name).state_dict
            assert state.keys() == weights().keys()
            assert all(torch.equal(state[key], value) for key, value in weights().items())

    def test_safetensors(self, tmp_path):
        save_file(dict(weights(prefix="module.", dtype=torch.bfloat16)), tmp_path / "a.safetensors", {"format": "pt"})
        checkpoint = read_checkpoint(tmp_path / "a.safetensors")
        expected = weights(dtype=torch.bfloat16)
        assert checkpoint.state_dict.keys() == expected.keys()
        assert all(torch.equal(checkpoint.state_dict[key], expected[key]) for key in expected)
        assert checkpoint.meta == {"format": "pt"}

    def test_safetensors_headers_of_any_length(self, tmp_path):
        """The first bytes are the header's length, which may look like a pickle (0x80) or anything else."""
        first = set()
        for length in range(0, 300, 8):
            save_file({"a" * (length + 1): torch.ones(2)}, tmp_path / "a.safetensors")
            first.add((tmp_path / "a.safetensors").read_bytes()[0])
            assert list(read_checkpoint(tmp_path / "a.safetensors").state_dict) == ["a" * (length + 1)]
        assert 0x80 in first

    @pytest.mark.parametrize("form", [*FORMATS, "safetensors"])
    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    def test_a_zip_archive_with_one_checkpoint(self, tmp_path, monkeypatch, form, compression):
        suffix = "safetensors" if form == "safetensors" else "pth.tar"
        inner = tmp_path / f"inner.{suffix}"
        if form == "safetensors":
            save_file(dict(weights()), inner)
        else:
            save({"state_dict": weights(), "meta": {"config": CONFIG}}, inner, form)
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
            archive.write(inner, f"released/model.{suffix}")
            archive.writestr("released/log.json", "{}")
            archive.writestr("__MACOSX/released/._model.pth", "x")
        checkpoint = read_checkpoint(tmp_path / "a.zip")
        state = checkpoint.state_dict
        assert state.keys() == weights().keys() and all(torch.equal(state[key], weights()[key]) for key in state)
        assert checkpoint.member == f"released/model.{suffix}"
        assert checkpoint.sha256 == hashlib.sha256((tmp_path / "a.zip").read_bytes()).hexdigest()
        assert list(temporary.iterdir()) == []

    def test_a_file_saved_without_check_sums(self, tmp_path):
        torch.serialization.set_crc32_options(False)
        try:
            save(weights(), tmp_path / "a.pth")
        finally:
            torch.serialization.set_crc32_options(True)
        assert_equal(read_checkpoint(tmp_path / "a.pth").state_dict, weights())

    def test_the_loader_is_torch_s_safe_one_and_maps_the_file(self, tmp_path, monkeypatch):
        calls = []
        load = torch.load
        monkeypatch.setattr(torch, "load", lambda *args, **options: calls.append(options) or load(*args, **options))
        for form in FORMATS:
            read_checkpoint(save(weights(), tmp_path / "a.pth", form))
        assert [(call["weights_only"], call["mmap"]) for call in calls] == [(True, True), (True, False)]

    @pytest.mark.slow
    def test_optimizer_states_stay_on_disk(self, tmp_path):
        state = {i: {"exp_avg": torch.full((1 << 20,), float(i))} for i in range(64)}  # 256 MB
        path = save({"state_dict": weights(), "optimizer": {"state": state}}, tmp_path / "a.pth")
        code = (
            "import resource, sys\nfrom segzoo.conversion.reading.checkpoints import read_checkpoint\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
            "before = peak()\nread_checkpoint(sys.argv[1])\nprint(peak() - before)"
        )
        run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert int(run.stdout) < 64

    def test_the_file_keeps_its_bytes_when_weights_are_changed(self, tmp_path):
        path = save(weights(), tmp_path / "a.pth")
        before = path.read_bytes()
        read_checkpoint(path).state_dict["backbone.conv1.weight"].zero_()
        assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64])
def test_whether_a_tensor_is_finite(dtype, monkeypatch):
    monkeypatch.setattr("segzoo.conversion.reading.checkpoints._FINITE_CHUNK", 4)
    assert all_finite(torch.ones(10).to(dtype)) and all_finite(torch.ones(0).to(dtype))
    assert all_finite(torch.tensor(3))
    for index in (0, 9):
        tensor = torch.ones(10)
        tensor[index] = float("nan")
        assert not all_finite(tensor.to(dtype))
    assert not all_finite(torch.tensor(float("-inf"), dtype=torch.float16))


def test_stand_ins_import_nothing():
    """The list of names maps to objects of ours alone."""
    for name, value in safe_pickle._STAND_INS.items():
        assert value.__module__ == safe_pickle.__name__, name
