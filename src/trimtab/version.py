"""The version, apart from the public API, so that every room can write it down."""

__version__ = "0.1.0"
