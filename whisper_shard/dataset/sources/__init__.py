"""Where the bytes of shards come from."""
