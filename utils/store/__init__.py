"""The feature store: shards of records, their index, writing, reading and encoding."""
