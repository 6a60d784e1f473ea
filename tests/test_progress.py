import io
import os

import pytest

from segzoo.progress import Progress, duration, say


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line_says_how_it_goes():
    stream = io.StringIO()
    progress = Progress(100, stream=stream)
    for _ in range(10):
        progress.step(4)
    entry = progress.report(10, 0.51234, 0.001)
    assert entry["step"] == 10 and entry["images_per_second"] > 0
    line = stream.getvalue()
    assert line.startswith("step 10/100  loss 0.5123  lr 1.00e-03  ") and line.endswith(" left\n")


def test_on_a_terminal_the_line_stays_in_place_and_messages_get_their_own():
    stream = Terminal()
    progress = Progress(9, stream=stream)
    progress.step(1)
    progress.report(1, 1.0, 0.1)
    progress.message("scored")
    assert stream.getvalue().startswith("\rstep 1/9") and stream.getvalue().endswith(" left\nscored\n")


def test_other_processes_say_nothing():
    stream = io.StringIO()
    progress = Progress(9, enabled=False, stream=stream)
    progress.step(1)
    progress.report(1, 1.0, 0.1)
    progress.message("scored")
    assert stream.getvalue() == ""


def test_duration():
    assert [duration(s) for s in (3, 125, 11240, 187000)] == ["3s", "2m05s", "3h07m", "2d03h"]


def test_characters_that_the_encoding_lacks_become_question_marks():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    Progress(9, stream=stream).message("road or 道路, café")
    say("道路", stream=stream)
    assert stream.buffer.getvalue().decode("cp1252").split("\n") == ["road or ??, café", "??", ""]


@pytest.mark.skipif(os.name != "posix", reason="pipes without a reader")
def test_a_stream_that_nobody_reads_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), open(writer, "w") as stream:  # the text that is left over, at its end
        say("step 1", stream=stream)
        say("step 2", stream=stream)
    say("step 3", stream=stream)  # closed
