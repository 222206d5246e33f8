import hashlib
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import ArtifactError
from batchrec.models.bundle import Bundle, read_embeddings, read_format, write_embeddings, write_format
from batchrec.models.bundle_format import RESERVED_INPUTS
from tests.models.bundles import CITIES, description, edit, files_of, make_bundle, read_json, replace_file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def bundle(whole, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "bundle")


def refused(folder, *words):
    """Assert that the bundle is refused, in one sentence that names all the words."""
    with pytest.raises(ArtifactError) as caught:
        Bundle.open(folder)
    message = str(caught.value)
    assert str(folder) in message
    for word in words:
        assert word in message
    return message


def test_what_was_written_is_read(whole):
    bundle = Bundle.open(whole)
    table = pq.read_table(whole / "item_embeddings.parquet")
    assert bundle.item_ids.to_pylist() == [10, 20, 30, 40, 50, 60]
    assert bundle.item_embeddings.dtype == np.float32
    np.testing.assert_array_equal(bundle.item_embeddings, np.array(table["embedding"].to_pylist(), np.float32))
    assert bundle.popularity.tolist() == pq.read_table(whole / "popularity.parquet")["interactions"].to_pylist()
    assert bundle.query_sample.shape == (5, 4)
    assert bundle.vocabulary(bundle.format.query_tower.inputs[0]).to_pylist() == CITIES
    assert bundle.format.index is None


def test_the_sums_are_those_of_the_files(whole):
    sums = read_json(whole)["files"]
    assert sorted(sums) == sorted(files_of(whole))
    assert all(hashlib.sha256((whole / name).read_bytes()).hexdigest() == found for name, found in sums.items())


def test_the_fingerprint_is_of_what_was_read(bundle):
    expected = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
    opened = Bundle.open(bundle)
    edit(bundle, lambda content: content.update(created_by="someone else, meanwhile"))
    assert opened.fingerprint == expected
    assert Bundle.open(bundle).fingerprint != expected


def test_popularity_and_sample_queries_may_be_missing(bundle):
    for name in ("popularity.parquet", "query_sample.parquet"):
        (bundle / name).unlink()
        edit(bundle, lambda content, name=name: content["files"].pop(name))
    opened = Bundle.open(bundle)
    assert opened.popularity is None
    assert opened.query_sample.shape == (0, 4)


FILES = [
    "item_embeddings.parquet",
    "popularity.parquet",
    "query_sample.parquet",
    "query_tower/model.keras",
    "ranker/saved_model.pb",
    "ranker/variables/variables.index",
    "vocabularies/city.parquet",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "longer", "empty", "missing", "folder"])
def test_every_damage_to_every_file_is_found(bundle, name, damage):
    path = bundle / name
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"cut": data[:-1], "flipped": flipped, "longer": data + b"\0", "empty": b""}[damage])
    message = refused(bundle, name.rpartition("/")[2])
    assert ("lacks the file" if damage in {"missing", "folder"} else "is damaged") in message


def test_sums_are_checked_before_a_library_parses(bundle, monkeypatch):
    path = bundle / "item_embeddings.parquet"
    path.write_bytes(path.read_bytes()[:-1])

    def parse(*args, **kwargs):
        raise AssertionError("parsed a damaged file")

    monkeypatch.setattr(pq, "ParquetFile", parse)
    monkeypatch.setattr(pq, "read_table", parse)
    refused(bundle, "is damaged")


def test_no_bundle(tmp_path):
    refused(tmp_path / "nothing", "there is no such folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "it holds no bundle.json")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is not a bundle")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe\x00", "äö".encode("latin-1"), b"[" * 200_000, b'{"a":' * 200_000, b"\0" * 100],
    ids=["empty", "cut", "utf-16", "latin-1", "nested lists", "nested objects", "zeros"],
)
def test_a_bundle_json_that_is_no_json(bundle, data):
    (bundle / "bundle.json").write_bytes(data)
    assert "cannot be read as JSON" in refused(bundle, "bundle.json")


@pytest.mark.parametrize("content", [None, [], 3, "bundle", {}, {"format": 1}])
def test_a_bundle_json_of_another_shape(bundle, content):
    (bundle / "bundle.json").write_text(json.dumps(content))
    refused(bundle, "does not describe a bundle")


@pytest.mark.parametrize("number", [0, 2, "1", None, [1]])
def test_another_format(bundle, number):
    edit(bundle, lambda content: content.update(format=number))
    refused(bundle, f"is of format {number!r}, this version reads format 1")


def set_at(*path, value):
    def change(content):
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


CITY = ("query_tower", "inputs", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_at("surprise", value=1), "surprise"),
        (set_at("query_tower", "surprise", value=1), "query_tower.surprise"),
        (set_at(*CITY, "surprise", value=1), "surprise"),
        (lambda content: content.pop("ranker"), "ranker: Field required"),
        (set_at("metric", value="cosine"), "metric"),
        (set_at("catalogue_size", value=0), "catalogue_size"),
        (set_at("embedding_dimension", value="many"), "embedding_dimension"),
        (set_at("item_id_type", value="float"), "item_id_type"),
        (set_at("trained_until", value="2024-03-01T00:00:00"), "trained_until"),
        (set_at("figures", value={"ndcg": float("nan")}), "figures.ndcg"),
        (set_at("seen", "dtype", value="list<string>"), "seen items are list<string>, item ids are int64"),
        (set_at(*CITY, "std", value=0), "std"),
        (set_at(*CITY, "mean", value=float("inf")), "mean"),
        (set_at(*CITY, "vocabulary", value=None), "'city' is categorical"),
        (set_at(*CITY, "vocabulary_size", value=None), "'city' is categorical"),
        (set_at(*CITY, "kind", value="dense"), "'city' is dense"),
        (set_at(*CITY, "name", value="history"), "two inputs named history"),
        (set_at("ranker", "item_code", value="price"), "two inputs named price"),
        (set_at("ranker", "user_inputs", 0, "feature", value="town"), "'city' is described twice"),
        (set_at("files", "item_embeddings.parquet", value="abc"), "files.item_embeddings.parquet"),
        (set_at("files", "item_embeddings.parquet", value="G" * 64), "files.item_embeddings.parquet"),
        (set_at("files", "bundle.json", value="0" * 64), "must not be bundle.json itself"),
    ],
)
def test_descriptions_that_are_refused(bundle, change, words):
    edit(bundle, change)
    refused(bundle, words)


PATHS = [
    "/etc/passwd",
    "../other",
    "a/../../b",
    "..",
    "a/..",
    ".",
    "",
    "./a",
    "a//b",
    "a/",
    "a\\b",
    "a\0b",
    "bundle.json",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "place",
    [("query_tower", "path"), ("ranker", "path"), (*CITY, "vocabulary"), ("files", None), ("index", "path")],
    ids=lambda place: str(place[0]),
)
def test_paths_that_could_leave_the_folder(bundle, path, place):
    if place[0] == "files":
        edit(bundle, set_at("files", path, value="0" * 64))
    else:
        index = {"path": "i", "kind": "Flat", "nprobe": 1, "recall": 1.0, "recall_at": 10, "queries": 0}
        edit(bundle, set_at("index", value=index))
        edit(bundle, set_at(*place, value=path))
    message = refused(bundle)
    assert "must be a plain relative path" in message or "must not be bundle.json itself" in message


def test_a_link_that_leaves_the_folder(bundle, tmp_path):
    outside = tmp_path / "outside.keras"
    (bundle / "query_tower/model.keras").rename(outside)
    (bundle / "query_tower/model.keras").symlink_to(outside)
    refused(bundle, "is a link to", "outside the bundle")


def test_a_folder_that_is_a_link_out_of_the_bundle(bundle, tmp_path):
    (bundle / "ranker").rename(tmp_path / "elsewhere")
    (bundle / "ranker").symlink_to(tmp_path / "elsewhere")
    refused(bundle, "is a link to", "outside the bundle")


def test_links_within_the_bundle_and_to_it_are_fine(bundle, tmp_path):
    (bundle / "query_tower/model.keras").rename(bundle / "query_tower/real.keras")
    (bundle / "query_tower/model.keras").symlink_to("real.keras")
    (tmp_path / "link").symlink_to(bundle)
    Bundle.open(tmp_path / "link")


def test_a_link_that_bites_its_tail(bundle):
    path = bundle / "query_tower/model.keras"
    path.unlink()
    path.symlink_to("model.keras")
    refused(bundle, "model.keras")


def test_a_name_too_long_for_the_file_system(bundle):
    edit(bundle, set_at("files", "x" * 300, value="0" * 64))
    refused(bundle, "cannot be read")


@pytest.mark.parametrize(
    "name",
    [
        "item_embeddings.parquet",
        "query_tower/model.keras",
        "ranker/saved_model.pb",
        "ranker/variables/variables.index",
        "vocabularies/city.parquet",
    ],
)
def test_every_file_that_will_be_parsed_needs_a_sum(bundle, name):
    edit(bundle, lambda content: content["files"].pop(name))
    refused(bundle, f"has no sum for {name}")


def test_a_model_folder_without_any_sum(bundle):
    shutil.rmtree(bundle / "ranker")
    (bundle / "ranker/nested").mkdir(parents=True)
    edit(bundle, lambda content: [content["files"].pop(name) for name in list(content["files"]) if "ranker" in name])
    refused(bundle, "has no sum for ranker")


def test_a_file_smuggled_into_a_model_folder(bundle):
    (bundle / "ranker/assets").mkdir()
    (bundle / "ranker/assets/words.txt").write_text("hello")
    refused(bundle, "has no sum for ranker/assets/words.txt")


def test_an_index_needs_a_sum_and_may_be_left_out_of_the_check(bundle):
    index = {"path": "index.faiss", "kind": "Flat", "nprobe": 1, "recall": 1.0, "recall_at": 10, "queries": 0}
    edit(bundle, set_at("index", value=index))
    refused(bundle, "has no sum for index.faiss")
    edit(bundle, set_at("files", "index.faiss", value="0" * 64))
    refused(bundle, "lacks the file index.faiss")
    assert Bundle.open(bundle, check_index=False).format.index.path == "index.faiss"


def embeddings_table(ids, vectors, dtype=None):
    return pa.table({"item_id": ids, "embedding": pa.array(vectors, dtype or pa.list_(pa.float32()))})


VECTORS = [[float(row), 1, 2, 3] for row in range(6)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (embeddings_table([1, 2, 3, 5, 4, 6], VECTORS), "not unique and ascending"),
        (embeddings_table([1, 2, 3, 3, 4, 6], VECTORS), "not unique and ascending"),
        (embeddings_table([1, 2, 3, None, 5, 6], VECTORS), "not unique and ascending"),
        (embeddings_table(list("abcdef"), VECTORS), "are string, bundle.json says int64"),
        (embeddings_table([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], VECTORS), "are double, bundle.json says int64"),
        (embeddings_table([1, 2, 3, 4, 5], VECTORS[:5]), "shape (5, 4)"),
        (embeddings_table([1, 2, 3, 4, 5, 6], [row[:3] for row in VECTORS]), "shape (6, 3)"),
        (embeddings_table([1, 2, 3, 4, 5, 6], [*VECTORS[:5], [0.0, 1.0, float("nan"), 2.0]]), "NaN"),
        (embeddings_table([1, 2, 3, 4, 5, 6], [*VECTORS[:5], [0.0, 1.0, float("inf"), 2.0]]), "infinite"),
        (embeddings_table([1, 2, 3, 4, 5, 6], [*VECTORS[:5], [0.0, 1.0, None, 2.0]]), "null"),
        (embeddings_table([1, 2, 3, 4, 5, 6], [*VECTORS[:5], None]), "null"),
        (embeddings_table([1, 2, 3, 4, 5, 6], [*VECTORS[:4], [1.0] * 3, [1.0] * 5]), "different length"),
        (embeddings_table([1, 2, 3, 4, 5, 6], list("abcdef"), pa.string()), "expected a list of float32"),
        (embeddings_table([1, 2, 3, 4, 5, 6], [["a"] * 4] * 6, pa.list_(pa.string())), "expected a list of float32"),
        (pa.table({"item_id": [1]}), "no column 'embedding'"),
        (pa.table({"embedding": VECTORS}), "no column 'item_id'"),
    ],
)
def test_catalogues_that_do_not_fit(bundle, table, words):
    replace_file(bundle, "item_embeddings.parquet", lambda path: pq.write_table(table, path))
    refused(bundle, "item_embeddings.parquet", words)


@pytest.mark.parametrize("name", ["item_embeddings.parquet", "popularity.parquet", "query_sample.parquet"])
def test_a_file_with_the_right_sum_that_is_no_parquet(bundle, name):
    replace_file(bundle, name, lambda path: path.write_bytes(b"PAR1 nothing of the kind PAR1"))
    refused(bundle, name, "cannot be read as Parquet")


def test_string_ids_ascend_by_their_bytes(tmp_path):
    # By UTF-16 code units the last two would change places.
    ids = ["", "B", "a", "é", "\uffee", "\U00010000"]
    assert ids == sorted(ids, key=lambda value: value.encode())
    assert Bundle.open(make_bundle(tmp_path / "right", item_ids=pa.array(ids))).item_ids.to_pylist() == ids
    swapped = make_bundle(tmp_path / "wrong", item_ids=pa.array([*ids[:4], ids[5], ids[4]]))
    refused(swapped, "not unique and ascending")


@pytest.mark.parametrize("dtype", [pa.int32(), pa.uint16()])
def test_ids_of_other_widths_are_read_as_int64(bundle, dtype):
    ids = pa.array([10, 20, 30, 40, 50, 60], dtype)
    replace_file(bundle, "item_embeddings.parquet", lambda path: pq.write_table(embeddings_table(ids, VECTORS), path))
    assert Bundle.open(bundle).item_ids.type == pa.int64()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pa.array(["Zug", "Aarau", "Łódź"]), "unique and ascending"),
        (pa.array(["Aarau", "Aarau", "Zug"]), "unique and ascending"),
        (pa.array(["Aarau", None, "Zug"]), "unique and ascending"),
        (pa.array([1.0, 2.0, 3.0]), "(double)"),
        (pa.array(["Aarau", "Zug"]), "makes 3 codes"),
        (pa.array(["Aarau", "Bern", "Zug", "Łódź"]), "makes 5 codes"),
    ],
)
def test_vocabularies_that_do_not_fit(bundle, values, words):
    replace_file(bundle, "vocabularies/city.parquet", lambda path: pq.write_table(pa.table({"value": values}), path))
    refused(bundle, "vocabularies/city.parquet", words)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"item_id": [10, 20, 30, 40, 50, 61], "interactions": [1] * 6}), "items of the catalogue"),
        (pa.table({"item_id": [10, 20, 30, 40, 50], "interactions": [1] * 5}), "items of the catalogue"),
        (pa.table({"item_id": list("abcdef"), "interactions": [1] * 6}), "items of the catalogue"),
        (pa.table({"item_id": [10, 20, 30, 40, 50, 60], "interactions": [1.5] * 6}), "whole numbers"),
        (pa.table({"item_id": [10, 20, 30, 40, 50, 60], "interactions": [1, 2, 3, 4, 5, None]}), "whole numbers"),
        (pa.table({"item_id": [10, 20, 30, 40, 50, 60]}), "no column 'interactions'"),
    ],
)
def test_popularity_that_does_not_fit(bundle, table, words):
    replace_file(bundle, "popularity.parquet", lambda path: pq.write_table(table, path))
    refused(bundle, "popularity.parquet", words)


def test_sample_queries_of_another_dimension(bundle):
    wide = np.zeros((2, 7), np.float32)
    replace_file(bundle, "query_sample.parquet", lambda path: write_embeddings(path, {}, wide))
    refused(bundle, "query_sample.parquet", "dimension 7", "says 4")


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path):
    assert Bundle.open(make_bundle(tmp_path / "item_id=7" / "bundle")).item_ids.to_pylist()[0] == 10


def test_writing_refuses_what_could_not_be_read_again(bundle):
    before = (bundle / "bundle.json").read_bytes()
    with pytest.raises(ArtifactError, match=r"figures\.ndcg"):
        write_format(bundle, description() | {"figures": {"ndcg": float("nan")}}, files_of(bundle))
    assert (bundle / "bundle.json").read_bytes() == before


def test_writing_is_all_or_nothing(bundle, monkeypatch):
    before = (bundle / "bundle.json").read_bytes()

    def fail(descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_format(bundle, description() | {"created_by": "another"}, files_of(bundle))
    assert (bundle / "bundle.json").read_bytes() == before
    assert not list(bundle.glob(".*"))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(bundle, mask):
    old = os.umask(mask)
    try:
        write_format(bundle, description(), files_of(bundle))
    finally:
        os.umask(old)
    assert (bundle / "bundle.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_description_alone(bundle):
    shutil.rmtree(bundle / "ranker")
    assert read_format(bundle).catalogue_size == 6


@pytest.mark.parametrize("dtype", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
def test_embeddings_of_any_list_type(dtype, kind):
    of = {"list": pa.list_(dtype), "large": pa.large_list(dtype), "fixed": pa.list_(dtype, 2)}[kind]
    values = np.array([[1, 2], [3, 4], [5, 6]], dtype.to_pandas_dtype())
    chunks = pa.chunked_array([pa.array(list(values[:1]), of), pa.array(list(values[1:]), of)])
    found = read_embeddings(chunks.slice(1))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[3, 4], [5, 6]])


def test_an_embedding_too_large_for_float32():
    with pytest.raises(ArtifactError, match="infinite as float32"):
        read_embeddings(pa.chunked_array([[[1e300]]]))


def test_reserved_names_are_those_of_the_models():
    from batchrec.models import ranker, serving

    assert {ranker.ITEM_CODE, ranker.QUERY_EMBEDDING, ranker.ITEM_EMBEDDING, serving.HISTORY} == RESERVED_INPUTS
