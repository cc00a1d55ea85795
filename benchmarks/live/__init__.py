"""A live source for an hour: latency, memory and dropped frames."""
