"""The course of a preparation: find the files, write what they become, and a manifest at the end."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path

from segzoo.data.facts import DATASETS, dataset_facts
from segzoo.data.preparation.content import size_of
from segzoo.data.preparation.release import PARTS, Files, Item
from segzoo.data.preparation.releases import RELEASES
from segzoo.data.preparation.writing import write_item
from segzoo.data.prepared import MANIFEST
from segzoo.errors import SegZooError
from segzoo.files import FolderInUse, check_folder_place, json_text, lock, remove_folder, write_whole
from segzoo.text import listed

_BEGUN = ".preparing.json"
_UNPACKED = ".unpacked"


def prepare(
    name: str,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    num_workers: int = 0,
    on_start: Callable[[int], object] = lambda count: None,
    on_item: Callable[[], object] = lambda: None,
    on_note: Callable[[str], object] = lambda text: None,
) -> dict[str, int]:
    """Make a folder to train on from a released data set.

    The folder has ``images/{train,val,test}``, ``annotations/{train,val,test}`` with the ids that the original trains
    on (the label rule of the facts holds), and ``manifest.json``, which is written last: the data set's name, the
    number of pictures of each part, and the SHA-256 of every file. A preparation that was killed goes on when it is
    called again with the same arguments.

    Args:
        name: name of the data set in `RELEASES`, which are `segzoo.data.DATASETS`' names.
        source: the folder that holds the release, its archives or their content, or one archive; it is not changed.
        target: the folder to make.
        num_workers: processes that work; 0: this one.
        on_start: called with the number of released pictures to prepare, those of an earlier run included.
        on_item: called after each of them.
        on_note: called with a line that a user should read, such as other numbers of pictures than those released.

    Returns:
        The number of pictures of each part, tiles counted one by one.

    Raises:
        SegZooError: the data set is not known, files of the release are missing or cannot be read, the disk has too
            little room, or the target holds something else.
    """
    facts = dataset_facts(name)
    release = RELEASES.get(facts.name)
    if release is None:
        raise SegZooError(
            f"{facts.name} cannot be prepared; what can: {', '.join(RELEASES)}. Layouts that are read as they are released: "
            "`segzoo data check --help`"
        )
    source, target = Path(source).expanduser(), Path(target).expanduser()
    with _begun(facts.name, source, target) as finished:
        if finished is not None:
            on_note(f"{target} is prepared already")
            return finished
        items = list(release.items(Files(source, target / _UNPACKED)))
        if twice := [
            f"{part}/{stem}" for (part, stem), n in Counter((i.part, i.stem) for i in items).items() if n > 1
        ]:
            raise SegZooError(f"{source}: two pictures have the same name: {listed(twice, most=5)}")
        for part in dict.fromkeys((*(item.part for item in items), facts.test_split)):
            _compare(items, part, facts.name, on_note)
        for part in dict.fromkeys(item.part for item in items):
            for folder in ("images", "annotations"):
                if folder == "images" or any(item.mask is not None for item in items if item.part == part):
                    (target / folder / PARTS[part]).mkdir(parents=True, exist_ok=True)
        _check_room(items, target)
        on_start(len(items))
        hashes: dict[str, str] = {}
        for written in _all_written(items, target, num_workers):
            hashes |= written
            on_item()
        counts = Counter(path.split("/")[1] for path in hashes if path.startswith("images/"))
        manifest = {
            "dataset": facts.name,
            "segzoo": version("segzoo"),
            "source": str(source.resolve()),
            "splits": {part: {"pictures": counts[part]} for part in PARTS.values() if part in counts},
            "files": dict(sorted(hashes.items())),
        }
        if (target / _UNPACKED).is_dir():
            remove_folder(target / _UNPACKED)
        write_whole(target / MANIFEST, json_text(manifest))
        (target / _BEGUN).unlink()
    return {part: facts["pictures"] for part, facts in manifest["splits"].items()}


@contextlib.contextmanager
def _begun(name: str, source: Path, target: Path) -> Iterator[dict[str, int] | None]:
    """The target, held and marked as this preparation's; yields the counts of one that is finished and has all its files.

    Raises:
        SegZooError: the target is something else's or made from another source, or another process prepares it.
    """
    check_folder_place(target, option="TARGET")
    mark = {"dataset": name, "source": str(source.resolve())}
    there = _json(target / MANIFEST)
    finished = there.get("dataset") == name and not (target / _BEGUN).exists()
    if finished and Path(str(there.get("source"))).resolve() != source.resolve():
        raise SegZooError(
            f"{target}: was prepared from {there.get('source')}, not from {source}; choose another folder, or empty this one"
        )
    if finished and all((target / path).is_file() for path in there["files"]):
        yield {part: split["pictures"] for part, split in there["splits"].items()}
        return
    if not finished and target.is_dir() and any(target.iterdir()) and _json(target / _BEGUN) != mark:
        raise SegZooError(
            f"{target}: the folder is not empty and holds no preparation of {name} from {source} that could go on; choose "
            "another folder"
        )
    if source.resolve() in (target.resolve(), *target.resolve().parents) and source.is_dir():
        raise SegZooError(f"{target}: the target lies in the source, which stays as it is; choose a folder beside it")
    target.mkdir(parents=True, exist_ok=True)
    try:
        with lock(target):
            write_whole(target / _BEGUN, json_text(mark))
            yield None
    except FolderInUse as error:
        raise SegZooError(f"{target}: another process prepares this folder {error.holder}".rstrip()) from None


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _compare(items: Sequence[Item], part: str, name: str, on_note: Callable[[str], object]) -> None:
    """Note a number of pictures that differs from the release's."""
    split = DATASETS[name].splits.get(part)
    if split is None:
        return
    found, released = sum(item.part == part for item in items), split.cut_from or split.num_images
    if not found:
        on_note(f"{part}: no picture of it is here with a mask; scores were published on {released:,}")
    elif found != released:
        on_note(f"{part}: {found:,} pictures are here; the release has {released:,}, on which scores were published")


def _check_room(items: Sequence[Item], target: Path) -> None:
    """Check that the disk has room for what is not there yet.

    Raises:
        SegZooError: it has not.
    """
    needed = sum(
        (size_of(item.picture) + (0 if item.mask is None else item.mask.num_bytes))
        * (1 if item.tiling is None else item.tiling.cover)
        for item in items
    )
    written = (file for folder in ("images", "annotations") for file in (target / folder).rglob("*"))
    there = sum(file.stat().st_size for file in written if file.is_file())
    free = shutil.disk_usage(target).free
    if needed - there > free:
        raise SegZooError(
            f"{target}: about {(needed - there) / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB free; make room, "
            "or choose another disk"
        )


def _all_written(items: Sequence[Item], target: Path, num_workers: int) -> Iterator[dict[str, str]]:
    """What `write_item` returns for each item, in any order."""
    if num_workers < 1 or len(items) < 2:
        for item in items:
            yield write_item(item, target)
        return
    # A forked process would inherit locks and threads of this one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(items)), mp_context=context) as pool:
        try:
            waiting = iter(items)
            running = {pool.submit(write_item, item, target) for item, _ in zip(waiting, range(4 * num_workers))}  # noqa: B905
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    if (item := next(waiting, None)) is not None:
                        running.add(pool.submit(write_item, item, target))
        except BrokenProcessPool:
            raise SegZooError(
                f"{target}: a working process ended, often for want of memory; the same command with fewer --num_workers "
                "goes on"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
