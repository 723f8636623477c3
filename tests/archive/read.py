"""Reads tables of the archive as others do: with pyiceberg through the catalog, and with DuckDB from the metadata file.

    read.py CATALOG NAMESPACE OUT [name=value…]

CATALOG is an SQLAlchemy address of the database with `iceberg_tables`, or the address of an Iceberg REST catalog. What follows
are properties of the catalog and of its storage (s3.endpoint and so on). For each table and engine a file of rows, one JSON
object a line, is left in the folder OUT: `<table>.<engine>.json`. On stdout: what each table is, as JSON.

Nothing here knows how Phronis writes: it is what makes the tests of the archive independent.
"""

import datetime
import glob
import importlib.util
import json
import os
import sys
import urllib.parse

import duckdb
import pyarrow as pa
import pyarrow.fs
from pyiceberg.catalog import load_catalog


def plain(value):
    """A value as JSON can say it; times in microseconds since 1970, bytes as hexadecimal digits."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        return (value - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def write(rows: pa.Table, path: str) -> None:
    # Times as numbers before they become Python objects: those end in the year 9999.
    columns = []
    for name, column in zip(rows.column_names, rows.columns):
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        columns.append((name, column))
    table = pa.Table.from_arrays([column for _, column in columns], names=[name for name, _ in columns])
    with open(path, "w", encoding="utf-8") as out:
        for batch in table.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                out.write(json.dumps({name: plain(value) for name, value in row.items()}) + "\n")


def duck(properties: dict) -> duckdb.DuckDBPyConnection:
    """DuckDB with its extensions from PyPI: nothing is downloaded here."""
    connection = duckdb.connect()
    for extension in ("avro", "httpfs", "iceberg"):
        spec = importlib.util.find_spec(f"duckdb_extension_{extension}")
        folder = os.path.dirname(spec.origin)
        (path,) = glob.glob(os.path.join(folder, "extensions", "*", "*.duckdb_extension"))
        connection.execute(f"LOAD '{path}'")
    if "s3.endpoint" in properties:
        scheme, address = properties["s3.endpoint"].split("://")
        connection.execute(
            "CREATE SECRET (TYPE s3, KEY_ID $1, SECRET $2, ENDPOINT $3, REGION $4, URL_STYLE 'path', USE_SSL $5)".replace("$1", quoted(properties.get("s3.access-key-id", "")))
            .replace("$2", quoted(properties.get("s3.secret-access-key", "")))
            .replace("$3", quoted(address))
            .replace("$4", quoted(properties.get("s3.region", "us-east-1")))
            .replace("$5", "true" if scheme == "https" else "false")
        )
    return connection


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def known(table) -> set:
    """The data files of all snapshots."""
    manifests = {}
    for snapshot in table.snapshots():
        for manifest in snapshot.manifests(table.io):
            manifests[manifest.manifest_path] = manifest
    entries = (entry for manifest in manifests.values() for entry in manifest.fetch_manifest_entry(table.io))
    return {entry.data_file.file_path for entry in entries}


def there(table) -> list:
    """The data files that are in the table's folder."""
    place = urllib.parse.urlparse(table.location())
    folder = place.netloc + place.path.rstrip("/") + "/data"
    selector = pyarrow.fs.FileSelector(folder, allow_not_found=True, recursive=True)
    found = table.io.fs_by_scheme(place.scheme or "file", place.netloc).get_file_info(selector)
    return [file.path for file in found if file.is_file]


def main() -> None:
    address, namespace, out, *given = sys.argv[1:]
    properties = dict(pair.split("=", 1) for pair in given)
    kind = "rest" if address.startswith("http") else "sql"
    # Both engines are to be given the same state: the metadata file that the catalog names now.
    catalog = load_catalog("phronis", type=kind, uri=address, **{"init_catalog_tables": "false", **properties})
    connection = duck(properties)
    told = {}
    for _, name in sorted(catalog.list_tables(namespace)):
        table = catalog.load_table((namespace, name))
        rows = table.scan().to_arrow()
        write(rows, os.path.join(out, f"{name}.pyiceberg.json"))
        seen = {"pyiceberg": rows.num_rows, "metadata": table.metadata_location}
        if table.current_snapshot() is not None:
            place = table.metadata_location.removeprefix("file://")
            found = connection.execute(f"SELECT * FROM iceberg_scan({quoted(place)})").to_arrow_table()
            write(found, os.path.join(out, f"{name}.duckdb.json"))
            seen["duckdb"] = found.num_rows
        files = table.inspect.files()
        paths = files.column("file_path").to_pylist()
        seen["files"] = len(paths)
        seen["repeated_files"] = len(paths) - len(set(paths))
        seen["snapshots"] = len(table.snapshots())
        if table.snapshots():
            first = table.snapshots()[0].snapshot_id
            seen["first_snapshot_rows"] = table.scan(snapshot_id=first).to_arrow().num_rows
        seen["files_known"] = len(known(table))
        seen["files_there"] = len(there(table))
        seen["columns"] = [field.name for field in table.schema().fields]
        seen["partition"] = str(table.spec())
        told[name] = seen
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
