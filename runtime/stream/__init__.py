"""From a source to its results: read as it comes, prepared ahead, given out in order."""
