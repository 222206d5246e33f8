"""Names of runs and output folders: nothing leaves the output folder, nothing collides with what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import ConfigError
from batchrec.output.location import check_run_id


@pytest.mark.parametrize("run_id", ["2026-02-03", "a", "A.b_c-9", "9" * 128, "currently"])
def test_run_ids(run_id):
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "../x", "a/b", "/a", "_work", ".hidden", "-x", "a b", "a\n", "ü", "9" * 129, "a\0"]
)
def test_run_ids_that_cannot_name_a_folder(run_id):
    with pytest.raises(ConfigError, match=r"--run-id .* cannot name a run folder: use 1 to 128"):
        check_run_id(run_id)


@pytest.mark.parametrize("run_id", ["current", "Current"])
def test_the_name_of_the_link_is_taken(run_id):
    with pytest.raises(ConfigError, match="is the name of the link to the newest run"):
        check_run_id(run_id)


@given(st.text(st.sampled_from("a./\\_-~\0 "), max_size=8))
def test_whatever_is_accepted_is_one_folder_inside_the_output(run_id):
    try:
        folder = Path("/output") / check_run_id(run_id)
    except ConfigError:
        return
    assert folder.resolve().parent == Path("/output")
