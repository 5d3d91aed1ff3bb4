"""SpiNNaker by PyNN: an export that runs on its own, and backends that run it in NEST and Brian2 or map it."""
