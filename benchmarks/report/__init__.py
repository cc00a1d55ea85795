"""Result files as one page."""
