"""The versions of loaded plugins: of their package, or of their source."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version

from penstock.plugins.offers import Plugins

SOURCE_DIGITS = 8  # of the digest of a plugin's source
MAX_VERSION_LENGTH = 64


@cache
def own_version() -> str:
    """Return the version of Penstock; empty where it runs from a folder."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return ""


def plugin_versions(plugins: Plugins) -> Mapping[str, str]:
    """Return the version of each plugin by its name; those given as objects have none.

    An installed plugin has that of its package. One of a plugin folder has a digest of its source,
    as `3fa9c1d2`, after its `__version__` if there is one: `2.3.1+3fa9c1d2`.
    """
    folders = plugins.folders
    versions = {
        entry.name: (entry.dist.version if entry.dist is not None else "")[:MAX_VERSION_LENGTH]
        for entry in folders.installed
    }
    for name, module in folders.modules.items():
        if module.may_be_plugin and name not in versions:
            digest = sha256()
            for source in folders.tree.sources_of(module):
                digest.update(source)
            source_version = digest.hexdigest()[:SOURCE_DIGITS]
            named = _named_version(plugins, name)
            versions[name] = f"{named}+{source_version}" if named else source_version
    return versions


def _named_version(plugins: Plugins, name: str) -> str:
    """Return `__version__` of a plugin's module; empty if it has none."""
    plugin = plugins.manager.get_plugin(name)
    # Not `getattr`: a module may compute its attributes, and this is no place to run plugin code.
    value = getattr(plugin, "__dict__", {}).get("__version__")
    return value[:MAX_VERSION_LENGTH] if isinstance(value, str) and value.isprintable() else ""
