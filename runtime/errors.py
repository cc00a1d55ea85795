"""The package's own exceptions: each says what is wrong, where, and what to do."""


class RarError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(RarError, ValueError):
    """An argument, a label file or a picture source that cannot be used."""


class ImageError(RarError, ValueError):
    """One picture that cannot be read or is out of bounds; the rest of a batch is not affected."""


class BundleError(RarError):
    """A bundle with a missing, truncated, altered, foreign or newer part."""


class ProviderError(RarError):
    """The device that was asked for cannot run the model."""


class OutOfMemoryError(ProviderError):
    """The device has not the memory that the model, or a batch of pictures, takes."""


class ExportError(RarError):
    """A model that cannot be exported, or whose export differs too much from its source."""
