"""A Prometheus exporter and a health check for an Asterisk call centre."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("asterisk-appliance")
except metadata.PackageNotFoundError:  # run from a source tree
    __version__ = "0.1.0"

__all__ = ["__version__"]
