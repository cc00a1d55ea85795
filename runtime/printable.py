"""Text from strangers on a terminal."""


def printable(text: str) -> str:
    """A label or path with control characters escaped: it comes from strangers and must not steer the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
