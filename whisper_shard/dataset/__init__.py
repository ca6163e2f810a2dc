"""A prepared dataset on disk: shards, one Parquet index, dataset.json; written, opened, read, searched and verified."""
