"""The Kubernetes manifest against its schema, and the Dockerfile against the repository."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from batchrec import cli, errors
from tests.jobs.home import INSTALLED_AT, JOBS
from tests.runs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ("1.31", kubernetes_validate.latest_version())


@pytest.fixture
def manifest() -> dict[str, Any]:
    return yaml.safe_load((JOBS / "kubernetes" / "cronjob.yaml").read_text(encoding="utf-8"))


def job_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["jobTemplate"]["spec"]


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return job_of(manifest)["template"]["spec"]


class TestManifest:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_it_follows_the_schema(self, manifest: dict[str, Any], version: str) -> None:
        kubernetes_validate.validate(manifest, version, strict=True)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("spec", "concurencyPolicy"), "Forbid"),
            (("spec", "jobTemplate", "spec", "backoffLimit"), "six"),
            (("spec", "jobTemplate", "spec", "template", "spec", "containers", 0, "resource"), {}),
        ],
    )
    def test_a_wrong_field_is_found(self, manifest: dict[str, Any], path: tuple[Any, ...], value: object) -> None:
        wrong = copy.deepcopy(manifest)
        place = wrong
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)

    @pytest.mark.parametrize("code", [1, 2, 3, 75, 130, 137])
    def test_only_what_passes_by_itself_is_tried_again(self, manifest: dict[str, Any], code: int) -> None:
        actions = []
        for rule in job_of(manifest)["podFailurePolicy"]["rules"]:
            exits = rule.get("onExitCodes")
            if exits and (code in exits["values"]) == (exits["operator"] == "In"):
                assert exits["containerName"] == pod_of(manifest)["containers"][0]["name"]
                actions.append(rule["action"])
        assert actions == ([] if code == errors.BusyError.exit_code else ["FailJob"])
        assert pod_of(manifest)["restartPolicy"] == "Never"  # a failure policy needs it

    def test_one_run_at_a_time_with_time_to_stop(self, manifest: dict[str, Any]) -> None:
        assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
        assert pod_of(manifest)["terminationGracePeriodSeconds"] > cli.SECONDS_TO_STOP

    def test_every_retry_lies_within_the_day_that_names_the_run(self, manifest: dict[str, Any]) -> None:
        assert manifest["spec"]["timeZone"] == "Etc/UTC"
        minute, hour = (int(field) for field in manifest["spec"]["schedule"].split()[:2])
        late = manifest["spec"]["startingDeadlineSeconds"] + job_of(manifest)["activeDeadlineSeconds"]
        assert hour * 3600 + minute * 60 + late < 24 * 3600

    def test_it_is_the_user_of_the_image_and_nobody_more(self, manifest: dict[str, Any]) -> None:
        pod = pod_of(manifest)
        (container,) = pod["containers"]
        identity = pod["securityContext"]
        assert [f"{identity['runAsUser']}:{identity['runAsGroup']}"] == [user for name, user in STEPS if name == "USER"]
        assert identity["runAsNonRoot"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
        assert mounts["batchrec"] == container["workingDir"] == INSTALLED_AT


def steps(text: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with their arguments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, rest in (line.split(None, 1) for line in joined.splitlines())]


STEPS = steps((ROOT / "Dockerfile").read_text(encoding="utf-8"))
SOURCES = [source for name, rest in STEPS if name == "COPY" for source in rest.split()[:-1]]
INSTALLS = [rest for name, rest in STEPS if name == "RUN" and "pip install" in rest]


def is_sent(source: str) -> bool:
    """Tell whether .dockerignore lets a file through: the last pattern that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").rstrip("/")
        if pattern and not line.startswith("#") and any(fnmatch(part, pattern) for part in (source, *parents(source))):
            sent = line.startswith("!")
    return sent


def parents(source: str) -> list[str]:
    steps = source.split("/")
    return ["/".join(steps[:length]) for length in range(1, len(steps))]


class TestDockerfile:
    @pytest.mark.parametrize("source", SOURCES)
    def test_what_it_copies_is_there_and_sent(self, source: str) -> None:
        assert (ROOT / source).exists()
        assert is_sent(source.rstrip("/"))

    @pytest.mark.parametrize("source", ["feature_repo", "bundles/demo", ".git", "jobs/demo.sh", "tests", ".venv"])
    def test_nothing_else_is_sent(self, source: str) -> None:
        assert not is_sent(source)

    @pytest.mark.parametrize("device", ["cpu", "gpu"])
    def test_it_installs_extras_that_exist_with_their_constraints(self, device: str) -> None:
        (install,) = (rest.replace("${DEVICE}", device) for rest in INSTALLS)
        (constraints,) = re.findall(r"--constraint (\S+)", install)
        (extras,) = re.findall(r"\.\[([\w,]+)\]", install)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert (ROOT / constraints).is_file()
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
        assert device in extras.split(",")
        (image,) = (rest for name, rest in STEPS if name == "FROM")
        (python,) = re.findall(r"^python:(3\.\d+)-", image)
        assert constraints.endswith(f"-py{python.replace('.', '')}.txt")

    def test_what_it_copies_is_enough_to_build_the_package(self, tmp_path: Path) -> None:
        context = tmp_path / "context"
        for source in SOURCES:
            copy_to = context / source
            copy_to.parent.mkdir(parents=True, exist_ok=True)
            copier = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copier(ROOT / source, copy_to)
        built = subprocess.run(
            [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path],
            cwd=context,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert built.returncode == 0, built.stderr
        (wheel,) = tmp_path.glob("batchrec-*.whl")
        assert wheel.stat().st_size > 100_000

    def test_it_does_not_run_as_root(self) -> None:
        assert [rest for name, rest in STEPS if name == "USER"] == ["10001:10001"]
