"""Write the generated parts of the documentation: ``python jobs/render_docs.py [--demo-log LOG]``.

From the code come the options of a run in the README, every command in ``docs/cli.md`` and the layers in
``docs/architecture.md``; a test fails where they are not what this would write. The README's figures and its five rows
come from the log of a ``make demo`` (its standard output) and from the run that this log names; start it where the demo
was started.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import tomllib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import pyarrow.dataset as ds
from annotated_types import Ge, Gt, Le, Lt
from typer.models import ArgumentInfo

from batchrec.cli import app
from batchrec.config import ENV_PREFIX, JobConfig

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CLI_PAGE = ROOT / "docs" / "cli.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
SHOWN_USERS = 5
SHOWN_ITEMS = 3
SHOWN_METRICS = {"recall": "recall", "ndcg": "NDCG", "hit_rate": "hit rate", "mrr": "MRR", "coverage": "coverage"}

TYPE_NAMES: dict[Any, str] = {int: "whole number", float: "number", str: "text", Path: "path"}
BOUNDS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def config_table() -> str:
    """Return the options of a run as a Markdown table, one row a field of :class:`~batchrec.config.JobConfig`."""
    rows = [
        (f"`{name}`", _values(field), _default(field), _sentence(field.description or ""))
        for name, field in JobConfig.model_fields.items()
    ]
    return markdown_table(("option", "values", "default", "meaning"), rows)


def cli_page() -> str:
    """Return the page that lists every command with its arguments and options."""
    sections = [
        "# Command line",
        "Written by `jobs/render_docs.py` from the code. `batchrec --help` and `batchrec COMMAND --help` say the same.",
        "`batchrec --version` prints the version. Every option of `run` but `--config` and `--debug` can also be a key "
        f"of the job file, or a variable: `{ENV_PREFIX}` and its name in capitals, such as `{ENV_PREFIX}TOP_K`.",
        *(section for name, command in cli_commands().items() for section in _command_section(name, command)),
    ]
    return "\n\n".join(sections) + "\n"


def layers() -> str:
    """Return the layers that import-linter enforces, as a text block."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (found,) = [one["layers"] for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    return "\n".join(["```text", *found, "```"])


def demo_block(log: str) -> str:
    """Return figures and first rows of the demo whose log this is.

    Parameters
    ----------
    log
        Standard output of ``make demo``; the summaries in it are lines of JSON.

    Raises
    ------
    ValueError
        If no run is in the log.
    """
    summaries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    runs = [summary for summary in summaries if "run_id" in summary]
    if not runs:
        raise ValueError("the log holds no summary of a run")
    reports = [summary for summary in summaries if "systems" in summary]
    parts = [rows_table(Path(runs[-1]["path"]))]
    if reports:
        parts.append(figures_table(reports[-1]))
    if "users_per_second" in runs[-1]:
        parts.append(
            f"That run took {runs[-1]['seconds']:.0f} s for {runs[-1]['users']:,} users, start-up included, and made "
            f"{runs[-1]['users_per_second']:,.0f} lists a second once the models were loaded."
        )
    return "\n\n".join(parts)


def rows_table(run: Path) -> str:
    """Return the first users' rows of a published run as a Markdown table, long lists cut after a few items."""
    manifest = json.loads((run / "_manifest.json").read_text(encoding="utf-8"))
    parts = [str(run / part["name"]) for part in manifest["parts"]]
    table = ds.dataset(parts, format="parquet").head(SHOWN_USERS)
    rows = [tuple(_cell(value) for value in row.values()) for row in table.to_pylist()]
    return markdown_table(tuple(f"`{name}`" for name in table.column_names), rows)


def figures_table(report: dict[str, Any]) -> str:
    """Return the figures of an evaluation as a Markdown table, one row a system, with their intervals."""
    header = ("", *(f"{shown}@{report['k']}" for shown in SHOWN_METRICS.values()))
    rows = [
        (f"`{system['name']}`", *(_figure(system["figures"][metric]) for metric in SHOWN_METRICS))
        for system in report["systems"]
    ]
    users = report["holdout"]["users"]
    return (
        markdown_table(header, rows)
        + f"\n\n{users:,} users with held-out clicks; in brackets {report['confidence']:.0%} bootstrap intervals."
    )


def markdown_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True)
class Region:
    """A generated stretch of a page, between two comments that stay."""

    name: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """Match the comments and what is between them."""
        return re.compile(rf"(<!-- {self.name}:begin -->\n).*?(<!-- {self.name}:end -->)", re.DOTALL)

    def replace(self, page: str, content: str) -> str:
        """Return the page with other content in this region.

        Raises
        ------
        ValueError
            If the page does not have the region exactly once.
        """
        replaced, count = self.pattern.subn(lambda found: f"{found[1]}{content}\n{found[2]}", page)
        if count != 1:
            raise ValueError(f"the page has {count} regions {self.name!r}, expected one")
        return replaced


CONFIG, DEMO, LAYERS = Region("config"), Region("demo"), Region("layers")


def rendered(readme: str) -> dict[Path, str]:
    """Return every page that is generated in whole or in part, with the content that the code gives it."""
    architecture = ARCHITECTURE.read_text(encoding="utf-8")
    return {
        README: CONFIG.replace(readme, config_table()),
        CLI_PAGE: cli_page(),
        ARCHITECTURE: LAYERS.replace(architecture, layers()),
    }


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the documentation.")
    parser.add_argument("--demo-log", type=Path, help="standard output of `make demo` (default: the rows stay)")
    options = parser.parse_args()
    readme = README.read_text(encoding="utf-8")
    if options.demo_log:
        readme = DEMO.replace(readme, demo_block(options.demo_log.read_text(encoding="utf-8")))
    for path, content in rendered(readme).items():
        path.write_text(content, encoding="utf-8")


def _values(field: FieldInfo) -> str:
    """Say which values a field takes."""
    literals = [value for value in get_args(field.annotation) if isinstance(value, str)]
    if literals:
        return ", ".join(f"`{value}`" for value in literals)
    bounds = [
        f"{sign} {_number(getattr(one, kind.__name__.lower()))}"
        for one in field.metadata
        for kind, sign in BOUNDS.items()
        if isinstance(one, kind)
    ]
    if field.annotation is bool:
        return "`true`, `false`"
    kinds = (field.annotation, *get_args(field.annotation))
    name = next((TYPE_NAMES[kind] for kind in kinds if kind in TYPE_NAMES), "time")
    return " ".join([name, ", ".join(bounds)]).strip()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return "" if field.default in (None, ()) else f"`{field.default}`"


@dataclass(frozen=True)
class CliParameter:
    """One argument or option of a command, read from its function's annotations.

    Parameters
    ----------
    name
        Of the function's parameter.
    kind
        Its type, without None.
    info
        What Typer was told of it.
    default
        ``inspect.Parameter.empty`` where there is none.
    """

    name: str
    kind: Any
    info: Any
    default: Any

    @property
    def is_argument(self) -> bool:
        """Tell an argument from an option."""
        return isinstance(self.info, ArgumentInfo)

    @property
    def shown(self) -> str:
        """The option as it is typed, or the argument as a usage line shows it."""
        if self.is_argument:
            return self.name.upper() + ("..." if get_origin(self.kind) is list else "")
        return next(iter(self.info.param_decls or ()), "--" + self.name.replace("_", "-"))

    def row(self) -> tuple[str, str, str, str]:
        """Return the parameter's row of a table."""
        return f"`{self.shown}`", self._values(), self._default(), _sentence(self.info.help)

    def _values(self) -> str:
        if self.kind is bool or bool in get_args(self.kind):
            return ""
        if isinstance(self.kind, type) and issubclass(self.kind, Enum):
            return ", ".join(f"`{choice.value}`" for choice in self.kind)
        bounds = [
            f"{sign} {_number(bound)}"
            for sign, bound in (("≥", self.info.min), ("≤", self.info.max))
            if bound is not None
        ]
        named = next(iter(get_args(self.kind)), self.kind)
        return " ".join([TYPE_NAMES[named], ", ".join(bounds)]).strip()

    def _default(self) -> str:
        if isinstance(self.info.show_default, str):
            return self.info.show_default
        if self.default is inspect.Parameter.empty or self.default is None:
            return "required"
        return f"`{self.default}`"


def cli_commands() -> dict[str, Any]:
    """Return the function of every command by name, in the order of the help."""
    return {command.name or command.callback.__name__: command.callback for command in app.registered_commands}


def cli_parameters(command: Any) -> list[CliParameter]:
    """Return the arguments and options of a command's function, in order."""
    hints = get_type_hints(command, include_extras=True)
    found = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind, info = get_args(hints[name])
        kinds = [one for one in get_args(kind) if one is not type(None)] if type(None) in get_args(kind) else [kind]
        found.append(CliParameter(name, kinds[0], info, parameter.default))
    return found


def _command_section(name: str, command: Any) -> list[str]:
    parameters = cli_parameters(command)
    arguments = [one.shown for one in parameters if one.is_argument]
    return [
        f"## `{' '.join(['batchrec', name, *arguments, '[OPTIONS]'])}`",
        inspect.getdoc(command) or "",
        markdown_table(("option", "values", "default", "meaning"), [one.row() for one in parameters]),
    ]


def _number(value: float) -> str:
    """Write whole numbers with thousands marked, and large powers of two as such."""
    if value != int(value):
        return f"{value:g}"
    exponent = int(value).bit_length() - 1
    return f"2^{exponent}" if exponent >= 20 and value == 1 << exponent else f"{int(value):,}"


def _sentence(text: str) -> str:
    """Escape what would end a table's cell, begin with a capital and end with a full stop."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text[:1].upper() + text[1:].removesuffix(".") + "." if text else ""


def _cell(value: object) -> str:
    if isinstance(value, list):
        more = ", …" if len(value) > SHOWN_ITEMS else ""
        return ", ".join(_cell(one) for one in value[:SHOWN_ITEMS]) + more
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _figure(figure: dict[str, float]) -> str:
    return f"{figure['estimate']:.4f} ({figure['low']:.3f} to {figure['high']:.3f})"


if __name__ == "__main__":
    main()
