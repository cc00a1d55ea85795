"""A server under load, beside the library in the same run."""
