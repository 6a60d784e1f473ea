"""Broken, hostile and mistaken checkpoint files: one clear line for each, nothing run, nothing left behind."""

import contextlib
import io
import os
import pickle
import re
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segzoo.conversion.errors import CheckpointError, ConversionError
from segzoo.conversion.reading.archives import MAX_MEMBERS
from segzoo.conversion.reading.checkpoints import read_checkpoint

STATE = {"backbone.conv1.weight": torch.ones(8, 3, 3, 3), "decode_head.conv_seg.bias": torch.zeros(2)}


def torch_bytes(value, form="zip", **options):
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=form == "zip", **options)
    return buffer.getvalue()


def zip_bytes(*members, compression=zipfile.ZIP_STORED):
    """A plain zip archive of (name, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def with_pickle(pickled):
    """A file of torch.save whose list of tensors is replaced by other pickle code."""
    return zip_bytes(("archive/data.pkl", pickled), ("archive/version", b"3\n"))


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Writes bytes to a file, reads it, checks the form of the error and gives its text."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def refuse(data, name="model.pth"):
        path = tmp_path / name
        path.write_bytes(data)
        start = time.monotonic()
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert time.monotonic() - start < 120
        message = str(caught.value)
        assert isinstance(caught.value, ConversionError) and caught.value.path == path
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 1000
        assert list(temporary.iterdir()) == []
        return message

    return refuse


class TestMistakes:
    def test_no_file(self, tmp_path):
        with pytest.raises(CheckpointError, match="gone.pth: there is no such file; check the path"):
            read_checkpoint(tmp_path / "gone.pth")
        with pytest.raises(CheckpointError, match="this is a folder"):
            read_checkpoint(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_checkpoint(tmp_path / "pipe")

    @pytest.mark.parametrize(
        ("data", "cause"),
        [
            (b"", "the file is empty"),
            (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page .* of HTML"),
            (b"\xef\xbb\xbf  <HTML>", "web page"),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 241530880\n",
                "git-lfs pointer of 78 bytes, not the checkpoint of 241530880 bytes; fetch the file with 'git lfs",
            ),
            (b"model = dict(type='EncoderDecoder')\n", "text file.* begins with .model = dict"),
            (b'{"error": "Not Found"}', "text file"),
            (b"\x1f\x8b\x08\x00" + bytes(20), "gzip archive"),
            (b"7z\xbc\xaf\x27\x1c" + bytes(20), "7z archive"),
            (b"Rar!\x1a\x07" + bytes(20), "RAR archive"),
            (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
            (b"\x89PNG\r\n\x1a\n" + bytes(20), "PNG"),
            (bytes(4096), "begins with zeros"),
            (b"\x01\x02\x03\x04" * 10, "not a checkpoint in a known format .* begins with 01 02 03 04"),
        ],
        ids=lambda value: value[:12] if isinstance(value, str) else None,
    )
    def test_other_kinds_of_file(self, refused, data, cause):
        message = refused(data)
        assert re.search(cause, message), message

    def test_a_tar_archive(self, refused):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())
        assert "tar archive; unpack it" in refused(buffer.getvalue(), "model.pth.tar")

    def test_a_pickle_of_numpy_weights(self, refused):
        assert "pickle that torch.save did not write" in refused(pickle.dumps({"w": np.ones(3)}), "model.pkl")

    @pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
    def test_a_torchscript_program(self, refused):
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
        assert "TorchScript program" in refused(buffer.getvalue())

    @pytest.mark.parametrize("form", ["zip", "legacy"])
    def test_a_whole_model(self, refused, form):
        message = refused(torch_bytes(torch.nn.Linear(2, 2), form))
        assert "torch.nn.modules.linear.Linear" in message and "save its state_dict() instead" in message

    @pytest.mark.parametrize("form", ["zip", "legacy"])
    @pytest.mark.parametrize(
        ("content", "cause"),
        [
            ({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, "state of an optimizer and no weights"),
            ({"optimizer": {"state": {}}, "epoch": 3}, "state of an optimizer and no weights"),
            ({}, "an empty dict"),
            ({"epoch": 3}, "no weights (entries: 'epoch')"),
            ({"state_dict": {}}, "no weights (entries: 'state_dict')"),
            ([torch.ones(2)], "holds a list, not a dict"),
            (torch.ones(2), "holds a Tensor, not a dict"),
            ({"state_dict": {**STATE, "a": 3, "b": None}}, "no ordinary tensors: 'a' (int), 'b' (NoneType)"),
            ({"state_dict": {**STATE, 5: torch.ones(2)}}, "'5' (Tensor)"),
            ({"state_dict": {**STATE, "a": torch.ones(2).to_sparse()}}, "'a' (sparse tensor)"),
            ({"module.a": torch.ones(2), "a": torch.ones(2)}, "'a' is there twice"),
        ],
    )
    def test_no_weights(self, refused, content, cause, form):
        assert cause in refused(torch_bytes(content, form))

    def test_a_large_tensor_that_is_not_in_the_file(self, refused):
        message = refused(torch_bytes({**STATE, "a": torch.ones(1).expand(1 << 30)}))
        assert "'a' (a tensor of 1073741824 numbers that are not in the file)" in message


class TestDamage:
    @pytest.mark.parametrize("form", ["zip", "legacy"])
    def test_cut_off_anywhere(self, refused, form):
        data = torch_bytes({"state_dict": STATE, "meta": {"config": "x = 1\n" * 50}}, form)
        for keep in (1, 3, 10, 40, 100, len(data) // 2, len(data) - 100, len(data) - 1):
            message = refused(data[:keep])
            assert any(word in message for word in ("cut off", "did not write", "not a checkpoint", "text file")), keep

    def test_one_bit_changed_in_a_tensor(self, refused):
        data = bytearray(torch_bytes(STATE))
        data[data.index(STATE["backbone.conv1.weight"].numpy().tobytes())] ^= 1
        assert "is damaged: the record 'archive/data/0'" in refused(bytes(data))

    def test_bytes_changed_anywhere(self, tmp_path):
        """Whatever byte is hit, the answer is the same weights or a CheckpointError, never another exception."""
        for form in ("zip", "legacy"):
            data = torch_bytes({"state_dict": STATE, "meta": {"CLASSES": ["a"], "n": np.float64(1)}}, form)
            generator = np.random.default_rng(0)
            for position in generator.integers(0, len(data), 150):
                broken = bytearray(data)
                broken[position] ^= int(generator.integers(1, 256))
                (tmp_path / "a.pth").write_bytes(broken)
                with contextlib.suppress(CheckpointError):
                    read_checkpoint(tmp_path / "a.pth")

    def test_safetensors(self, refused, tmp_path):
        save_file(STATE, tmp_path / "good.safetensors")
        data = (tmp_path / "good.safetensors").read_bytes()
        for broken in (data[:-5], data[:30], data[:8] + b"{" + data[10:], struct.pack("<Q", 90_000_000) + data[8:]):
            assert "safetensors file is cut off or damaged" in refused(broken, "a.safetensors")

    def test_a_record_that_was_packed_again(self, refused):
        with zipfile.ZipFile(io.BytesIO(torch_bytes(STATE))) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        assert "is compressed, which torch.save never does" in refused(
            zip_bytes(*members, compression=zipfile.ZIP_DEFLATED)
        )


class TestArchives:
    def test_none_or_several(self, refused):
        assert "holds no checkpoint, only 'log.json', 'b.txt'" in refused(
            zip_bytes(("log.json", b"{}"), ("b.txt", b""), ("folder/", b"")), "a.zip"
        )
        assert "the archive is empty" in refused(zip_bytes(), "a.zip")
        message = refused(zip_bytes(("a.pth", torch_bytes(STATE)), ("b/c.pth", torch_bytes(STATE))), "a.zip")
        assert "holds 2 checkpoints: 'a.pth', 'b/c.pth'; unpack it and give one of them" in message
        assert "holds 20 checkpoints: " in refused(zip_bytes(*((f"{i}.pth", b"") for i in range(20))), "a.zip")

    @pytest.mark.parametrize("name", ["../evil.pth", "/evil.pth", "a/../../evil.pth", "..\\evil.pth", "C:\\evil.pth"])
    def test_names_that_lead_out(self, refused, tmp_path, name):
        before = set(tmp_path.parent.rglob("evil*"))
        assert "leads out of the archive" in refused(zip_bytes((name, torch_bytes(STATE))), "a.zip")
        assert set(tmp_path.parent.rglob("evil*")) == before and not Path("/evil.pth").exists()

    def test_what_is_inside_is_judged_too(self, refused):
        assert "'m.pth' in it: the file is empty" in refused(zip_bytes(("m.pth", b"")), "a.zip")
        assert "'m.pth' in it: this is a web page" in refused(zip_bytes(("m.pth", b"<html>")), "a.zip")
        inner = zip_bytes(("m.pth", torch_bytes(STATE)))
        assert "'m.pth' in it: this is an archive in an archive" in refused(zip_bytes(("m.pth", inner)), "a.zip")
        cut = torch_bytes(STATE)[:-40]
        assert "'m.pth' in it: the file is cut off" in refused(zip_bytes(("m.pth", cut)), "a.zip")

    def test_a_bomb_by_its_declared_size(self, refused):
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("m.pth", "w", force_zip64=True) as member,
        ):
            for _ in range(300):
                member.write(bytes(1 << 20))
        assert "a zip bomb" in refused(buffer.getvalue(), "a.zip")

    def test_a_bomb_that_declares_less(self, refused, monkeypatch):
        data = bytearray(zip_bytes(("m.pth", bytes(1 << 20)), compression=zipfile.ZIP_DEFLATED))
        size = struct.pack("<I", 1 << 20)
        assert data.count(size) == 2
        assert "damaged" in refused(bytes(data.replace(size, struct.pack("<I", 1000))), "a.zip")
        monkeypatch.setattr("segzoo.conversion.reading.archives.MAX_UNPACKED_BYTES", 1 << 19)
        assert "a zip bomb" in refused(bytes(data), "a.zip")

    def test_too_many_members(self, refused):
        assert f"no checkpoint has more than {MAX_MEMBERS}" in refused(
            zip_bytes(*((str(i), b"") for i in range(MAX_MEMBERS + 1))), "a.zip"
        )

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_two_members_of_one_name(self, refused):
        assert "two members of one name" in refused(zip_bytes(("m.pth", b"1"), ("m.pth", b"2")), "a.zip")

    def test_an_encrypted_archive(self, refused):
        data = bytearray(zip_bytes(("m.pth", torch_bytes(STATE))))
        data[6] |= 1
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
        assert "encrypted" in refused(bytes(data), "a.zip")

    def test_a_full_disk(self, refused, monkeypatch):
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
        assert "and 10 are free; unpack it elsewhere" in refused(zip_bytes(("m.pth", torch_bytes(STATE))), "a.zip")


class Command:
    """Pickles to a call of os.system."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class TestHostilePickles:
    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("form", ["zip", "legacy"])
    @pytest.mark.parametrize("where", ["top", "beside", "inside", "meta"])
    def test_a_command_is_named_and_not_run(self, refused, tmp_path, form, where, protocol):
        command = Command(tmp_path / "ran")
        content = {
            "top": command,
            "beside": {"state_dict": STATE, "optimizer": command},
            "inside": {"state_dict": {**STATE, "a": command}},
            "meta": {"state_dict": STATE, "meta": {"config": command}},
        }[where]
        message = refused(torch_bytes(content, form, pickle_protocol=protocol))
        assert f"asks for {os.system.__module__}.system" in message and "nothing was run" in message
        assert not (tmp_path / "ran").exists()

    def test_in_a_zip_archive(self, refused, tmp_path):
        data = torch_bytes({"state_dict": STATE, "x": Command(tmp_path / "ran")})
        assert f"'m.pth' in it: refused: its pickle asks for {os.system.__module__}.system" in refused(
            zip_bytes(("m.pth", data)), "a.zip"
        )
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("code", "name"),
        [
            (b"cos\nsystem\n", "os.system"),
            (b"c__builtin__\neval\n", "builtins.eval"),
            (b"cbuiltins\nexec\n", "builtins.exec"),
            (b"cbuiltins\n__import__\n", "builtins.__import__"),
            (b"csubprocess\nPopen\n", "subprocess.Popen"),
            (b"cnumpy.testing._private.utils\nrunstring\n", "numpy.testing._private.utils.runstring"),
            (b"ctorch.hub\nload\n", "torch.hub.load"),
            (b"ctorch\nload\n", "torch.load"),
            (b"ctorch.storage\n_load_from_bytes\n", "torch.storage._load_from_bytes"),
            (b"cmmseg.models.segmentors\nEncoderDecoder\n", "mmseg.models.segmentors.EncoderDecoder"),
            (b"comegaconf.dictconfig\nDictConfig\n", "omegaconf.dictconfig.DictConfig"),
            (b"(S'true'\nios\nsystem\n", "os.system"),
        ],
    )
    def test_names_that_weights_do_not_need(self, refused, code, name):
        message = refused(with_pickle(b"\x80\x02}X\x01\x00\x00\x00a" + code + b"s."))
        assert f"asks for {name}," in message

    def test_getattr_looks_nothing_up(self, tmp_path, refused):
        # getattr(torch._C or any other allowed thing, "...") would be a way out; the stand-in gives an inert object
        code = b"\x80\x02cbuiltins\ngetattr\ncbuiltins\nset\nX\x03\x00\x00\x00add\x86R)R."
        assert "a call of a value" in refused(with_pickle(code))

    @pytest.mark.parametrize(
        "code",
        [
            b"\x80\x02" + b"]" * 200_000 + b".",
            b"\x80\x02" + b"(" * 200_000 + b".",
            b"\x80\x02X\xff\xff\xff\xffabc.",
            b"\x80\x02" + b"]q\x00" + b"h\x00a" * 10 + b".",
            b"\x80\x02h\x05.",
            b"\x80\x02.",
            b"\x80\x02a.",
            b"\x80\x02Q.",
            b"\x80\x02(X\x07\x00\x00\x00storageK\x01tQ.",
            b"\x80\x02\x8b\xff\xff\xff\x7f.",
            b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
            b"not a pickle",
            b"",
        ],
    )
    def test_broken_code(self, refused, code):
        refused(with_pickle(code))

    def test_values_that_contain_each_other_many_times(self, tmp_path):
        """A list of lists of the same lists: small in the file, 10**30 values when written out."""
        nested: list = ["a"]
        for _ in range(30):
            nested = [nested] * 10
        circle: list = []
        circle.append(circle)
        meta = {"config": {"model": nested}, "circle": circle, "CLASSES": ["a"]}
        (tmp_path / "a.pth").write_bytes(torch_bytes({"state_dict": STATE, "meta": meta}))
        checkpoint = read_checkpoint(tmp_path / "a.pth")
        assert checkpoint.class_names == ["a"] and checkpoint.meta["circle"] == [None]

    def test_methods_that_the_file_overrides_are_not_called(self, tmp_path):
        """BUILD may set any attribute of an OrderedDict, 'items' too."""
        code = (
            b"\x80\x02ccollections\nOrderedDict\n)R(X\x05\x00\x00\x00epochK\x01X\x04\x00\x00\x00meta}u"
            b"}X\x05\x00\x00\x00itemsK\x01sX\x04\x00\x00\x00keysK\x02sb."
        )
        (tmp_path / "a.pth").write_bytes(with_pickle(code))
        with pytest.raises(CheckpointError, match="it holds no weights"):
            read_checkpoint(tmp_path / "a.pth")

    def test_environment_variables_change_nothing(self, refused, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        refused(torch_bytes({"a": Command(tmp_path / "ran")}))
        assert not (tmp_path / "ran").exists()
