import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _http
from safetensors.torch import load_file
from support.forked import run_python
from support.hub_server import READ_TOKEN, WRITE_TOKEN, HubServer, hub_of_this_process
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

import segzoo
from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.hub import SHIM, SHIM_NAME, push_folder, save_model_folder
from segzoo.weight_hashes import HASHES

SOURCE = Path(segzoo.__file__).parents[1]
CARD = "---\nlibrary_name: transformers\n---\n\n# A card\n"
FILES = {"README.md", "config.json", "model.safetensors", HASHES, "preprocessor_config.json", SHIM_NAME}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SegZooForSemanticSegmentation(SegZooConfig.tiny()).eval()


@pytest.fixture(scope="module")
def processor():
    return SegZooImageProcessor(size={"height": 64, "width": 64})


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    return save_model_folder(model, processor, tmp_path_factory.mktemp("hub") / "model", card=CARD)


def names(directory):
    return {path.name for path in Path(directory).iterdir()}


# --- folders ---


def test_folder_is_complete_and_loads(model, folder):
    assert names(folder) == FILES
    assert (folder / SHIM_NAME).read_text() == SHIM and SHIM.count("\n") == 1
    assert (folder / "README.md").read_text() == CARD
    assert json.loads((folder / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "modeling_segzoo.SegZooConfig",
        "AutoModel": "modeling_segzoo.SegZooForSemanticSegmentation",
        "AutoModelForSemanticSegmentation": "modeling_segzoo.SegZooForSemanticSegmentation",
    }
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert not processor.keys() & {"auto_map", "image_processor_type"}, "the config's model_type says which it is"
    loaded = AutoModelForSemanticSegmentation.from_pretrained(folder)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert AutoImageProcessor.from_pretrained(folder).size == {"height": 64, "width": 64}


def test_shim_imports_what_auto_map_names(folder):
    namespace = {}
    exec((folder / SHIM_NAME).read_text(), namespace)
    for reference in json.loads((folder / "config.json").read_text())["auto_map"].values():
        module, name = reference.split(".")
        assert f"{module}.py" == SHIM_NAME and isinstance(namespace[name], type)


def test_auto_map_survives_saving_again(folder, tmp_path):
    for auto_class in (AutoModelForSemanticSegmentation, AutoImageProcessor):
        auto_class.from_pretrained(folder, trust_remote_code=True).save_pretrained(tmp_path)
    assert names(tmp_path) == FILES - {"README.md"}
    assert (tmp_path / SHIM_NAME).read_text() == SHIM
    for file in ("config.json", "preprocessor_config.json"):
        saved, again = (json.loads((directory / file).read_text()) for directory in (folder, tmp_path))
        assert saved.get("auto_map") == again.get("auto_map") and "image_processor_type" not in again


@pytest.mark.parametrize("part", ["model", "config", "processor"])
def test_each_part_writes_the_shim(part, model, processor, tmp_path):
    saved = {"model": model, "config": model.config, "processor": processor}[part]
    saved.save_pretrained(tmp_path)
    assert (tmp_path / SHIM_NAME).read_text() == SHIM


def test_keys_stay_native_under_a_registered_conversion(model, processor, tmp_path):
    register_checkpoint_conversion_mapping(
        "segzoo", [WeightRenaming(r"^decode_head\.", "decode_heads.0.")], overwrite=True
    )
    try:
        save_model_folder(model, processor, tmp_path / "out")
    finally:
        register_checkpoint_conversion_mapping("segzoo", [], overwrite=True)
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(model.state_dict())


def test_shards(model, tmp_path):
    out = save_model_folder(model, None, tmp_path / "out", max_shard_size="100KB")
    assert len(list(out.glob("model-*.safetensors"))) > 1 and (out / "model.safetensors.index.json").is_file()
    loaded = AutoModelForSemanticSegmentation.from_pretrained(out)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


class Part:
    """Stands for a model or a processor; ``during`` is called in the middle of its saving."""

    def __init__(self, name="config.json", during=lambda: None):
        self.name, self.during = name, during

    def save_pretrained(self, directory, **kwargs):
        (Path(directory) / self.name).write_text("{}")
        self.during()


def test_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SegZooError, match="not empty; choose another one"):
        save_model_folder(Part(), None, tmp_path)
    with pytest.raises(SegZooError, match="is not a folder"):
        save_model_folder(Part(), None, tmp_path / "mine.txt")
    assert names(tmp_path) == {"mine.txt"}


def test_empty_and_missing_parents_are_fine(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    save_model_folder(Part(), None, tmp_path / "empty")
    save_model_folder(Part(), None, tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    assert save_model_folder(Part(), None, "relative") == Path("relative")
    assert names(tmp_path) == {"empty", "a", "relative"}


def raiser(error):
    def raise_it():
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            SegZooError,
            "No space left on device.*nothing was left behind",
        ),
        (RuntimeError("a fault"), RuntimeError, "a fault"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_failure_leaves_nothing(error, expected, message, tmp_path):
    with pytest.raises(expected, match=message):
        save_model_folder(Part(), Part("preprocessor_config.json", during=raiser(error)), tmp_path / "out")
    assert names(tmp_path) == set()


def test_target_filled_meanwhile_is_left_alone(tmp_path):
    def fill():
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "other.txt").touch()

    with pytest.raises(SegZooError, match="in the meantime"):
        save_model_folder(Part(during=fill), None, tmp_path / "out")
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"other.txt"}


@pytest.mark.skipif(os.name != "posix", reason="signals and folder locks are POSIX")
def test_killed_half_way(tmp_path):
    program = f"""
import os, signal, sys, types
sys.modules["segzoo"] = types.ModuleType("segzoo")  # without the models, which take seconds to import
sys.modules["segzoo"].__path__ = [{str(SOURCE / "segzoo")!r}]
from segzoo.hub import save_model_folder
class Part:
    def save_pretrained(self, directory, **kwargs):
        open(os.path.join(directory, "config.json"), "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
save_model_folder(Part(), None, "out")
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".out.partial-")

    def look():  # the abandoned folder is gone, the one in use is locked
        assert left not in names(tmp_path)
        with pytest.raises(SegZooError, match="raised on purpose"):
            save_model_folder(Part(during=raiser(SegZooError("raised on purpose"))), None, tmp_path / "out")

    save_model_folder(Part(during=look), None, tmp_path / "out")
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"config.json"}


# --- pushing ---


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub of its own that this process uses, with a token that may write, and without waiting between retries."""
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    with HubServer() as server, hub_of_this_process(monkeypatch, server.endpoint, tmp_path):
        yield server


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_push(folder, hub):
    assert push_folder(folder, "tester/model") == f"{hub.endpoint}/tester/model"
    assert hub.files("tester/model") == contents(folder)
    assert not hub.repositories["tester/model"].private
    assert hub.count("PUT", "/lfs/") == 1  # the weights


def test_push_private_without_namespace(folder, hub):
    push_folder(folder, "model", private=True)
    assert hub.repositories["tester/model"].private


def test_push_again_sends_nothing(folder, hub):
    push_folder(folder, "tester/model")
    commits = dict(hub.repositories["tester/model"].commits)
    push_folder(folder, "tester/model")
    assert hub.count("PUT", "/lfs/") == 1
    assert hub.repositories["tester/model"].commits == commits


def test_weights_of_an_earlier_model_do_not_stay_on_the_hub(model, processor, folder, hub, tmp_path):
    """Readers take the whole file where there are both: they would go on to load the earlier model."""
    split = save_model_folder(model, processor, tmp_path / "split", max_shard_size=20_000)
    for push in (
        lambda: push_folder(split, "tester/model"),
        lambda: model.push_to_hub("tester/model", max_shard_size=20_000),
    ):
        push_folder(folder, "tester/model")
        assert hub.files("tester/model").keys() == {path.name for path in folder.iterdir()}
        push()
        left = {name for name in hub.files("tester/model") if "safetensors" in name}
        assert left == {path.name for path in split.iterdir() if "safetensors" in path.name}


def test_push_to_a_branch(folder, hub):
    push_folder(folder, "tester/model", revision="wip", commit_message="Try")
    push_folder(folder, "tester/model", revision="wip")
    assert hub.files("tester/model", "main") == {}
    assert hub.files("tester/model", "wip") == contents(folder)


def test_broken_upload_is_retried_by_itself(folder, hub):
    hub.break_connection("PUT", "/lfs/", after_bytes=10_000, times=2)
    push_folder(folder, "tester/model")
    assert hub.files("tester/model") == contents(folder)
    assert hub.count("PUT", "/lfs/") == 3


def test_broken_push_is_repeated(model, hub, tmp_path):
    out = save_model_folder(model, None, tmp_path / "out", max_shard_size="100KB")
    last = sorted(out.glob("*.safetensors"))[-1]
    oid = _sha256(last)
    hub.break_connection("PUT", oid, after_bytes=10_000, times=100)
    with pytest.raises(SegZooError, match="connection to the Hub failed.*repeat the push"):
        push_folder(out, "tester/model")
    assert hub.files("tester/model") == {}  # nothing half-pushed is visible
    hub.heal()
    arrived = set(hub.lfs_objects)
    sent = hub.count("PUT", "/lfs/")
    push_folder(out, "tester/model")
    assert hub.files("tester/model") == contents(out)
    assert hub.count("PUT", "/lfs/") - sent == len(hub.lfs_objects) - len(arrived)


def test_broken_commit_is_repeated(folder, hub):
    hub.answer_with(500, "POST", "/commit/")
    with pytest.raises(SegZooError, match=r"fault of its own \(500\); repeat the push later"):
        push_folder(folder, "tester/model")
    push_folder(folder, "tester/model")
    assert hub.files("tester/model") == contents(folder)
    assert hub.count("PUT", "/lfs/") == 1


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        ("tester/model", None, "no valid token; run `hf auth login`, or set HF_TOKEN"),
        ("tester/model", "hf_wrong", "no valid token"),
        ("tester/model", READ_TOKEN, "may not write there.*use a token with write access"),
        ("someone-else/model", WRITE_TOKEN, "may not write there.*namespace"),
        ("tester/no spaces", WRITE_TOKEN, "Name it as NAMESPACE/NAME"),
        ("a/b/c", WRITE_TOKEN, "Name it as NAMESPACE/NAME"),
    ],
)
def test_refusals_say_what_to_do(repo_id, token, message, folder, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SegZooError, match=message) as caught:
        push_folder(folder, repo_id, token=token)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "may not write there"), (413, r"refused it \(413: too large"), (429, "wait some minutes")],
)
def test_answers_to_the_commit(status, message, folder, hub):
    hub.answer_with(status, "POST", "/commit/", message="too large")
    with pytest.raises(SegZooError, match=message):
        push_folder(folder, "tester/model")


def test_no_network(folder, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SegZooError, match="connection to the Hub failed"):
        push_folder(folder, "tester/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SegZooError, match="unset HF_HUB_OFFLINE"):
        push_folder(folder, "tester/model")


def test_only_model_folders_are_pushed(hub, tmp_path):
    with pytest.raises(SegZooError, match="is not a model folder"):
        push_folder(tmp_path, "tester/model")
    assert hub.repositories == {}


@pytest.mark.slow
def test_clean_processes_push_and_load(model, folder, tmp_path):
    """push_to_hub of the parts in one process; from_pretrained in another, which does not import segzoo."""
    push = """
import sys
from pathlib import Path
import pytest, segzoo
from support.hub_server import hub_of_this_process
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
hub_of_this_process(pytest.MonkeyPatch(), sys.argv[2], Path("pushing")).__enter__()
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1])
AutoImageProcessor.from_pretrained(sys.argv[1]).push_to_hub("tester/first")
model.push_to_hub("tester/first")
model.push_to_hub("tester/parts")
model.save_pretrained("saved", push_to_hub=True, repo_id="tester/saved")
model.save_pretrained("saved", push_to_hub=True, repo_id="tester/saved-again")
AutoImageProcessor.from_pretrained(sys.argv[1]).push_to_hub("tester/parts")
"""
    load = """
import sys, torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
assert "segzoo" not in sys.modules
model = AutoModelForSemanticSegmentation.from_pretrained("tester/parts", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("tester/parts", trust_remote_code=True)
assert type(processor).__module__ == "segzoo.image_processing_segzoo", type(processor)
torch.save(model.state_dict(), "state.pt")
"""
    with HubServer() as hub:
        environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
        environment |= hub.environment(tmp_path / "home") | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        done = run_python("-c", push, folder, hub.endpoint, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        clean = [sys.executable, "-c", load]
        done = subprocess.run(clean, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert set(hub.files("tester/parts")) == FILES
        for repo_id in ("tester/saved", "tester/saved-again"):
            assert set(hub.files(repo_id)) >= {"config.json", "model.safetensors", SHIM_NAME}
        for repo_id in ("tester/first", "tester/parts", "tester/saved", "tester/saved-again"):
            card = hub.files(repo_id)["README.md"].decode()
            title = repo_id.removeprefix("tester/")
            assert f"# {title}" in card and "A semantic-segmentation model: " in card and repo_id in card
            assert "More Information Needed" not in card and "base_model" not in card
    state = torch.load(tmp_path / "state.pt")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
