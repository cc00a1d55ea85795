"""Command lines whose options may stand anywhere: before, between and after positional arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that takes arguments in any order, in sub-commands too.

    argparse fills all positional arguments from the first run of them: in `BUNDLE --k 3 PHOTO` it takes an optional
    PHOTO as left out, and then rejects it. `parse_intermixed_args` reads the options first, but not those
    of sub-commands. Parsers of sub-commands are of this class too, and each reads its own arguments this way.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mixing = False

    def parse_known_args(  # type: ignore[override]  # argparse has an overload for each kind of namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses the known arguments and returns the rest as a list."""
        # Before Python 3.12.8 the call below calls this method again: once for the options and once for the rest.
        if self._mixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False
