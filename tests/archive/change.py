"""Changes a table of the archive as others may: with pyiceberg, beside a host that fills it.

    change.py CATALOG NAMESPACE TABLE WORK [name=value…]

The first arguments are those of read.py. WORK is one of the functions below, with `-` for `_`.
"""

import sys

from pyiceberg.catalog import load_catalog
from pyiceberg.table.update import SetCurrentSchemaUpdate
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import StringType


def add_column(table) -> None:
    with table.update_schema() as update:
        update.add_column("note", StringType())


def drop_column(table) -> None:
    with table.update_schema() as update:
        update.delete_column("unit")


def rename_column(table) -> None:
    with table.update_schema() as update:
        update.rename_column("unit", "measure")


def former_schema(table) -> None:
    """Brings back the newest schema that has the column, with the id that it had."""
    former = [schema.schema_id for schema in table.schemas().values() if "unit" in schema.column_names]
    with table.transaction() as transaction:
        transaction._apply((SetCurrentSchemaUpdate(schema_id=max(former)),), ())


def add_partition(table) -> None:
    with table.update_spec() as update:
        update.add_field("phronis_key", IdentityTransform(), "by_key")


def drop_partition(table) -> None:
    with table.update_spec() as update:
        update.remove_field("by_key")


def delete_rows(table) -> None:
    """Deletes all rows: without pyiceberg-core only whole files can be deleted."""
    table.delete("phronis_offset >= 0")


def drop_table(table) -> None:
    """Its files stay."""
    table.catalog.drop_table(table.name())


def main() -> None:
    address, namespace, name, work, *given = sys.argv[1:]
    properties = dict(pair.split("=", 1) for pair in given)
    kind = "rest" if address.startswith("http") else "sql"
    catalog = load_catalog("phronis", type=kind, uri=address, **{"init_catalog_tables": "false", **properties})
    globals()[work.replace("-", "_")](catalog.load_table((namespace, name)))


if __name__ == "__main__":
    main()
