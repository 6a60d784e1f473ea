"""Configs and checkpoints that are made to hang, to fill the memory, to read other files, or to build without end."""

import io
import os
import pickle
import socket
import sys
import time
import zipfile
from pathlib import PurePosixPath

import pytest
import torch
from conversion import tiny
from fuzz.targets import in_legacy, in_zip
from support.pickle_code import call, imported, mapping, number, part, storage, string, tensor
from transformers import ConvNextConfig, SegformerConfig

from segzoo import SegZooConfig
from segzoo.backbones import HRNetConfig, InternImageConfig
from segzoo.backbones.stage_encoder import StageEncoderConfig
from segzoo.conversion.convert import read_original
from segzoo.conversion.errors import CheckpointError, ConfigReadError
from segzoo.conversion.labels import read_class_names
from segzoo.conversion.plan import make_plan
from segzoo.conversion.reading.checkpoints import read_checkpoint
from segzoo.conversion.reading.configs import read_config_file
from segzoo.conversion.reading.safe_pickle import plain
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError

SECRET = "root:x:0:0:hunter2:/root:/bin/bash\nadmin:x: 1: hunter2\n"


@pytest.fixture(autouse=True)
def quickly():
    """Nothing here runs on and on, or waits; a slow machine takes ten times as long as a fast one."""
    start, begun = time.monotonic(), time.process_time()
    yield
    assert time.process_time() - begun < 60 and time.monotonic() - start < 300


class TestBaseFiles:
    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_only_regular_files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        os.mkfifo("pipe.py")
        os.symlink("/dev/zero", "device.py")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket.py")
            for name in ("pipe.py", "device.py", "socket.py"):
                (tmp_path / "main.py").write_text(f"_base_ = './{name}'")
                for path in (tmp_path / "main.py", tmp_path / name):
                    with pytest.raises(ConfigReadError, match=f"{name}: this is not a regular file"):
                        read_config_file(path)
                with pytest.raises(CheckpointError, match="not a regular file"):
                    read_checkpoint(tmp_path / name)

    @pytest.mark.parametrize("name", ["secret", "secret.txt", "secret.pth", ".ssh"])
    def test_only_configs(self, tmp_path, name):
        (tmp_path / name).write_text(SECRET)
        (tmp_path / "main.py").write_text(f"_base_ = '{name}'")
        with pytest.raises(
            ConfigReadError, match="is no config by its name; a base file ends in .py, .json"
        ) as caught:
            read_config_file(tmp_path / "main.py")
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("suffix", [".py", ".json", ".yaml", ".yml"])
    def test_their_text_is_not_quoted(self, tmp_path, suffix):
        for text in (SECRET, "key = hunter2 hunter2", "key: [hunter2", "a: !!int hunter2", "{hunter2}", "'hunter2"):
            (tmp_path / "secret").write_text(text)
            (tmp_path / f"link{suffix}").unlink(missing_ok=True)
            (tmp_path / f"link{suffix}").symlink_to(tmp_path / "secret")
            (tmp_path / "main.py").write_text(f"_base_ = 'link{suffix}'")
            message = ""
            try:  # two of these are values in one of the formats
                read_config_file(tmp_path / "main.py")
            except ConfigReadError as error:
                message = str(error)
            assert "hunter2" not in message and (message or text in ("a: !!int hunter2", "{hunter2}"))

    def test_names_that_no_file_has(self, tmp_path):
        for name in ("a" * 5000, "a/" * 3000, "a\\0", "\\udc80"):
            (tmp_path / "main.py").write_text(f"_base_ = '{name}.py'\nx = 1")
            assert read_config_file(tmp_path / "main.py")["x"] == 1
        with pytest.raises(ConfigReadError, match="no such file"):
            read_config_file(tmp_path / ("a" * 5000))
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(tmp_path / ("a" * 5000))

    def test_class_names_are_longer_than_paths(self):
        assert len(read_class_names(",".join(f"a long name of class {i}" for i in range(500)))) == 500


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        (
            "a.yaml",
            "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60)),
            "more than 2000000 values",
        ),
        ("a.yaml", "a: 1" + ":1" * 90_000, "the number is too long"),
        ("a.yaml", "[" * 5000, "nested too deeply"),
        ("a.yaml", "a: " + "b" * 300_000, "configs in YAML have at most"),
        ("a.yaml", "a: {<<: [" + "{a: 1}, " * 30 + "]}", "too many mappings are merged"),
        ("a.yaml", "a: !!python/object/apply:os.system ['x']", "could not determine a constructor"),
        ("a.json", "[" * 90_000, "nested too deeply"),
        ("a.json", '{"a": ' + "9" * 9000 + "}", "this is not JSON"),
    ],
)
def test_data_formats(tmp_path, name, text, cause):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigReadError, match=cause):
        read_config_file(tmp_path / name)


def test_an_archive_of_arrays_that_unpacks_without_end(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                for _ in range(90):
                    member.write(bytes(1 << 20))
    with pytest.raises(CheckpointError, match="a zip bomb; weights do not compress like that"):
        read_original(tmp_path / "a.npz")


def nested(levels):
    value = {"type": "ResNet"}
    for _ in range(levels):
        value = {"a": value, "b": value}
    return value


class TestConfigsAsValues:
    def test_values_pass_the_budget_that_texts_pass(self, tmp_path):
        values = tiny.config(model__backbone=nested(60))
        path = tiny.save(tmp_path / "a.pth", state={"decode_head.a": torch.ones(2)}, config=values)
        with pytest.raises(ConfigReadError, match=r"a.pth \(config in the checkpoint\): the config makes more than"):
            make_plan(read_original(path))

    def test_another_config_helps(self, tmp_path):
        path = tiny.save(tmp_path / "a.pth", config=tiny.config(model__backbone=nested(60)))
        (tmp_path / "config.py").write_text(tiny.config_text(tiny.config()))
        assert make_plan(read_original(path, config=tmp_path / "config.py")).model.num_parameters() > 1000

    def test_values_may_share_parts(self, tmp_path):
        values = tiny.config()
        assert values["model"]["decode_head"]["norm_cfg"] == tiny.NORM
        values["model"]["backbone"]["norm_cfg"] = values["model"]["decode_head"]["norm_cfg"]
        path = tiny.save(tmp_path / "a.pth", tiny.config(), config=values)
        assert make_plan(read_original(path)).config_source == "the checkpoint"


class Joined:
    """Pickles to a path of a thousand parts, each the same text."""

    def __init__(self, part):
        self.part = part

    def __reduce__(self):
        return PurePosixPath, (self.part,) * 1000


HEAD = {key: value for key, value in tiny.MODEL["decode_head"].items() if key != "num_convs"}
PARAMETER, FROM_TYPE = call("torch.nn.parameter.Parameter"), "torch._tensor._rebuild_from_type_v2"
PAIR = b"q\x000h\x00h\x00\x86"  # a tuple of the last value, twice


class TestPickles:
    """A few bytes that stand for a large number of values, each of which somebody hashes, prints or copies."""

    @pytest.mark.parametrize(
        ("code", "cause"),
        [
            (b"}K\x01\x85" + PAIR * 60 + b"K\x01s.", "repeats its parts"),
            (b"}K\x01\x85" + PAIR * 60 + b"Q.", "repeats its parts"),
            (b"cbuiltins\nset\nK\x01\x85" + PAIR * 60 + b"\x85R.", "repeats its parts"),
            (b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.", "asks for builtins.bytearray"),
            (b"K\x010\x86.", "cut off or damaged"),
            (b"(h\x07t.", "cut off or damaged"),
        ],
    )
    def test_they_are_refused_before_anything_is_made(self, tmp_path, code, cause):
        (tmp_path / "a.pth").write_bytes(in_zip(b"\x80\x02" + code))
        with pytest.raises(CheckpointError, match=cause) as caught:
            read_checkpoint(tmp_path / "a.pth")
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize("new_format", [True, False])
    def test_a_text_that_is_joined_many_times(self, tmp_path, new_format):
        buffer = io.BytesIO()
        text = "a" * 100_000
        torch.save({"a": [Joined(text) for _ in range(1000)]}, buffer, _use_new_zipfile_serialization=new_format)
        (tmp_path / "a.pth").write_bytes(buffer.getvalue())
        with pytest.raises(CheckpointError, match="repeats its parts .* do not trust the file"):
            read_checkpoint(tmp_path / "a.pth")

    @pytest.mark.parametrize("file", [in_zip, in_legacy])
    @pytest.mark.parametrize(
        ("code", "cause"),
        [
            (call("torch.FloatTensor", number(16)), "a call of torch.FloatTensor,"),
            (call("torch.Tensor", number(16), new=True), "a call of torch.Tensor,"),
            (imported("torch.FloatTensor") + b"]" + number(16) + b"aR", "a call of torch.FloatTensor with arguments"),
            (call("torch.storage.UntypedStorage", number(64)), "a call of torch.storage.UntypedStorage"),
            (call("torch.storage.TypedStorage"), "a call of torch.storage.TypedStorage"),
            (call(FROM_TYPE, imported("torch.FloatTensor"), imported("torch.Tensor"), number(16) + b"\x85}"), "torch.FloatTensor"),
            (call("torch._utils._rebuild_tensor_v2", part(PARAMETER, 99)), "a call of .*_v2 without a storage"),
            (call("torch._utils._rebuild_tensor_v2", part(string("a storage"), 99)), "without a storage"),
            (PARAMETER + b"(" + part(PARAMETER, 99) + b"tb", "a state for torch.nn.parameter.Parameter"),
            (call("torch.FloatTensor") + b"(" + PARAMETER + b"K\0" + number(99) + b"tb", "a state for torch.FloatTensor"),
            (call("torch._utils._rebuild_device_tensor_from_cpu_tensor", PARAMETER), "a call of torch._utils._rebuild_d"),
        ],
    )  # fmt: skip
    def test_tensors_that_are_not_in_the_file(self, tmp_path, code, cause, file):
        """They would hold what lay in the memory of this process."""
        (tmp_path / "a.pth").write_bytes(file(b"\x80\x02" + mapping(a=code) + b"."))
        with pytest.raises(CheckpointError, match=cause):
            read_checkpoint(tmp_path / "a.pth")

    def test_storages_that_a_file_announces_and_does_not_hold(self, tmp_path):
        state = {key: tensor(storage(key, legacy=True)) for key in ("0", "1")}
        whole = in_legacy(b"\x80\x02" + mapping(**state) + b".")
        (tmp_path / "a.pth").write_bytes(whole)
        assert read_checkpoint(tmp_path / "a.pth").state_dict.keys() == {"0", "1"}
        (tmp_path / "a.pth").write_bytes(whole.replace(pickle.dumps(["0", "1"], 2), pickle.dumps(["0"], 2)))
        with pytest.raises(CheckpointError, match="lists tensors that it does not hold"):
            read_checkpoint(tmp_path / "a.pth")
        (tmp_path / "a.pth").write_bytes(in_legacy(b"\x80\x02" + mapping(a=tensor(storage(legacy=True), 99)) + b"."))
        with pytest.raises(CheckpointError, match="cannot read it"):
            read_checkpoint(tmp_path / "a.pth")

    @pytest.mark.parametrize("codec", ["hex", "punycode", "base64", "utf-7"])
    def test_texts_that_another_codec_makes_longer(self, tmp_path, codec):
        code = string("a" * 1000)
        for _ in range(40):
            code = call("_codecs.encode", code, string(codec))
        (tmp_path / "a.pth").write_bytes(in_zip(b"\x80\x02" + mapping(meta=code) + b"."))
        with pytest.raises(CheckpointError, match="a call of _codecs.encode with another codec than latin1"):
            read_checkpoint(tmp_path / "a.pth")

    @pytest.mark.parametrize("kind", ["dict", "set", "pairs"])
    def test_keys_that_all_have_one_hash(self, tmp_path, kind):
        keys = [number(count * sys.hash_info.modulus) for count in range(1, 20_000)]
        code = {
            "dict": b"}(" + b"N".join(keys) + b"Nu",
            "set": call("builtins.set", b"](" + b"".join(keys) + b"e"),
            "pairs": call("collections.OrderedDict", b"](" + b"".join(key + b"N\x86" for key in keys) + b"e"),
        }[kind]
        (tmp_path / "a.pth").write_bytes(in_zip(b"\x80\x02" + mapping(meta=code) + b"."))
        with pytest.raises(CheckpointError, match="repeats its parts"):
            read_checkpoint(tmp_path / "a.pth")

    @pytest.mark.parametrize("attribute", ["detach", "numel", "untyped_storage", "is_floating_point"])
    def test_methods_of_tensors_that_a_file_overrides_are_not_called(self, tmp_path, attribute):
        state = mapping(**{attribute: string("a")})
        code = call("torch._utils._rebuild_parameter_with_state", tensor(storage()), b"\x89", b"}", state)
        (tmp_path / "a.pth").write_bytes(in_zip(b"\x80\x02" + mapping(a=code) + b"."))
        assert read_checkpoint(tmp_path / "a.pth").state_dict["a"].shape == (4,)

    def test_methods_of_entries_that_a_file_overrides_are_not_called(self, tmp_path):
        entry = call("collections.OrderedDict") + b"(" + string("a") + tensor(storage()) + b"u"
        entry += mapping(keys=string("a"), items=string("a")) + b"b"
        (tmp_path / "a.pth").write_bytes(in_zip(b"\x80\x02" + mapping(state_dict=entry, ema_state_dict=entry) + b"."))
        assert list(read_checkpoint(tmp_path / "a.pth", prefer_ema=True).state_dict) == ["a"]

    def test_arrays_without_numbers(self):
        from segzoo.conversion.reading.safe_pickle import ArrayData, ArrayType

        array = ArrayData()
        array.__setstate__((1, (10**9, 0), ArrayType("f8"), False, b""))
        assert plain(array) == []

    def test_names_that_a_file_repeats_are_read(self, tmp_path):
        """An optimizer names the same few texts for every weight, a trainer the same weights several times."""
        state = {f"backbone.layer{i}.weight": torch.ones(1) for i in range(300)}
        moments = {i: {"step": 1, "exp_avg": torch.ones(1), "exp_avg_sq": torch.ones(1)} for i in range(300)}
        file = {"state_dict": state, "a": state, "b": [state, state], "optimizer": {"state": moments}}
        torch.save(file, tmp_path / "a.pth")
        assert read_checkpoint(tmp_path / "a.pth").state_dict.keys() == state.keys()


class TestCounts:
    @pytest.mark.parametrize(
        ("make", "named"),
        [
            (lambda: InternImageConfig(depths=[300, 300, 300, 300]), "InternImageConfig: depths=.* 1000 layers"),
            (
                lambda: HRNetConfig(modules=[100, 100, 100], blocks=[100, 100, 100]),
                "HRNet: modules=.*no model has more",
            ),
            (
                lambda: StageEncoderConfig(encoder_config=SegformerConfig(depths=[1, 1, 1, 10**9])),
                "SegformerConfig: depths",
            ),
            (lambda: SegZooConfig(backbone_config=ConvNextConfig(depths=[1, 1, 1, 10**9])), "ConvNextConfig: depths"),
            (lambda: HRNetConfig.from_dict({"modules": [1] * 10**6}), "HRNetConfig: modules has 1000000 entries"),
            (lambda: HRNetConfig.from_dict({"out_indices": [1] * 10**6}), "out_indices has 1000000 entries"),
            (lambda: HRNetConfig.from_dict({"id2label": dict.fromkeys(range(10**5), "a")}), "id2label has 100000"),
            (lambda: SegZooConfig.from_dict({"decode_head_configs": [{}] * 10**5}), "decode_head_configs has 100000"),
        ],
    )
    def test_of_configs(self, make, named):
        with pytest.raises(SegZooError, match=named):
            make()

    @pytest.mark.parametrize(
        ("place", "value", "named"),
        [
            ("model__backbone__strides", [1] * 10**6, "strides has 1000000 entries"),
            ("model__backbone__out_indices", [1] * 10**6, "out_indices has 1000000 entries"),
            ("model__decode_head__in_channels", [1] * 10**6, "in_channels has 1000000 entries"),
            ("model__decode_head__loss_decode", [tiny.LOSS] * 10**5, "100000"),
            ("model__decode_head__loss_decode", [tiny.LOSS] * 101, "101 losses; no head has more than 100"),
            ("model__auxiliary_head", [tiny.MODEL["decode_head"]] * 101, "101 heads; no model has more than 100"),
            ("model__auxiliary_head", {**HEAD, "type": "PSPHead", "pool_scales": [1] * 2000}, "pool_scales"),
            ("model__auxiliary_head", {**HEAD, "type": "ASPPHead", "dilations": [10**9]}, "dilations"),
            ("model__backbone", {"type": "ViTBaseline", "depth": 10**12}, "depth=1000000000000"),
            ("model__backbone", {"type": "ViTAdapter", "depth": 10**12, "interaction_indexes": []}, "depth=1000000000000"),
            ("model__backbone", {"type": "InternImage", "core_op": "DCNv3", "depths": [10**12] * 4}, "depths"),
            ("model__backbone", {"type": "BEiT", "num_layers": 10**12, "img_size": 64}, "num_hidden_layers"),
        ],
    )  # fmt: skip
    def test_of_original_configs(self, place, value, named):
        with pytest.raises(SegZooError, match=named) as caught:
            translate_config(tiny.config(**{place: value}))
        assert len(str(caught.value)) < 1500
