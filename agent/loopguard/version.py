"""The version of the distribution, in one place for Python."""

__version__ = "0.1.0"
