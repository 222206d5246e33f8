import importlib
import sys
from pathlib import Path

import array_api_strict
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
array_api_strict.set_array_api_strict_flags(api_version="2024.12")


@pytest.fixture(params=["array_api_compat.numpy", "array_api_strict"], scope="session")
def xp(request):
    return importlib.import_module(request.param)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A small world whose bundle is never trained; see tests/world.py. Do not write into it."""
    from tests.world import make_world

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def batchrec(monkeypatch, capfd):
    """The command line, in this process; see tests/runs.py."""
    from tests.runs import CommandLine

    return CommandLine(monkeypatch, capfd)


@pytest.fixture(scope="session")
def s3():
    """A real S3 API on the loopback interface: the environment by which clients find it; see tests/stores.py."""
    from tests.stores import s3_server

    with s3_server() as environment:
        yield environment


@pytest.fixture(scope="session")
def stopped_and_resumed(world, tmp_path_factory):
    """A run that was told to stop and then gone on with, by two processes; see tests/faults/support.py."""
    from tests.faults import support

    return support.stop_and_resume(world, tmp_path_factory.mktemp("stopped"))


@pytest.fixture(scope="session")
def undisturbed(world, tmp_path_factory):
    """The part files of a run that nothing disturbed; see tests/faults/support.py."""
    from tests.faults import support

    output = tmp_path_factory.mktemp("undisturbed")
    code, err = support.ended(support.start(world, output))
    assert code == 0, err
    return support.parts(output / "current")
