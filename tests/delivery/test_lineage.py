"""OpenLineage events of real runs, held against the specification and against the client's own classes."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from uuid import UUID

import pytest
from openlineage.client import facet_v2
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.naming import dataset as naming

from batchrec.delivery.dataset_names import dataset_name
from batchrec.delivery.lineage import recorded
from batchrec.output.publish import RunFolder
from batchrec.output.storage import open_storage

URI = re.compile(r"[a-z][a-z0-9+.-]*:\S+")
FACETS = {
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "dataSource": facet_v2.datasource_dataset.DatasourceDatasetFacet,
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "symlinks": facet_v2.symlinks_dataset.SymlinksDatasetFacet,
    "inputStatistics": facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
}
"""The keys under which the specification has each facet, and the class for it."""


def events(path) -> list[dict]:
    """Read a file of events; each must be one that the client would make of the same values."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for event in found:
        check(event)
    return found


def check(event: dict) -> None:
    assert URI.fullmatch(event["producer"])
    assert event["schemaURL"] == RunEvent._get_schema()
    assert datetime.fromisoformat(event["eventTime"]).utcoffset() is not None
    assert UUID(event["run"]["runId"]).version == 7
    RunEvent(
        eventTime=event["eventTime"],
        producer=event["producer"],
        eventType=RunState(event["eventType"]),
        run=Run(event["run"]["runId"], facets(event["run"]["facets"])),
        job=Job(event["job"]["namespace"], event["job"]["name"], facets(event["job"]["facets"])),
        inputs=[
            InputDataset(one["namespace"], one["name"], facets(one["inputFacets"]), facets=facets(one["facets"]))
            for one in event["inputs"]
        ],
        outputs=[
            OutputDataset(one["namespace"], one["name"], facets(one["outputFacets"]), facets=facets(one["facets"]))
            for one in event["outputs"]
        ],
    )
    datasets = [*event["inputs"], *event["outputs"]]
    assert all(one["namespace"] and one["name"] for one in datasets)
    names = [(one["namespace"], one["name"]) for one in datasets]
    assert len(set(names)) == len(names)


def facets(found: dict) -> dict:
    made = {}
    for key, values in found.items():
        fields = {name: value for name, value in values.items() if name not in {"_producer", "_schemaURL"}}
        made[key] = FACETS[key](producer=values["_producer"], **fields)
        assert URI.fullmatch(values["_producer"])
        assert values["_schemaURL"] == FACETS[key]._get_schema()
    return made


def kinds(found: list[dict]) -> list[str]:
    return [event["eventType"] for event in found]


def columns(dataset: dict) -> dict:
    """Name → type of each column of a schema facet; of a list, the type of its elements in a list."""
    fields = dataset["facets"]["schema"]["fields"]
    for field in fields:
        assert (field["type"] == "array") == ("fields" in field)
        assert [element["name"] for element in field.get("fields", [])] in ([], ["_element"])
    return {one["name"]: [one["fields"][0]["type"]] if "fields" in one else one["type"] for one in fields}


def test_a_run_tells_what_it_read_and_made(world, batchrec, tmp_path):
    path, output = tmp_path / "lineage.jsonl", tmp_path / "out"
    said = batchrec(*world.args(output, "--run-id=night", f"--lineage={path}", "--users-per-partition=300"))
    assert said.code == 0, said.err
    start, complete = events(path)
    assert kinds([start, complete]) == ["START", "COMPLETE"]
    assert start["eventTime"] < complete["eventTime"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert (start["job"]["namespace"], start["job"]["name"]) == ("batchrec", f"run:{output}")
    as_of = complete["run"]["facets"]["nominalTime"]["nominalStartTime"]
    assert datetime.fromisoformat(as_of) == world.cutoff

    read = {one["name"]: one for one in complete["inputs"]}
    views = {name: str(world.data / f"{name}.parquet") for name in ("user_features", "item_features", "item_id_seen")}
    users = str(world.data / "users.parquet")
    assert set(read) == {users, str(world.bundle), *views.values()}
    assert {one["name"] for one in start["inputs"]} == {users, str(world.bundle)}
    assert columns(read[users]) == {"user_id": "int64"}
    assert read[users]["inputFacets"]["inputStatistics"]["rowCount"] == 1000
    assert columns(read[views["item_id_seen"]]) == {"user_id_raw": "int64", "item_id_seen": ["int64"]}
    assert columns(read[views["item_features"]]) == dict.fromkeys(
        ["item_id_raw", "item_category", "item_brand", "item_shop"], "int64"
    )
    manifest = json.loads((output / "night" / "_manifest.json").read_text())
    assert read[str(world.bundle)]["facets"]["version"]["datasetVersion"] == manifest["fingerprints"]["bundle"]

    (made,) = complete["outputs"]
    assert (made["namespace"], made["name"]) == ("file", str(output / "current"))
    assert made["facets"]["symlinks"]["identifiers"] == [
        {"namespace": "file", "name": str((output / "current").resolve()), "type": "LOCATION"}
    ]
    assert made["facets"]["version"]["datasetVersion"] == "night"
    parts = sorted((output / "night").glob("part-*"))
    statistics = made["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["fileCount"]) == (1000, 4)
    assert statistics["size"] == sum(part.stat().st_size for part in parts)
    assert columns(made) == {
        "user_id": "int64",
        "item_ids": ["int64"],
        "scores": ["float"],
        "propensities": ["float"],
        "status": "string",
        "source": "string",
    }

    before = path.read_text()
    refused = batchrec(*world.args(output, "--run-id=night", f"--lineage={path}"))
    assert refused.code == 2
    assert path.read_text() == before, "a run that is published is not told of as one that failed"


def test_a_failing_run(world, batchrec, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "nightly")
    path = tmp_path / "lineage.jsonl"
    users = "nosuch://key:planted-secret@bucket/nothing/*.parquet"
    said = batchrec(*world.args(tmp_path / "out", f"--users={users}", "--run-id=night", f"--lineage={path}"))
    assert said.code != 0
    found = events(path)
    assert kinds(found) == ["START", "FAIL"]
    message = found[1]["run"]["facets"]["errorMessage"]
    assert message["programmingLanguage"] == "PYTHON"
    assert f"batchrec: error: {message['message']}" == said.err.splitlines()[-1]
    assert {(one["namespace"], one["name"]) for one in found[1]["inputs"]} >= {("nosuch://bucket", "/nothing")}
    assert found[1]["job"]["namespace"] == "nightly"
    assert "planted-secret" not in path.read_text()


def test_a_stopped_run_and_the_one_that_goes_on_are_one(stopped_and_resumed):
    found = events(stopped_and_resumed.lineage)
    assert kinds(found) == ["START", "ABORT", "RUNNING", "COMPLETE"]
    assert len({event["run"]["runId"] for event in found}) == 1


def test_another_run_has_another_id(world, tmp_path):
    night, other, again = (run_id_of(world, tmp_path, name) for name in ("night", "other", "night"))
    assert night == again != other


def run_id_of(world, tmp_path, name):
    path = tmp_path / f"{name}.jsonl"
    config = job(world, tmp_path, name, path)
    with pytest.raises(KeyboardInterrupt), recorded(config, RunFolder.open(open_storage(config.output), name)):
        raise KeyboardInterrupt
    found = events(path)
    assert kinds(found)[-2:] == ["START", "ABORT"]
    return found[-1]["run"]["runId"]


def job(world, tmp_path, name, lineage):
    from batchrec.config import JobConfig

    places = {"users": "users.parquet", "bundle": world.bundle, "output": str(tmp_path / "out")}
    return JobConfig(**places, run_id=name, as_of=world.cutoff, lineage=lineage)


def test_what_cannot_be_written_fails_no_run(world, batchrec, tmp_path):
    path = tmp_path / "nowhere" / "lineage.jsonl"
    said = batchrec(*world.args(tmp_path / "out", "--run-id=night", f"--lineage={path}", "--no-verify"))
    assert said.code == 0, said.err
    assert (tmp_path / "out" / "current").readlink().name == "night"
    warned = [line for line in said.err.splitlines() if "lineage: the event" in line]
    assert len(warned) == 2
    assert str(path) in warned[0]


def test_without_the_client_the_run_does_not_begin(world, batchrec, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "openlineage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openlineage", None)
    said = batchrec(*world.args(tmp_path / "out", f"--lineage={tmp_path}/lineage.jsonl"))
    assert said.code == 2
    assert "pip install 'batchrec[lineage]'" in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/data/users.parquet", naming.LocalFileSystem("/data/users.parquet")),
        ("file:///data/a%20b", naming.LocalFileSystem("/data/a b")),
        ("/data/users/*.parquet", naming.LocalFileSystem("/data/users")),
        ("s3://bucket/a/b", naming.S3("bucket", "a/b")),
        ("s3a://key:secret@bucket/a/b/", naming.S3("bucket", "a/b")),
        ("simplecache::gcs://bucket/a/?/*.parquet", naming.GCS("bucket", "a")),
        ("abfss://box@there/a", naming.ABFSS("box", "there", "a")),
        ("hdfs://node:8020/a", naming.HDFS("node", "8020", "/a")),
    ],
)
def test_names(place, expected):
    namespace = expected.get_namespace().replace("@there.dfs.core.windows.net", "@there")
    assert dataset_name(place) == (namespace, expected.get_name())


def test_a_relative_path_is_named_by_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dataset_name("users.parquet") == ("file", str(tmp_path / "users.parquet"))
