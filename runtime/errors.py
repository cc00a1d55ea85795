"""The package's exceptions: each message says what is wrong, where, and what to do."""


class RarError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(RarError, ValueError):
    """An argument, a label file or a picture source that cannot be used."""


class ImageError(RarError, ValueError):
    """One picture cannot be read or is out of bounds; the rest of the batch is not affected."""


class BundleError(RarError):
    """A bundle with a missing, truncated, altered, foreign or newer part."""


class BusyError(BundleError):
    """A memory that another process is changing; try again when it is done."""


class ProviderError(RarError):
    """The requested device cannot run the model."""


class OutOfMemoryError(ProviderError):
    """The device has too little memory for the model or a batch of pictures."""


class ExportError(RarError):
    """A model that cannot be exported, or whose export differs too much from its source."""
