"""The package's metadata, its constraint files, the Makefile, and what may not be in the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.11", "3.12")
FILES = [(extra, python) for extra in ("cpu", "gpu") for python in PYTHONS]
RELEASE_LINES = {
    "tensorflow": "2.21", "tensorflow-cpu": "2.21", "keras": "3.15", "keras-rs": "0.4", "feast": "0.67",
    "dask": "2026.1.1", "distributed": "2026.1.1", "pandas": "2.3", "pyarrow": "23", "faiss-cpu": "1.15.1",
    "faiss-gpu": "1.15.1", "cudf-cu12": "26.6", "dask-cudf-cu12": "26.6", "dask-cuda": "26.6", "rmm-cu12": "26.6",
}  # fmt: skip
MEGABYTE = 1_000_000

REGISTRY = re.compile(
    r"pypi\.(?:org|python|nvidia)|pythonhosted\.|anaconda\.(?:org|com)|https?://\S+/simple\b"
    r"|(?:index-url|find-links)[ =:]"
)
MACHINE_PATH = re.compile(r"(?<![\w.$}~-])/(?:root|work|(?:home|Users|tmp)/\w+)/")


def constraints_path(extra: str, python: str) -> Path:
    return ROOT / "constraints" / f"{extra}-py{python.replace('.', '')}.txt"


def constraint_lines(extra: str, python: str) -> list[str]:
    lines = constraints_path(extra, python).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def pins(extra: str, python: str) -> dict[str, Version]:
    pairs = [line.split("==") for line in constraint_lines(extra, python)]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def requirements(extra: str) -> list[Requirement]:
    optional = PROJECT["optional-dependencies"]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *optional[extra], *optional["dev"]]]


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_python_versions_are_those_with_constraints() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    candidates = [f"3.{minor}" for minor in range(8, 20)]
    assert [python for python in candidates if f"{python}.5" in allowed] == list(PYTHONS)
    written = {path.name for path in (ROOT / "constraints").glob("*.txt")}
    assert written == {constraints_path(*file).name for file in FILES}


def test_extras_bring_the_libraries_of_their_device() -> None:
    optional = PROJECT["optional-dependencies"]
    assert names(optional["cpu"]) == {"tensorflow-cpu", "faiss-cpu"}
    assert names(optional["gpu"]) == {
        "tensorflow",
        "faiss-gpu",
        "cupy-cuda12x",
        "cudf-cu12",
        "dask-cudf-cu12",
        "dask-cuda",
        "rmm-cu12",
    }
    assert "tensorflow[and-cuda]" in {str(Requirement(line)).split("~")[0] for line in optional["gpu"]}
    assert not names(PROJECT["dependencies"]) & (names(optional["cpu"]) | names(optional["gpu"]))


@pytest.mark.parametrize(("extra", "python"), FILES)
class TestConstraints:
    def test_each_line_is_one_exact_released_version(self, extra: str, python: str) -> None:
        lines = constraint_lines(extra, python)
        assert [
            line
            for line in lines
            if not re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*==[0-9]+(?:\.[0-9]+)*(?:\.post[0-9]+)?", line)
        ] == []
        assert len({line.split("==")[0] for line in lines}) == len(lines) > 100

    def test_no_url_and_no_path(self, extra: str, python: str) -> None:
        text = constraints_path(extra, python).read_text(encoding="utf-8")
        assert [line for line in text.splitlines() if re.search(r"[/\\@]|:(?!$)", line)] == []

    def test_pins_satisfy_every_requirement(self, extra: str, python: str) -> None:
        pinned = pins(extra, python)
        unsatisfied = {
            str(requirement): str(pinned.get(canonicalize_name(requirement.name)))
            for requirement in requirements(extra)
            if pinned.get(canonicalize_name(requirement.name), Version("0")) not in requirement.specifier
        }
        assert unsatisfied == {}

    def test_only_one_build_of_tensorflow_and_faiss(self, extra: str, python: str) -> None:
        builds = {"tensorflow", "tensorflow-cpu", "faiss-gpu", "faiss-cpu"} & pins(extra, python).keys()
        assert builds == ({"tensorflow", "faiss-gpu"} if extra == "gpu" else {"tensorflow-cpu", "faiss-cpu"})

    def test_release_lines_that_resolve_together(self, extra: str, python: str) -> None:
        pinned = pins(extra, python)
        assert {
            name: str(pinned[name])
            for name, line in RELEASE_LINES.items()
            if name in pinned and pinned[name] not in SpecifierSet(f"=={line}.*")
        } == {}


def test_direct_dependencies_have_one_version_everywhere() -> None:
    builds = {"tensorflow-cpu": "tensorflow", "faiss-cpu": "faiss", "faiss-gpu": "faiss"}
    versions: dict[str, set[Version]] = {}
    for extra, python in FILES:
        pinned = pins(extra, python)
        for requirement in requirements(extra):
            name = canonicalize_name(requirement.name)
            versions.setdefault(builds.get(name, name), set()).add(pinned[name])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_constraints_pin_everything_an_installation_brings() -> None:
    extra = "gpu" if is_installed("tensorflow") else "cpu"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    brought = installed_closure(requirements(extra))
    assert brought > {"numpy", "protobuf", "ibis-framework", "pytest"}
    assert brought - pins(extra, python).keys() == set()


def is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def installed_closure(roots: list[Requirement]) -> set[str]:
    """Names of the packages that the given requirements bring, by the metadata of what is installed here."""
    waiting = [(canonicalize_name(root.name), extra) for root in roots for extra in ("", *root.extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in (distribution(name).requires or []) if is_installed(name) else []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), wanted) for wanted in ("", *needed.extras)]
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def repository_files() -> list[Path]:
    """Files in git and files that the next commit could add."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    top = git("rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.strip()).resolve() != ROOT.resolve():
        pytest.skip("this copy of the project is not a git repository")
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_no_file_names_a_package_index_or_a_path_of_one_machine(repository_files: list[Path]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in repository_files
        if b"\0" not in (content := path.read_bytes())
        for number, line in enumerate(content.decode("utf-8").splitlines(), start=1)
        if REGISTRY.search(line) or MACHINE_PATH.search(line)
    ]
    assert found == []


def test_no_file_is_over_five_megabytes(repository_files: list[Path]) -> None:
    assert [str(path) for path in repository_files if path.stat().st_size > 5 * MEGABYTE] == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what decides when the environment is installed again, with the environment up to date."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    for path in tmp_path.rglob("*"):
        os.utime(path, (1000, 1000))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, time in (("bin/python", 1500), (".installed", 2000)):
        (tmp_path / ".venv" / name).touch()
        os.utime(tmp_path / ".venv" / name, (time, time))
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_make_does_not_install_again_when_nothing_changed(project: Path) -> None:
    os.utime(project / ".venv" / "bin" / "python", (3000, 3000))
    assert make(project, "--question", ".venv/.installed").returncode == 0


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints/cpu-py311.txt", "constraints/cpu-py312.txt"])
def test_make_installs_again_after_a_change(project: Path, changed: str) -> None:
    os.utime(project / changed, (3000, 3000))
    assert make(project, "--question", ".venv/.installed").returncode == 1


def write_python(path: Path, preamble: str) -> None:
    """Write a command that evaluates like Python after the preamble, and whose new environments are empty."""
    path.write_text(
        f"""#!/bin/sh
case "$1" in
-c) exec "{sys.executable}" -c "import sys; {preamble}; exec(sys.argv[1])" "$2" ;;
--version) echo "Python named {path.name}" ;;
-m) mkdir -p .venv/bin && touch .venv/bin/python ;;
esac
""",
        encoding="utf-8",
    )
    path.chmod(0o755)


@pytest.mark.parametrize(
    "preamble",
    ["sys.version_info = (3, 10, 14)", "sys.version_info = (3, 13, 0)", "sys.modules['ensurepip'] = None"],
    ids=["too old", "too new", "no ensurepip"],
)
def test_make_says_what_is_missing_when_python_does_not_fit(project: Path, preamble: str) -> None:
    shutil.rmtree(project / ".venv")
    write_python(project / "other-python", preamble)
    result = make(project, "test", f"PYTHON={project / 'other-python'}")
    assert result.returncode != 0
    assert "batchrec needs Python 3.11 or 3.12" in result.stderr
    assert f"{project / 'other-python'} is not one" in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (project / ".venv").exists()


def test_make_takes_the_first_python_that_fits(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(project / ".venv")
    commands = project / "commands"
    commands.mkdir()
    write_python(commands / "python3.12", "sys.exit(127)")
    write_python(commands / "python3.11", "sys.modules['ensurepip'] = None")
    write_python(commands / "python3", "sys.version_info = (3, 12, 1)")
    write_python(commands / "python", "sys.version_info = (3, 11, 9)")
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.delenv("PYTHON", raising=False)
    result = make(project, ".venv/bin/python")
    assert (result.returncode, result.stdout) == (0, "Creating .venv with Python named python3\n")


def test_make_alone_lists_every_target(project: Path) -> None:
    makefile = (project / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    listed = [line.split()[1] for line in make(project).stdout.splitlines()]
    assert listed == [target for target in phony.split() if target != "help"]
