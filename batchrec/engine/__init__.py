"""Where partitions are computed."""
