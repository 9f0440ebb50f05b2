"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("verger")
except PackageNotFoundError:
    # Run from a checkout that was never installed.
    VERSION = "0.0.0"
