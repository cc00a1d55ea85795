"""Pictures to export with: labelled ones and those that packages ship, read and embedded."""
