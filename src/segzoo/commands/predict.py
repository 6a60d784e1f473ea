"""Label pictures with a model: label maps, overlays with a legend, class areas."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.errors import SegZooError
from segzoo.progress import print_text
from segzoo.text import MOST_IN_NAME, line_text, shorten

if TYPE_CHECKING:
    from accelerate import PartialState

    from segzoo.prediction.inputs import Input
    from segzoo.prediction.labeller import Labeller, Speed
    from segzoo.prediction.record import Record
    from segzoo.prediction.results import Results
    from segzoo.prediction.run import Downloads, Failures, Task
    from segzoo.prediction.segments import VideoTargets

PROTOCOL = ("slide", "window", "stride", "scales", "short_sides")
EPILOG = """
exit status: 0 where every picture was labelled, 1 where one was not.

  segzoo predict photos --model DIR --output out --skip_existing --on_error skip
  segzoo predict photos --model DIR --output data --as_dataset --ignore_below 0.6
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo predict``."""
    from segzoo.inference.options import add_model_options, add_protocol_options, add_speed_options

    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="*",
        help="picture or video, a picture's web address, pattern such as 'photos/**/*.jpg', or folder of pictures and folders",
    )
    parser.add_argument("--model", metavar="DIR", required=True, help="model folder, or its name on the Hub")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the results; made if it is missing")
    parser.add_argument(
        "--list",
        metavar="FILE",
        action="append",
        default=[],
        help="text file with one IMAGE a line; - is standard input",
    )
    parser.add_argument(
        "--device", default="auto", help="torch device, such as cuda (default: a GPU if there is one, else cpu)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=1, metavar="N", help="pictures of one size at once (default: 1)"
    )
    parser.add_argument("--alpha", type=float, default=0.55, help="share of the colours in the overlay, 0 to 1")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    there.add_argument(
        "--skip_existing",
        action="store_true",
        help="leave out pictures whose results are all there; refused where they were made with other options",
    )
    parser.add_argument(
        "--on_error",
        choices=("stop", "skip"),
        default="stop",
        help="at a picture that cannot be labelled: end, or go on and name it at the end (default: stop)",
    )
    parser.add_argument(
        "--frame_labels", action="store_true", help="of videos, also write a label PNG of every frame, in NAME_frames/"
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--as_dataset", action="store_true", help="write a data set: images/, annotations/ and id2label.json"
    )
    kinds.add_argument(
        "--submission", choices=("ade20k", "cityscapes"), help="write masks as this benchmark's server takes them"
    )
    parser.add_argument(
        "--ignore_below",
        type=float,
        metavar="P",
        help="give pixels whose most likely class is less likely than this (0 to 1) the id 255: no class",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        default="float32",
        help="of weights and computation; auto: bfloat16 on CPUs that have it in hardware (default: float32)",
    )
    add_speed_options(parser)
    add_protocol_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write the results for each picture; returns 1 if pictures were left out because of errors, else 0.

    Raises:
        SegZooError: options, pictures, output folder or model cannot be used.
    """
    check(args)
    from segzoo.prediction.inputs import check_results_are_free, find_pictures
    from segzoo.prediction.record import check_same, holds_nothing_else, read_records, write_records
    from segzoo.prediction.run import Downloads, Failures, looked_at
    from segzoo.prediction.segments import remove_parts

    output, results = Path(args.output), results_of(args)
    pictures = find_pictures(args.images, results.names, lists=args.list, leave_out=output)
    for video in (picture for picture in pictures if picture.is_video and (args.as_dataset or args.submission)):
        raise SegZooError(f"{video.name}: of a video only an overlay is made; leave out --as_dataset and --submission")
    results.check_pictures(pictures)
    state = processes(args)
    try:
        own = pictures if state is None else pictures[state.process_index :: state.num_processes]
        earlier, record = read_records(output), None
        if not earlier and any(results.are_there(output, picture) for picture in pictures):
            earlier = [None]
        if args.skip_existing:
            if earlier:
                record = record_of(args, results)
                check_same(output, earlier, record)
            there = dict.fromkeys(picture for picture in own if results.are_there(output, picture))
            own = [picture for picture in own if picture not in there]
            for video in (picture for picture in there if picture.is_video):
                remove_parts(video_targets(output, video, results))
        check_results_are_free(own, output, results.names, overwrite=args.overwrite or args.skip_existing)
        failures = Failures(skip=args.on_error == "skip")
        videos = [picture for picture in own if picture.is_video]
        on_the_web = [picture for picture in own if picture.path is None]
        check_videos(videos, failures)
        if not (args.overwrite or args.skip_existing):
            check_frames_are_free([video_targets(output, video, results) for video in videos])
        with tempfile.TemporaryDirectory() as folder, Downloads(on_the_web, Path(folder), failures) as downloads:
            local = [picture for picture in own if not picture.is_video and picture.path is not None]
            tasks = looked_at(local, failures)
            if tasks or videos or downloads.first() is not None:
                record = record or record_of(args, results)
                label(args, Work(tasks, downloads, videos), results, output, failures, state, earlier, record)
        status = finish(args, pictures, len(own), failures, state)
        if args.overwrite and status == 0 and record and holds_nothing_else(output, pictures, results):
            write_records(output, [record])
        return status
    finally:
        if state is not None:
            state.destroy_process_group()


def check(args: argparse.Namespace) -> None:
    """Check the options before anything is read.

    Raises:
        SegZooError: a number out of its range, no pictures, or options that exclude each other.
    """
    from segzoo.inference.options import check_protocol_options

    if not args.images and not args.list:
        raise SegZooError("no pictures are named; give pictures or folders, or --list FILE")
    if not 0 <= args.alpha <= 1:
        raise SegZooError(f"--alpha {args.alpha} is not between 0 and 1")
    if args.batch_size < 1:
        raise SegZooError(f"--batch_size {args.batch_size} is not at least 1")
    if args.ignore_below is not None and not 0 <= args.ignore_below <= 1:
        raise SegZooError(f"--ignore_below {args.ignore_below} is not between 0 and 1")
    if args.frame_labels and (args.as_dataset or args.submission):
        raise SegZooError("--frame_labels is for videos; leave it out with --as_dataset and --submission")
    if args.ignore_below is not None and args.submission:
        raise SegZooError("--ignore_below: servers want a class for every pixel; leave it out with --submission")
    check_protocol_options(**{name: getattr(args, name) for name in PROTOCOL})


def results_of(args: argparse.Namespace) -> Results:
    """The kind of results that the options ask for."""
    from segzoo.prediction.results import DatasetFolders, Submission, Views

    if args.as_dataset:
        return DatasetFolders()
    if args.submission:
        return Submission(args.submission)
    return Views(args.alpha, facts_of(args), frame_labels=args.frame_labels)


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    """Entries of each JSON that say how it was made."""
    return {"model": args.model} | ({} if args.ignore_below is None else {"ignore_below": args.ignore_below})


def record_of(args: argparse.Namespace, results: Results) -> Record:
    """What the options say about the results; of the model, only its settings are read.

    Raises:
        SegZooError: there is no such model, or its settings cannot be read.
    """
    from types import SimpleNamespace

    from segzoo.inference.options import settings_from_options
    from segzoo.prediction.labeller import chosen_device
    from segzoo.prediction.record import ModelSource, Record

    source = ModelSource(
        args.model,
        revision=args.model_revision,
        token=args.token,
        cache_dir=args.cache_dir,
        trust_remote_code=args.trust_remote_code,
        verify=not args.no_verify,
    )
    config, processor = source.settings()
    model: Any = SimpleNamespace(config=config)  # all that a protocol depends on
    settings = settings_from_options(model, processor, **protocol_options(args))
    return Record(
        model=args.model,
        content=source.content(config),
        protocol=settings.describe(processor),
        dtype=speed_of(args).dtype_on(chosen_device(args.device)),
        ignore_below=args.ignore_below,
        results=str(results),
    )


def protocol_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the protocol, by the names that `settings_from_options` has for them."""
    return {name: getattr(args, name) for name in (*PROTOCOL, "flip", "average")}


def speed_of(args: argparse.Namespace) -> Speed:
    """How the model is to compute."""
    from segzoo.prediction.labeller import Speed

    return Speed(
        dtype=args.dtype, fuse=not args.no_fuse, memory_format=args.memory_format, num_streams=args.num_streams
    )


def processes(args: argparse.Namespace) -> PartialState | None:
    """This process among those that `accelerate launch` started; None if it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import PartialState

    from segzoo.prediction.labeller import chosen_device

    # Processes with small pictures wait at the end for those with large ones.
    return PartialState(cpu=chosen_device(args.device) == "cpu", timeout=timedelta(days=7))


def check_videos(videos: list[Input], failures: Failures) -> None:
    """Take out videos that cannot be read, and note why.

    Raises:
        SegZooError: a video cannot be read, and errors end the run.
    """
    from segzoo.prediction.video import read_facts

    for video in list(videos):
        try:
            read_facts(video.path, video.name)
        except Exception as error:
            failures.note(video.name, error)
            videos.remove(video)


def video_targets(output: Path, video: Input, results: Results) -> VideoTargets:
    """Where the results of a video go."""
    from segzoo.prediction.segments import VideoTargets

    folders = results.folders(video)
    overlay, summary = results.names(video)
    return VideoTargets(output / overlay, output / summary, output / folders[0] if folders else None)


def check_frames_are_free(targets: Sequence[VideoTargets]) -> None:
    """Check that no label maps of frames are replaced.

    Raises:
        SegZooError: a folder holds some.
    """
    for target in targets:
        if target.have_frames:
            raise SegZooError(
                f"{target.frames}: label maps of frames exist already; add --overwrite, or choose another folder"
            )


@dataclass(frozen=True)
class Work:
    """What one process labels.

    Args:
        tasks: pictures on this machine.
        downloads: pictures on the web.
        videos: videos.
    """

    tasks: Sequence[Task]
    downloads: Downloads
    videos: Sequence[Input]

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of pictures, as far as they are known; at least one, the first picture's first."""
        from segzoo.prediction.video import read_facts

        fetched = self.downloads.first()
        sizes = [task.size for task in [*self.tasks, *([] if fetched is None else [fetched])]]
        return sizes + [read_facts(video.path, video.name).size for video in self.videos[:1]]

    def is_small(self) -> bool:
        """Whether all pictures are known to be small, so that several may be held at once."""
        from segzoo.prediction.run import QUICK_PIXELS

        known = len(self.downloads.pictures) <= 1
        return known and max(height * width for height, width in self.sizes()) <= QUICK_PIXELS


def label(
    args: argparse.Namespace,
    work: Work,
    results: Results,
    output: Path,
    failures: Failures,
    state: PartialState | None,
    earlier: Sequence[Record | None],
    record: Record,
) -> None:
    """Load the model, label the pictures, and print a line about each."""
    from segzoo.evaluation.progress import EvaluationProgress
    from segzoo.prediction.record import write_records
    from segzoo.prediction.run import label_pictures

    device = "cpu" if args.device == "cpu" else device_of(args, state)
    if device == "cpu" and work.is_small():
        from segzoo.memory import keep_freed_memory

        keep_freed_memory()
    labeller = labeller_of(args, work.sizes()[0], device)
    results.check(labeller)
    is_main = state is None or state.is_main_process
    output.mkdir(parents=True, exist_ok=True)
    # By every process: the first one may have nothing to do.
    write_records(output, [*earlier, *([] if record in earlier else [record])])
    if is_main:
        if args.skip_existing and None in earlier:
            print_text(line_text(f"{output}: nothing says how the results in it were made; they stay as they are"))
        print_text(f"protocol: {labeller.protocol}")
    progress = EvaluationProgress(len(work.tasks) + len(work.downloads.pictures), enabled=is_main, seconds=10)
    options = {"batch_size": args.batch_size, "downloads": work.downloads}
    for written in label_pictures(labeller, work.tasks, results, output, failures, **options):
        progress.finish_line()
        say_result(written.picture, written.areas, written.seconds)
        progress.image()
    progress.finish_line()
    for video in work.videos:
        label_one_video(args, labeller, video, video_targets(output, video, results), failures, record.key)


def label_one_video(
    args: argparse.Namespace,
    labeller: Labeller,
    video: Input,
    targets: VideoTargets,
    failures: Failures,
    made_with: str,
) -> None:
    """Write the results of a video, with a line of progress, and print a line about it."""
    from segzoo.evaluation.progress import EvaluationProgress
    from segzoo.files import remove_abandoned
    from segzoo.prediction.segments import Parts
    from segzoo.prediction.video import label_video, read_facts

    start = time.perf_counter()
    try:
        targets.overlay.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(targets.overlay.parent)
        parts = Parts(targets, video.path, go_on=args.skip_existing, made_with=made_with)
        frames = read_facts(video.path, video.name).frames
        progress = EvaluationProgress(frames, num_done=parts.frames, seconds=10)
        areas = label_video(
            labeller,
            video.path,
            video.name,
            parts,
            alpha=args.alpha,
            batch_size=args.batch_size,
            facts=facts_of(args),
            on_frame=progress.image,
        )
        progress.finish_line()
    except Exception as error:
        failures.note(video.name, error)
        return
    say_result(video, areas, time.perf_counter() - start)


def say_result(picture: Input, areas: Sequence[dict[str, Any]], seconds: float) -> None:
    """Print a line about a picture: its largest classes, what has none (``--ignore_below``), and the time that it took."""
    parts = [f"{shorten(area['name'], MOST_IN_NAME)} {area['fraction']:.1%}" for area in areas[:3]]
    rest = 1 - sum(area["fraction"] for area in areas)
    if rest > 0.0005:
        parts.append(f"not labelled {rest:.1%}")
    print_text(line_text(f"{picture.name}: {', '.join(parts)} ({seconds:.2f} s)"))


def device_of(args: argparse.Namespace, state: PartialState | None) -> str:
    """The device for this process; of several processes each has its own GPU."""
    from segzoo.prediction.labeller import chosen_device

    return chosen_device(args.device) if state is None else str(state.device)


def labeller_of(args: argparse.Namespace, size: tuple[int, int], device: str) -> Labeller:
    """The model that the options name; lines about its speed are printed."""
    from segzoo.inference.options import load_from_options, settings_from_options
    from segzoo.prediction.labeller import Labeller

    loaded = load_from_options(args, device)
    labeller, lines = Labeller.loaded(
        loaded,
        size,
        settings=settings_from_options(*loaded, **protocol_options(args)),
        speed=speed_of(args),
        ignore_below=args.ignore_below,
    )
    for line in lines:
        print_text(line, stream=sys.stderr)
    return labeller


def finish(
    args: argparse.Namespace,
    pictures: Sequence[Input],
    begun: int,
    failures: Failures,
    state: PartialState | None,
) -> int:
    """Print the names of pictures with errors, and how many results there are; returns the exit status."""
    found = failures.found
    if state is not None:
        from accelerate.utils import gather_object

        found = gather_object(found)
        begun = sum(gather_object([begun]))
    if state is None or state.is_main_process:
        skipped = len(pictures) - begun
        there = f" ({skipped} were there already)" if skipped else ""
        print_text(line_text(f"{len(pictures) - len(found)} pictures -> {args.output}{there}"))
        if found:
            print_text(f"{len(found)} picture{'s' * (len(found) > 1)} could not be labelled:", stream=sys.stderr)
        for name, reason in found:
            print_text(line_text(f"  {name}: {reason}"), stream=sys.stderr)
    return 1 if found else 0
