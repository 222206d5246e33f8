"""The documentation: its commands run, its tables are those of the code, its links lead somewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import bigquery_schema
import demo_data
import movielens
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import render_docs
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker
from typer.main import get_command

import batchrec
from batchrec import cli, errors
from batchrec.config import ENV_PREFIX, JobConfig, load_config
from batchrec.models import bundle_format
from batchrec.schema import Source, Status, list_schema, long_schema
from tests.runs import ROOT, published

README = ROOT / "README.md"
PAGES = sorted(
    [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    + [ROOT / folder / "README.md" for folder in ("feature_repo", "constraints", "output")]
)
LANGUAGES = {"bash", "console", "python", "text", ""}
"""``bash`` and ``python`` are executed in README.md, ``python`` in docs too; ``console`` is only parsed."""

NEED_A_RUN = {README, ROOT / "docs" / "reading.md"}
"""Pages whose Python is executed where there is a run to read: here, and in tests/test_reading.py."""
SYSTEM_PROGRAMS = {"airflow", "cp", "crontab", "docker", "journalctl", "kubectl", "mkdir", "systemctl"}
"""What is not batchrec's: of their commands only the files of the repository are looked at."""

MAKES_THE_BUNDLE = ("feast -c feature_repo apply", "write_format(", "batchrec index bundles/own")
"""What stands in the README's blocks that all others need, in the order in which they must run."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Words of each shell command; of a ``console`` block, what follows its prompts."""
        text = self.text.replace("\\\n", " ")
        if self.language == "console":
            text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
        lines = [shlex.split(line, comments=True) for line in text.splitlines()]
        return [line for line in lines if line]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text[: found.start()].count("\n") + 1, found[1], found[2]) for found in fences]


BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [(block, words) for block in BLOCKS if block.language in {"bash", "console"} for words in block.commands()]


def without_variables(words: list[str]) -> list[str]:
    return words[next(place for place, word in enumerate(words) if "=" not in word) :]


class Workshop:
    """A folder like a fresh clone after `make demo` has installed batchrec, in which blocks are executed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        (folder / "jobs").symlink_to(ROOT / "jobs")
        shutil.copytree(ROOT / "feature_repo", folder / "feature_repo", ignore=shutil.ignore_patterns("data", "__py*"))
        commands = folder / "bin"
        commands.mkdir()
        (commands / "batchrec").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchrec "$@"\n')
        (commands / "batchrec").chmod(0o755)
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        self.environment = kept | {"PATH": path, "PYTHONPATH": str(ROOT)}

    def execute(self, block: Block) -> None:
        if block.language == "python":
            code = compile("\n" * block.line + block.text, str(block.page), "exec")
            with contextlib.chdir(self.folder):
                exec(code, {"__name__": "readme"})
            return
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{block} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        self.said.append(done.stdout)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Execute every executable block of the README: first those that make a bundle, then the others in order.

    The bundle of untrained models stands in for that of the demo, whose training takes minutes.
    """
    made = Workshop(tmp_path_factory.mktemp("readme"))
    executable = [block for block in blocks(README) if block.language in {"bash", "python"}]
    first = []
    for words in MAKES_THE_BUNDLE:
        (block,) = [one for one in executable if words in one.text]
        first.append(block)
    for block in first:
        made.execute(block)
    (made.folder / "bundles" / "demo").symlink_to("own")
    for block in executable:
        if block not in first:
            made.execute(block)
    return made


class TestReadmeRuns:
    def test_each_run_is_published_with_a_row_a_user(self, workshop: Workshop) -> None:
        users = sorted(pq.read_table(workshop.folder / "feature_repo/data/users.parquet")["user_id"].to_pylist())
        for run in ("python", "monday", "tuesday"):
            table = published(workshop.folder / "output" / run)
            assert table["user_id"].to_pylist() == users
            assert set(table["status"].to_pylist()) == {"ok"}
            assert (workshop.folder / "output" / run / "_SUCCESS").exists()

    def test_current_is_the_newest(self, workshop: Workshop) -> None:
        assert (workshop.folder / "output/current").resolve().name == "tuesday"

    def test_python_and_command_line_make_the_same_rows(self, workshop: Workshop) -> None:
        assert published(workshop.folder / "output/python").equals(published(workshop.folder / "output/monday"))

    def test_the_variable_wins_over_the_job_file(self, workshop: Workshop) -> None:
        lists = published(workshop.folder / "output/tuesday")["item_ids"].to_pylist()
        assert {len(one) for one in lists} == {5}

    def test_the_demo_block_tells_what_the_log_says(self, workshop: Workshop) -> None:
        with contextlib.chdir(workshop.folder):
            block = render_docs.demo_block("".join(workshop.said))
        first_user = published(workshop.folder / "output/tuesday").slice(0, 1).to_pylist()[0]
        row = block.splitlines()[2]
        assert row.startswith(f"| {first_user['user_id']} | {', '.join(map(str, first_user['item_ids'][:3]))}, … |")
        (report,) = [json.loads(line) for line in "".join(workshop.said).splitlines() if '"systems"' in line]
        for system in report["systems"]:
            assert f"| `{system['name']}` | {system['figures']['recall']['estimate']:.4f} (" in block


@pytest.mark.parametrize(
    "block", [one for one in BLOCKS if one.language == "python" and one.page not in NEED_A_RUN], ids=str
)
def test_python_of_the_other_pages_runs(block: Block) -> None:
    exec(compile("\n" * block.line + block.text, str(block.page), "exec"), {"__name__": "page"})


@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=lambda value: str(value)[:60])
def test_each_command_is_one_that_exists(block: Block, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = without_variables(words)
    if program == "batchrec":
        name, *rest = arguments
        get_command(cli.app).commands[name].make_context(name, rest)
    elif program == "python":
        assert_script_takes(arguments, monkeypatch)
    elif program == "dask":
        name, *rest = arguments
        {"scheduler": dask_scheduler, "worker": dask_worker}[name].make_context(name, rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert arguments[0] == "install"
        assert set(re.findall(r"\[(\w+)\]", arguments[1])) <= set(extras)
    elif Path(program).name in SYSTEM_PROGRAMS:
        assert all((ROOT / word).exists() for word in arguments if word.startswith("jobs/"))
    else:
        assert (program, arguments[0], arguments[2]) == ("feast", "-c", "apply"), f"{block} has an unknown command"


def assert_script_takes(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a script's arguments by its own parser, and stop before it does anything."""
    script, *options = arguments

    def stop(*_: object, **__: object) -> None:
        raise StopIteration("parsed")

    monkeypatch.setattr(demo_data, "generate", stop)
    monkeypatch.setattr(movielens, "prepare", stop)
    monkeypatch.setattr(bigquery_schema, "bigquery_schema", stop)
    monkeypatch.setattr(sys, "argv", [script, *options])
    if script == "jobs/render_docs.py":
        assert options == []
        return
    if script.startswith("benchmarks/"):
        asked = [sys.executable, ROOT / script, *options, "--help"]
        assert subprocess.run(asked, check=False, capture_output=True, cwd=ROOT).returncode == 0
        return
    modules = {
        "jobs/demo_data.py": demo_data,
        "jobs/movielens.py": movielens,
        "jobs/bigquery_schema.py": bigquery_schema,
    }
    with pytest.raises(StopIteration, match="parsed"):
        modules[script].main()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestEveryPage:
    def test_links_lead_to_files_and_headings(self, page: Path) -> None:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
            file = (page.parent / target) if target else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}"

    def test_blocks_are_marked_by_language(self, page: Path) -> None:
        assert {block.language for block in blocks(page)} <= LANGUAGES


def anchors(page: Path) -> set[str]:
    """Names that a forge gives to headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_generated_parts_are_up_to_date() -> None:
    for path, content in render_docs.rendered(README.read_text(encoding="utf-8")).items():
        assert path.read_text(encoding="utf-8") == content, (
            f"run python jobs/render_docs.py: {path.name} is out of date"
        )


def test_the_readme_shows_five_rows_of_the_demo() -> None:
    (region,) = re.findall(r"<!-- demo:begin -->(.*?)<!-- demo:end -->", README.read_text(encoding="utf-8"), re.DOTALL)
    rows = [line for line in region.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == render_docs.SHOWN_USERS


def test_every_option_of_a_run_is_in_the_table() -> None:
    (region,) = re.findall(r"<!-- config:begin -->(.*?)<!-- config:end -->", README.read_text("utf-8"), re.DOTALL)
    rows = {row[1]: row[2] for row in re.finditer(r"^\| `(\w+)` \|.*\| (.+) \|$", region, re.MULTILINE)}
    assert list(rows) == list(JobConfig.model_fields)
    assert all(len(meaning) > 5 for meaning in rows.values())


def test_every_command_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `batchrec ([\w-]+)[^\n]*\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    commands = get_command(cli.app).commands
    assert list(sections) == list(commands)
    for name, command in commands.items():
        shown = command.get_help(command.make_context(name, [], resilient_parsing=True))
        options = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}
        assert set(re.findall(r"^\| `(--[a-z-]+)`", sections[name], re.MULTILINE)) >= options, name


def test_the_job_file_holds_options_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    job = load_config({}, ROOT / "jobs" / "job.toml")
    assert job.bundle == Path("bundles/demo")
    defaults = {name: field.default for name, field in JobConfig.model_fields.items() if not field.is_required()}
    changed = {name for name, default in defaults.items() if getattr(job, name) != default}
    assert changed == {"as_of"}


def test_the_readme_tells_every_exit_code() -> None:
    (table,) = re.findall(r"^\| code .*?(?=\n\n)", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    kinds = [errors.BatchrecError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    codes = {kind.exit_code for kind in kinds} | {0, cli.EXIT_INTERRUPTED}
    assert {int(code) for code in re.findall(r"^\| (\d+) ", table, re.MULTILINE)} == codes


def test_the_readme_tells_every_status_and_source() -> None:
    text = README.read_text("utf-8")
    (table,) = re.findall(r"^\| status .*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [str(one) for one in Status]
    (sentence,) = re.findall(r"^`source` is .*?\.$", text, re.MULTILINE)
    assert re.findall(r"`(\w+)`", sentence)[1:] == [str(one) for one in Source]


@pytest.mark.parametrize(("layout", "schema"), [("list", list_schema), ("long", long_schema)])
def test_the_readme_tells_every_column(layout: str, schema: object) -> None:
    (columns,) = re.findall(rf"^\| `{layout}` \|[^|]+\| `([\w, ]+)` \|$", README.read_text("utf-8"), re.MULTILINE)
    assert columns.split(", ") == schema(pa.int64(), pa.int64(), sampled=True).names  # type: ignore[operator]


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("`bundle.json`", bundle_format.BundleFormat),
        ("`seen`", bundle_format.Seen),
        ("`query_tower`", bundle_format.QueryTowerFormat),
        ("`ranker`", bundle_format.RankerFormat),
        ("An input", bundle_format.FeatureInput),
        ("`index`", bundle_format.IndexFormat),
    ],
)
def test_every_field_of_a_bundle_is_documented(heading: str, model: type) -> None:
    page = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^##+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    named = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, re.MULTILINE)
    documented = [name for names in named for name in re.findall(r"`(\w+)`", names)]
    assert sorted(documented) == sorted(model.model_fields)  # type: ignore[attr-defined]


def test_decisions_say_problem_options_and_choice() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(page.name[:3]) for page in pages]
    assert len(set(numbers)) == len(numbers)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert all(f"## {heading}" in text for heading in ("Problem", "Options", "Choice")), page.name


def test_the_changelog_tells_of_this_version() -> None:
    assert f"\n## {batchrec.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_values_of_a_literal_are_listed() -> None:
    for name in ("layout", "fallback", "rank_by"):
        for value in get_args(JobConfig.model_fields[name].annotation):
            assert f"`{value}`" in render_docs.config_table()
