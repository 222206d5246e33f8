"""The command line: help that cannot lie, nothing heavy before a command runs, exit codes, what goes where."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import PurePath

import pytest
import typer
from pydantic_core import PydanticUndefined

from batchrec import __version__
from batchrec.cli import app
from batchrec.config import JobConfig
from tests.runs import ROOT, command

HEAVY = {
    "dask", "distributed", "duckdb", "faiss", "feast", "keras", "numpy", "pandas", "pyarrow", "pydantic_settings",
    "tensorflow",
}  # fmt: skip

COMMANDS = typer.main.get_command(app).commands

UNITS = re.compile(
    r"folder|file|repository|column|directory|name|time|users?\b|items?\b|seed|factor|share|relevance|row|minutes|numbers"
    r"|passes|places|processes|service|resamples|index|inverted|traceback|message|runs?",
    re.IGNORECASE,
)
"""What an option's help must mention: the thing it counts or names."""


def options(name):
    return [parameter for parameter in COMMANDS[name].params if parameter.name != "help"]


def shown_default(parameter):
    told = parameter.show_default
    return told if isinstance(told, str) else parameter.default


def test_run_tells_the_defaults_of_the_configuration():
    told = {parameter.name: shown_default(parameter) for parameter in options("run")}
    assert set(told) - {"config", "debug"} == set(JobConfig.model_fields)
    for name, field in JobConfig.model_fields.items():
        if field.default is PydanticUndefined:
            assert "required" in told[name]
        elif field.default is None:
            assert told[name] in {
                "now",
                "the as-of time",
                "none",
                "every user is computed",
                "512 MB for sorting, no other bound",
            }
        elif field.default == ():
            assert told[name] == "none"
        elif isinstance(field.default, bool):
            assert told[name] == (name if field.default else "off")
        else:
            default = str(field.default) if isinstance(field.default, PurePath) else field.default
            assert told[name] == str(default), name


def test_run_takes_no_value_unless_one_is_given():
    """A default of Typer's would hide the environment and the job file."""
    assert {parameter.name for parameter in options("run") if parameter.default is not None} == {"debug"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_has_help_and_a_default(name):
    assert COMMANDS[name].help
    for parameter in options(name):
        assert parameter.help, parameter.name
        assert parameter.help.endswith("."), parameter.name
        assert UNITS.search(parameter.help), f"{parameter.name} does not say what it is in: {parameter.help}"
        assert parameter.required or shown_default(parameter) is not None, parameter.name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_every_option_with_its_default(name, batchrec, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    said = batchrec(name, "--help")
    assert said.code == 0
    assert said.err == ""
    lines = said.out.splitlines()
    for parameter in options(name):
        shown = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name
        line = next(line for line in lines if shown in line)
        default = shown_default(parameter)
        assert parameter.required or f"[default: {default}]" in line or f"[default: ({default})]" in line, line


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([name, "--help"] for name in sorted(COMMANDS))], ids=str)
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys; from batchrec import cli; sys.argv = ['batchrec', *sys.argv[1:]]\n"
        "try: cli.main()\nfinally: print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert not HEAVY & set(done.stderr.split())


def test_version(batchrec):
    said = batchrec("--version")
    assert (said.code, said.out) == (0, f"batchrec {__version__}\n")


def test_no_command_shows_help_and_fails(batchrec):
    said = batchrec()
    assert said.code == 2
    assert "evaluate" in said.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["walk"], "no such command 'walk': see `batchrec --help`"),
        (["train"], "missing option"),
        (["index"], "missing argument"),
        (["evaluate", "x", "--k", "0"], "'--k'"),
    ],
)
def test_wrong_usage_is_one_line(batchrec, args, words):
    said = batchrec(*args)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("batchrec: error: ")
    assert words in said.err
    assert said.err.count("\n") == 1


def test_streams_of_a_run_off_a_terminal(world, batchrec, tmp_path):
    said = batchrec(*world.args(tmp_path, "--users-per-partition=500", "--run-id=r"))
    assert said.code == 0
    assert said.out.count("\n") == 1
    assert json.loads(said.out) == said.summary
    assert set(said.summary) == {
        "run_id", "path", "rows", "users", "by_status", "null_rows", "duplicate_rows", "suppressed_users",
        "parts", "verified", "seconds", "users_per_second", "deadline", "since",
    }  # fmt: skip
    lines = said.err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines), said.err
    assert "1,000 users in 2 partitions" in lines[0]
    assert re.search(r"1,000 users in [\d.]+ s, [\d,]+ users/s$", lines[1])
    assert re.search(r"verified: 2 parts, 1,000 rows, 9,\d\d\d list items, no violation$", lines[-1])


def test_a_terminal_shows_a_bar_with_its_rate(world, tmp_path):
    ours, theirs = pty.openpty()
    process = command(*world.args(tmp_path, "--run-id=r"), stderr=theirs, env={"TERM": "xterm", "COLUMNS": "120"})
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["users"] == 1000
    text = shown.decode()
    assert "Recommending" in text
    assert "1000/1000" in text
    assert re.search(r"[\d,]+ users/s", text)
