import io
import re

from segzoo.evaluation.progress import EvaluationProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines():
    stream = io.StringIO()
    progress = EvaluationProgress(20, num_done=4, num_processes=2, stream=stream, seconds=0)
    for _ in range(8):
        progress.image()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 8 and lines[0].startswith("6/20 images  ") and lines[-1].startswith("20/20 images  ")
    assert all(re.fullmatch(r"\d+/20 images  [\d.]+ images/s  \d\S* left", line) for line in lines)
    assert lines[-1].endswith(" 0s left")


def test_one_line_in_place():
    stream = Terminal()
    progress = EvaluationProgress(3, stream=stream, seconds=0)
    for _ in range(3):
        progress.image()
    progress.message("done")
    text = stream.getvalue()
    assert text.count("\r") == 3 and text.endswith("left\ndone\n") and text.count("\n") == 2


def test_seldom_and_silent():
    stream = io.StringIO()
    for options in ({"seconds": 1000}, {"seconds": 0, "enabled": False}):
        progress = EvaluationProgress(3, stream=stream, **options)
        progress.image()
    assert stream.getvalue() == ""
    assert EvaluationProgress(3, stream=stream).images_per_second() == 0
