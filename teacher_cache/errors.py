"""The one exception of the package: reported to the user in one line, with the next command to try."""


class CacheError(Exception):
    """A domain error: value, limit, next command."""
