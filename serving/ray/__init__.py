"""Recognition on a Ray cluster: whole data sets, and memories that are larger than a machine."""
