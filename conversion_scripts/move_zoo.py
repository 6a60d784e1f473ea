#!/usr/bin/env python3
"""Move released checkpoints to the Hugging Face Hub: download, convert, try, upload, put into a collection, tidy up.

    python conversion_scripts/move_zoo.py --dry_run                       # all rows, without weights, in some minutes
    python conversion_scripts/move_zoo.py 'segformer*' fcn_r50-d8_512x512_160k_ade20k \
        --namespace me --licence mmsegmentation=Apache-2.0 --work moving --disk 50GB

A name may be a pattern, of a row's name or of its system (``'InternImage'``). Each checkpoint gives one line of JSON, on
standard output and in ``WORK/moved.jsonl``. Repeat the command after an interruption of any kind: what has been moved
is left out, and downloads, conversions and uploads go on where they stopped. What a checkpoint needs on the disk is
deleted when it has been moved or has failed, so that never more than ``--disk`` is in use.

The publishers' licences are shown; for each system whose checkpoints are moved ``--licence SYSTEM=SPDX`` states the one
under which its weights are passed on, which the model cards carry.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from moving import Disk, Settings, agreed_licences, size_in_bytes, state_licence

from segzoo import zoo
from segzoo.errors import SegZooError, one_line
from segzoo.files import FolderInUse, check_folder_place, lock, remove_abandoned
from segzoo.progress import print_text, say
from segzoo.text import line_text
from segzoo.zoo.download import download_checkpoint, remote_size

LOG = "moved.jsonl"


class Move:
    """The way of one checkpoint to the Hub.

    Args:
        row: the released checkpoint.
        settings: what holds for all.
        disk: the room that all share.
    """

    def __init__(self, row: zoo.ZooRow, settings: Settings, disk: Disk):
        self.row, self.settings, self.disk = row, settings, disk
        self.folder = settings.work / row.name
        self.files: tuple[Path, ...] = ()
        self.taken = 0
        self.line: dict[str, Any] = {"name": row.name, "system": row.system, "status": "failed", "seconds": {}}

    def download(self) -> None:
        """Fetch the file or files; this runs beside the other steps of other checkpoints.

        Raises:
            SegZooError: the file cannot be had, is not the published one, or does not fit on the disk.
        """
        with self._timed("download"):
            sizes = [remote_size(url) for url in (self.row.url, self.row.decoder_url) if url is not None]
            known = [size for size in sizes if size is not None]
            if len(known) < len(sizes):
                raise SegZooError(f"{self.row.url}: the server does not say how large the file is; move it by hand")
            size = 2 * sum(known)  # what is converted holds the same weights, at most
            self.disk.take(size)
            self.taken = size
            self.files = download_checkpoint(self.row, folder=self.folder / "downloads")
            self.line["bytes"] = sum(known)

    def convert(self) -> None:
        """Write the model folder, unless an interrupted run has written it.

        Raises:
            SegZooError: the file does not convert.
        """
        from segzoo.conversion.convert import convert_checkpoint
        from segzoo.files import sha256_of

        with self._timed("convert"):
            self.line["sha256"] = sha256_of(self.files[0])
            remove_abandoned(self.folder)
            done = convert_checkpoint(*self.files, output=self.model_folder, name=self.row.name, keep=True)
            self.line["parameters"] = done.report.parameters
            state_licence(self.model_folder / "README.md", self.settings.licences[self.row.system])

    def try_out(self) -> None:
        """Run the converted model on a drawn picture.

        Raises:
            SegZooError: the folder does not load, or the model gives values that are no numbers.
        """
        with self._timed("forward"):
            self.line["forward"] = (try_backbone if self.row.pretrained else try_model)(self.model_folder)

    def upload(self) -> None:
        """Push the folder, and put it into the collection of its system.

        Raises:
            SegZooError: the Hub has refused it, or did not answer in all attempts.
        """
        from segzoo.hub import push_folder

        repository = f"{self.settings.namespace}/{repository_name(self.row.name)}"
        with self._timed("upload"):
            for attempt in range(1, self.settings.attempts + 1):
                try:
                    self.line["url"] = push_folder(
                        self.model_folder,
                        repository,
                        private=self.settings.private,
                        commit_message=f"Convert {self.row.name} with segzoo",
                    )
                    if self.settings.collections:
                        self.line["collection"] = add_to_collection(repository, self.row, self.settings)
                    break
                except SegZooError as error:
                    if attempt == self.settings.attempts:
                        raise
                    say(line_text(f"{self.row.name}: {one_line(error)}; once more"), stream=sys.stderr)
                    time.sleep(self.settings.pause * 2 ** (attempt - 1))
        self.line["repository"] = repository
        self.line["status"] = "moved"

    def tidy(self) -> None:
        """Delete download and conversion, and give their room back."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.disk.give_back(self.taken)
        self.taken = 0

    @property
    def model_folder(self) -> Path:
        """Where the converted model is until it has been uploaded."""
        return self.folder / "model"

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.line["seconds"][step] = round(time.monotonic() - start, 1)


def try_model(folder: Path) -> dict[str, Any]:
    """Label a drawn street scene with a model folder; returns its number of classes and those that it found.

    Raises:
        SegZooError: the folder does not load, or the probabilities are no numbers.
    """
    from segzoo.data.scenes import draw_scene
    from segzoo.inference.loading import load
    from segzoo.inference.predictor import Predictor

    loaded = load(folder)
    picture, _ = draw_scene(0)
    scores = Predictor(loaded.model, loaded.processor).probabilities(picture, picture.shape[:2])
    if not scores.isfinite().all():
        raise SegZooError("the converted model gives scores that are no numbers")
    return {"classes": len(scores), "found": scores.argmax(0).unique().numel()}


def try_backbone(folder: Path) -> dict[str, Any]:
    """Run a backbone's folder on a drawn scene; returns the shapes of its maps.

    Raises:
        SegZooError: the maps hold values that are no numbers.
    """
    import torch

    from segzoo import AutoBackbone
    from segzoo.backbones.plain_vit import FixedSizeViTConfig
    from segzoo.data.scenes import draw_scene

    backbone = AutoBackbone.from_pretrained(folder).eval()
    fixed = isinstance(backbone.config, FixedSizeViTConfig)
    height, width = backbone.config.sides if fixed else (224, 224)
    picture, _ = draw_scene(0, size=(height, width))
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].to(backbone.dtype) / 127.5 - 1
    with torch.no_grad():
        maps = backbone(pixels).feature_maps
    if not all(each.isfinite().all() for each in maps):
        raise SegZooError("the converted backbone gives maps with values that are no numbers")
    return {"maps": [list(each.shape[1:]) for each in maps]}


def repository_name(name: str) -> str:
    """A row's name as the Hub allows it: letters, digits, ``-``, ``_`` and single dots, at most 96."""
    return re.sub(r"\.{2,}|-{2,}", "-", re.sub(r"[^\w.-]", "-", name)).strip("-.")[:96]


def add_to_collection(repository: str, row: zoo.ZooRow, settings: Settings) -> str:
    """Put a repository into the collection of its system, which is made if it is not there; returns its slug.

    Raises:
        SegZooError: the Hub has refused it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi()
    scores = [f"{title} {value:.2f}" for title, value in (("mIoU", row.miou), ("Dice", row.dice)) if value is not None]
    try:
        collection = api.create_collection(
            f"{zoo.SYSTEMS[row.system].title} by segzoo",
            namespace=settings.namespace,
            private=settings.private,
            exists_ok=True,
        )
        note = ", ".join([row.dataset, *scores])[:500]
        api.add_collection_item(collection.slug, repository, item_type="model", note=note, exists_ok=True)
    except (HfHubHTTPError, HTTPError) as error:
        raise SegZooError(f"cannot put {repository} into its collection: {one_line(error)}") from error
    return collection.slug


def chosen_rows(patterns: Sequence[str]) -> list[zoo.ZooRow]:
    """The rows that are named, or that fit a pattern of their name or system, each once; all without patterns.

    Raises:
        SegZooError: nothing has such a name, or fits.
    """
    rows: dict[str, zoo.ZooRow] = {} if patterns else dict(zoo.rows())
    for pattern in patterns:
        fitting = [row for row in zoo.rows().values() if _fits(row, pattern)]
        for row in fitting or [zoo.find(pattern)]:
            rows[row.name] = row
    return list(rows.values())


def _fits(row: zoo.ZooRow, pattern: str) -> bool:
    return any(fnmatch.fnmatch(text.lower(), pattern.lower()) for text in (row.name, row.system))


def moved_before(log: Path) -> set[str]:
    """Names that an earlier run has moved; a line that broke off with it is passed over."""
    names = set()
    if log.is_file():
        for text in log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if line["status"] == "moved":
                    names.add(line["name"])
    return names


def move(rows: Sequence[zoo.ZooRow], settings: Settings, disk: Disk, *, downloads: int) -> int:
    """Move all rows that have not been moved; returns how many failed.

    Args:
        rows: the released checkpoints.
        settings: what holds for all.
        disk: the room that they share.
        downloads: number of downloads side by side; conversions and uploads run one at a time.

    Raises:
        OSError: the log cannot be written.
    """
    log = settings.work / LOG
    done = moved_before(log)
    end_last_line(log)
    for name in done & {row.name for row in rows}:
        shutil.rmtree(settings.work / name, ignore_errors=True)  # the earlier run may have ended before it did so
    moves = [Move(row, settings, disk) for row in rows if row.name not in done]
    say(f"{len(moves)} to move, {len(rows) - len(moves)} moved before", stream=sys.stderr)
    failed = 0
    with ThreadPoolExecutor(downloads) as pool, open(log, "a", encoding="utf-8") as lines:
        waiting: dict[Future, Move] = {pool.submit(each.download): each for each in moves}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    each = waiting.pop(future)
                    _finish(each, future)
                    failed += each.line["status"] != "moved"
                    # The line stands on the disk before anything is deleted.
                    lines.write(json.dumps(each.line, ensure_ascii=False) + "\n")
                    lines.flush()
                    os.fsync(lines.fileno())
                    print_text(line_text(json.dumps(each.line)))
                    each.tidy()
        except BaseException:
            disk.close()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _finish(each: Move, download: Future) -> None:
    """The steps after the download; an error becomes part of the checkpoint's line."""
    try:
        download.result()
        each.convert()
        each.try_out()
        each.upload()
    except SegZooError as error:
        each.line["error"] = one_line(error)
    except Exception as error:  # one broken checkpoint must not stop hundreds of others
        each.line["error"] = f"{type(error).__name__}: {one_line(error)}"


def left_of_others(work: Path, rows: Sequence[zoo.ZooRow]) -> int:
    """Bytes in the folder that an interrupted run with other names has left, and which the same command would use."""
    own = {row.name for row in rows}
    others = (folder for folder in work.iterdir() if folder.is_dir() and folder.name not in own)
    return sum(file.stat().st_size for folder in others for file in folder.rglob("*") if file.is_file())


def end_last_line(log: Path) -> None:
    """End the log's last line, if a run was killed while it wrote it."""
    if log.is_file() and log.read_bytes()[-1:] not in (b"", b"\n"):
        with log.open("a", encoding="utf-8") as file:
            file.write("\n")


def describe(rows: Sequence[zoo.ZooRow]) -> int:
    """Print for each row whether it converts, built without memory for weights; returns how many do not."""
    from segzoo.conversion.describe import describe_conversion

    failed = 0
    for row in rows:
        line: dict[str, Any] = {"name": row.name, "system": row.system, "licence": row.licence_weights}
        try:
            if row.url is None:
                line |= {"status": "no weights", "note": row.note}
            elif row.pretrained:
                line |= {"status": "converts", "note": "a backbone; its file tells the rest"}
            else:
                preview = describe_conversion(row.name)
                line |= {"status": "converts", "parameters": preview.parameters, "classes": preview.num_labels}
        except SegZooError as error:
            line |= {"status": "does not convert", "error": one_line(error)}
            failed += 1
        print_text(line_text(json.dumps(line)))
    say(f"{len(rows)} rows, {failed} do not convert", stream=sys.stderr)
    return failed


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help="rows of the zoo, or patterns; none: all of them")
    parser.add_argument("--dry_run", action="store_true", help="say what converts, without downloads and uploads")
    parser.add_argument("--namespace", help="user or organisation on the Hub to move to")
    parser.add_argument("--work", type=Path, default=Path("moving"), help="folder to work in (default: moving)")
    parser.add_argument("--licence", action="append", default=[], metavar="SYSTEM=SPDX", help="licence of the weights")
    parser.add_argument("--disk", type=size_in_bytes, default=50 * 10**9, help="room to use (default: 50GB)")
    parser.add_argument("--downloads", type=_count, default=4, help="downloads side by side (default: 4)")
    parser.add_argument("--attempts", type=_count, default=4, help="how often an upload is tried (default: 4)")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds before the second attempt (default: 5)")
    parser.add_argument("--no_collections", dest="collections", action="store_false", help="make no collections")
    parser.add_argument("--private", action="store_true", help="make repositories and collections private")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 if a checkpoint failed, or 2 if nothing could be begun."""
    args = make_parser().parse_args(argv)
    try:
        rows = chosen_rows(args.names)
        if args.dry_run:
            return min(1, describe(rows))
        if args.namespace is None:
            raise SegZooError("where to? Give --namespace NAME, or --dry_run to see what converts")
        rows = [row for row in rows if row.url is not None]
        licences = agreed_licences(rows, args.licence)
        check_folder_place(args.work, option="--work")
        args.work.mkdir(parents=True, exist_ok=True)
        settings = Settings(
            work=args.work,
            namespace=args.namespace,
            licences=licences,
            private=args.private,
            collections=args.collections,
            attempts=args.attempts,
            pause=args.pause,
        )
        with lock(args.work):
            disk = Disk(args.disk - left_of_others(args.work, rows))
            return min(1, move(rows, settings, disk, downloads=args.downloads))
    except FolderInUse as error:
        say(f"error: {args.work} is in use by another process {error.holder}; wait for it", stream=sys.stderr)
    except (SegZooError, OSError) as error:
        say(line_text(f"error: {one_line(error)}"), stream=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here", stream=sys.stderr)
        os._exit(130)  # without waiting for the downloads, which go on from their last byte too
