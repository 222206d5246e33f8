"""Events of a run for a lineage graph, as OpenLineage's own client writes them: what was read, what was made of it.

A run that begins gives START, one that is gone on with RUNNING; then comes COMPLETE, FAIL, or ABORT where it was
stopped from outside. All carry the same id. The format: https://openlineage.io/docs/spec/object-model.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchrec import __version__
from batchrec.delivery.dataset_names import DatasetName, dataset_name
from batchrec.errors import ConfigError, SinkError
from batchrec.log import say
from batchrec.output.journal import BEGUN
from batchrec.output.location import CURRENT
from batchrec.redact import redact
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from batchrec.config import JobConfig
    from batchrec.features.sources import ViewSource
    from batchrec.output.manifest import Manifest
    from batchrec.output.publish import RunFolder

_PRODUCER = f"pkg:generic/batchrec@{__version__}"
"""A URI for the program that wrote an event: a package URL, see https://github.com/package-url/purl-spec."""

_NAMESPACE = "batchrec"
"""Of the job, unless OPENLINEAGE_NAMESPACE names another, as it does for OpenLineage's own integrations."""


def check_lineage(file: Path | None) -> None:
    """See, before any work, that events can be written if they are asked for.

    Raises
    ------
    ConfigError
        OpenLineage's client is not installed.
    """
    if file is None:
        return
    try:
        import openlineage.client.transport.file  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--lineage needs OpenLineage's client, which is not installed",
            "install it with `pip install 'batchrec[lineage]'`, or leave the option out",
        ) from error


@contextmanager
def recorded(config: JobConfig, folder: RunFolder) -> Iterator[RunLineage]:
    """Write how a run begins and how it ends, if the options ask for it. Events that cannot be written fail no run.

    Parameters
    ----------
    config
        Options, settled.
    folder
        Of the run, before anything is written there.
    """
    lineage = RunLineage(config, folder)
    lineage.begin()
    try:
        yield lineage
    except Exception as error:
        lineage.end("FAIL", error)
        raise
    except BaseException:
        lineage.end("ABORT")
        raise


@dataclass(frozen=True)
class RunLineage:
    """The events of one run.

    Parameters
    ----------
    config
        Options, settled; without ``lineage`` nothing is written.
    folder
        Of the run.
    """

    config: JobConfig
    folder: RunFolder

    def begin(self) -> None:
        """Tell that the run begins, or goes on."""
        self._emit("RUNNING" if self._goes_on else "START", lambda: (_places_read(self.config), [self._output()]))

    def complete(self, manifest: Manifest, sources: Callable[[], Iterable[ViewSource]]) -> None:
        """Tell what was read and published.

        Parameters
        ----------
        manifest
            As it was published.
        sources
            Gives the sources of the features that were read.
        """

        def datasets() -> tuple[list[Any], list[Any]]:
            read = [_users_read(self.config, manifest), _bundle_read(self.config, manifest.fingerprints["bundle"])]
            read += [_features_read(source) for source in sources()]
            return [*read, *_suppressions_read(self.config)], [self._output(manifest)]

        self._emit("COMPLETE", datasets)

    def end(self, kind: str, error: Exception | None = None) -> None:
        """Tell that nothing was published: ``FAIL``, or ``ABORT`` where the run was stopped from outside."""
        self._emit(kind, lambda: (_places_read(self.config), [self._output()]), error)

    def _emit(
        self, kind: str, datasets: Callable[[], tuple[list[Any], list[Any]]], error: Exception | None = None
    ) -> None:
        if self.config.lineage is None:
            return
        now = datetime.now(UTC)
        try:
            from openlineage.client.transport.file import FileConfig, FileTransport

            transport = FileTransport(FileConfig(log_file_path=str(self.config.lineage), append=True))
            transport.emit(self._event(kind, now, *datasets(), error))
        except Exception as problem:  # the graph is poorer by an event, the lists are none the worse for it
            say(f"lineage: the event {kind} could not be written ({problem})", level="warning")

    def _event(self, kind: str, now: datetime, inputs: list[Any], outputs: list[Any], error: Exception | None) -> Any:
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import error_message_run, job_type_job, nominal_time_run, processing_engine_run

        engine = _facet(processing_engine_run.ProcessingEngineRunFacet, name="batchrec", version=__version__)
        nominal = _facet(nominal_time_run.NominalTimeRunFacet, nominalStartTime=_iso(self._as_of))
        facets = {"nominalTime": nominal, "processing_engine": engine}
        if error is not None:
            words = {"message": redact(str(error)), "programmingLanguage": "PYTHON"}
            facets["errorMessage"] = _facet(error_message_run.ErrorMessageRunFacet, **words)
        kinds = {"processingType": "BATCH", "integration": "BATCHREC", "jobType": "JOB"}
        job = Job(self._namespace, self._job, {"jobType": _facet(job_type_job.JobTypeJobFacet, **kinds)})
        return RunEvent(
            eventTime=_iso(now),
            eventType=RunState[kind],
            producer=_PRODUCER,
            run=Run(self._run_id, facets),
            job=job,
            inputs=inputs,
            outputs=outputs,
        )

    def _output(self, manifest: Manifest | None = None) -> Any:
        """Describe what readers see: ``current``, of which this run is one version."""
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import dataset_version_dataset, output_statistics_output_dataset

        name = _beside(self.config.output, CURRENT)
        if manifest is None:
            return OutputDataset(*name, facets=_source_facets(name))
        run = _beside(self.config.output, self.folder.run_id)
        statistics = _facet(
            output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
            rowCount=sum(part.rows for part in manifest.parts),
            size=sum(part.bytes for part in manifest.parts),
            fileCount=len(manifest.parts),
        )
        version = _facet(dataset_version_dataset.DatasetVersionDatasetFacet, datasetVersion=self.folder.run_id)
        facets = _source_facets(name) | _schema_facets(manifest.schema) | _symlink_facets(run) | {"version": version}
        return OutputDataset(*name, facets=facets, outputFacets={"outputStatistics": statistics})

    @property
    def _goes_on(self) -> bool:
        try:
            return self.config.lineage is not None and self.folder.storage.exists(BEGUN)
        except SinkError:  # a store that is away is told of by the run itself
            return False

    @property
    def _namespace(self) -> str:
        return os.environ.get("OPENLINEAGE_NAMESPACE") or _NAMESPACE

    @property
    def _job(self) -> str:
        """All runs into one output folder are runs of one job."""
        name = dataset_name(self.config.output)
        return f"run:{name.name}" if name.namespace == "file" else f"run:{name.namespace}/{name.name}"

    @property
    def _run_id(self) -> str:
        """A UUID of version 7 over as-of time, job and name of the run: the same when it is gone on with."""
        from openlineage.client.uuid import generate_static_uuid

        named = f"{self._namespace}/{self._job}/{self.folder.run_id}"
        return str(generate_static_uuid(self._as_of, named.encode()))

    @property
    def _as_of(self) -> datetime:
        assert self.config.as_of is not None, "settled before anything else"  # noqa: S101 - narrows the type
        return self.config.as_of


def _places_read(config: JobConfig) -> list[Any]:
    """Name what the options name; of a run that has not ended well, what its features are is not known for certain."""
    return [_input(dataset_name(place)) for place in (config.users, str(config.bundle), *config.suppress)]


def _users_read(config: JobConfig, manifest: Manifest) -> Any:
    from openlineage.client.facet_v2 import input_statistics_input_dataset as statistics

    counted = _facet(statistics.InputStatisticsInputDatasetFacet, rowCount=manifest.accounting.input_rows)
    ids = pa.field(config.user_id_column, manifest.schema.field(USER_ID).type)
    schema = pa.schema([ids, *(manifest.schema.field(name) for name in config.keep_columns)])
    read = _input(dataset_name(config.users), _schema_facets(schema))
    read.inputFacets = {"inputStatistics": counted}
    return read


def _bundle_read(config: JobConfig, fingerprint: str) -> Any:
    from openlineage.client.facet_v2 import dataset_version_dataset

    version = _facet(dataset_version_dataset.DatasetVersionDatasetFacet, datasetVersion=fingerprint)
    return _input(dataset_name(str(config.bundle)), {"version": version})


def _features_read(source: ViewSource) -> Any:
    name = dataset_name(source.place) if source.is_file else DatasetName("feast", source.place)
    return _input(name, _schema_facets(source.columns))


def _suppressions_read(config: JobConfig) -> list[Any]:
    return [_input(dataset_name(place)) for place in config.suppress]


def _input(name: DatasetName, facets: dict[str, Any] | None = None) -> Any:
    from openlineage.client.event_v2 import InputDataset

    return InputDataset(*name, facets=_source_facets(name) | (facets or {}))


def _source_facets(name: DatasetName) -> dict[str, Any]:
    from openlineage.client.facet_v2 import datasource_dataset

    uri = "file://" if name.namespace == "file" else name.namespace
    return {"dataSource": _facet(datasource_dataset.DatasourceDatasetFacet, name=name.namespace, uri=uri)}


def _schema_facets(schema: pa.Schema) -> dict[str, Any]:
    from openlineage.client.facet_v2 import schema_dataset

    fields = [_field(field.name, field.type) for field in schema]
    return {"schema": _facet(schema_dataset.SchemaDatasetFacet, fields=fields)}


def _field(name: str, dtype: pa.DataType) -> Any:
    """Describe a column; the values of a list are a field ``_element`` of it, as the specification has it."""
    from openlineage.client.facet_v2 import schema_dataset

    if pa.types.is_list(dtype):
        element = _field("_element", dtype.value_type)
        return schema_dataset.SchemaDatasetFacetFields(name, "array", fields=[element])
    return schema_dataset.SchemaDatasetFacetFields(name, str(dtype), fields=None)


def _symlink_facets(name: DatasetName) -> dict[str, Any]:
    """Give a dataset another name: readers resolve ``current`` to the folder of the run."""
    from openlineage.client.facet_v2 import symlinks_dataset

    other = symlinks_dataset.Identifier(*name, type="LOCATION")
    return {"symlinks": _facet(symlinks_dataset.SymlinksDatasetFacet, identifiers=[other])}


def _beside(output: str, name: str) -> DatasetName:
    return dataset_name(f"{output.rstrip('/')}/{name}")


def _facet(kind: Any, **fields: Any) -> Any:
    return kind(producer=_PRODUCER, **fields)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
