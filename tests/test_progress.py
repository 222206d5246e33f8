import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from batchrec import progress
from batchrec.progress import Progress, say

WORK = """
from batchrec.progress import Progress, say
with Progress("Recommending", 3000, "users") as bar:
    bar.advance(1000)
    say("in between")
    print("a result")
    bar.advance(2000)
"""
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def on_terminal(script):
    """Run a script with standard error on a pseudo-terminal; return exit code, output, and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS"}}
    done = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=environment | {"TERM": "xterm"},
    )
    os.close(theirs)
    received = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        received += part
    os.close(ours)
    output = done.stdout.read()
    done.stdout.close()
    return done.wait(), output, received.decode()


def test_a_bar_on_a_terminal():
    code, output, shown = on_terminal(WORK)
    text = COLOURS.sub("", shown)
    assert code == 0
    assert "\x1b[" in shown
    assert "━" in text
    assert "Recommending" in text
    assert "3000/3000" in text
    assert re.search(r"[\d,]+ users/s", text)
    assert re.search(r"\d\d:\d\d:\d\d in between\r?\n", text)
    assert output == "a result\n"


def test_a_terminal_is_left_in_order_after_a_failure():
    code, _, shown = on_terminal(
        "from batchrec.progress import Progress\nwith Progress('x', 2, 'y'): raise SystemExit(3)"
    )
    assert code == 3
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_plain_lines_elsewhere():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert done.stdout == "a result\n"
    first, last = done.stderr.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d in between", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d Recommending: 3,000 users in \d+\.\d s, [\d,]+ users/s", last)


def test_a_line_every_ten_seconds(clock, capsys):
    with Progress("Counting", 5000, "rows") as bar:
        for second in (4, 9.9, 11, 12, 20.9, 21.5):
            clock[0] = 100 + second
            bar.advance(500)
        clock[0] = 130
        lines = capsys.readouterr().err.splitlines()
        assert [line[9:] for line in lines] == [
            "Counting: 1,500 of 5,000 rows, 136 rows/s",
            "Counting: 3,000 of 5,000 rows, 140 rows/s",
        ]
    output, line = capsys.readouterr()
    assert output == ""
    assert line[9:] == "Counting: 3,000 rows in 30.0 s, 100 rows/s\n"


def test_rate_and_seconds(clock):
    with Progress("x", 10, "y", quiet=True) as bar:
        bar.advance(6)
        clock[0] += 3
        assert (bar.done, bar.seconds, bar.rate) == (6, 3, 2)


def test_quiet_work_says_nothing_at_its_end(capsys):
    with Progress("x", 1, "y", quiet=True) as bar:
        bar.advance(1)
    assert capsys.readouterr() == ("", "")


def test_failed_work_boasts_of_nothing(capsys):
    with pytest.raises(KeyError), Progress("x", 1, "y"):
        raise KeyError
    assert capsys.readouterr() == ("", "")


def test_say_goes_to_standard_error_at_once(monkeypatch):
    class Stream(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    say("hello")
    assert re.fullmatch(r"\d\d:\d\d:\d\d hello\n", stream.flushed)
