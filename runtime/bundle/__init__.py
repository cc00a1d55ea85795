"""The folder that holds everything: its manifest, and files that are complete or absent."""
