"""Ray Data on this machine, beside the library alone."""
