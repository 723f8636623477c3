-- The layout is that of Iceberg's JDBC catalog and of pyiceberg's SQL catalog: other engines read it.
CREATE TABLE iceberg_tables (
    catalog_name TEXT NOT NULL, table_namespace TEXT NOT NULL, table_name TEXT NOT NULL,
    metadata_location TEXT, previous_metadata_location TEXT, iceberg_type TEXT,
    PRIMARY KEY (catalog_name, table_namespace, table_name));

CREATE TABLE iceberg_namespace_properties (
    catalog_name TEXT NOT NULL, namespace TEXT NOT NULL, property_key TEXT NOT NULL, property_value TEXT,
    PRIMARY KEY (catalog_name, namespace, property_key));
