"""``--cluster`` and ``--memory-limit``: where and within what a run is computed, never what stands in its rows."""

import pytest

from batchrec.config import load_config
from batchrec.errors import ConfigError

NEEDED = {"users": "users.parquet", "bundle": "bundle"}


def config(**flags):
    return load_config(NEEDED | flags, None)


def test_neither_is_among_the_options_of_rows():
    other = config(cluster="tcp://scheduler:8786", memory_limit="4GB")
    assert other.fingerprint() == config().fingerprint()
    assert other.options()["cluster"] == "tcp://scheduler:8786"
    assert other.options()["memory_limit"] == 4_000_000_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("600000000", 600_000_000),
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        ("1.5G", 1_500_000_000),
        ("512MiB", 512 * 2**20),
        ("1TB", 10**12),
    ],
)
def test_sizes(text, size):
    assert config(memory_limit=text).memory_limit == size


@pytest.mark.parametrize("text", ["much", "-4GB", "4XB", "GB", "511MB", "4GBB", ""])
def test_no_sizes(text):
    with pytest.raises(ConfigError, match="--memory-limit is"):
        config(memory_limit=text)


def test_an_unknown_cluster_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match=r"--cluster is 'yarn': expected local, processes:N .*tcp://host:port"):
        config(cluster="yarn")


def test_a_cluster_in_the_environment(monkeypatch):
    monkeypatch.setenv("BATCHREC_CLUSTER", "processes:3")
    monkeypatch.setenv("BATCHREC_MEMORY_LIMIT", "2GiB")
    assert (config().cluster, config().memory_limit) == ("processes:3", 2 * 2**30)
