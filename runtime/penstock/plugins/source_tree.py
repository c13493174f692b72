"""The Python sources of the plugin folders, read once and kept.

**Why.** Files change while a server runs: a deployment copies them, a developer edits them. A
worker that replaces a dead one must serve what its neighbours serve. That is what the last
successful rehearsal loaded, and not the present content of the folders.

**How.** The process that starts workers reads all sources before it rehearses a start. It keeps
them once the rehearsal has succeeded, and each worker imports from that copy. Workers get it by
fork, or as a file.

Data files and installed packages are not part of the copy: they are read from the disk.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

NOT_A_PLUGIN = ("_", ".", "test_", "conftest")  # prefixes of names that no plugin has


@dataclass(frozen=True, slots=True)
class Module:
    """A module or package in a plugin folder.

    `file` is run to import it; None for a folder of modules without `__init__.py`.
    """

    name: str
    folder: Path
    file: Path | None

    @property
    def place(self) -> Path:
        """The file, or the folder of modules."""
        return self.file or self.folder / self.name

    @property
    def may_be_plugin(self) -> bool:
        """Whether its name is one that a plugin may have."""
        return self.file is not None and not self.name.startswith(NOT_A_PLUGIN)


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The modules of plugin folders, and the content of their source files by path.

    The content is None where a file could not be read.
    """

    folders: Sequence[Path]
    modules: Sequence[Module]
    files: Mapping[str, bytes | None] = field(repr=False)

    def sources_of(self, module: Module) -> Iterator[bytes]:
        """Yield the content of a module's source files."""
        if module.file is not None and module.file.name != "__init__.py":
            yield self.files.get(str(module.file)) or b""
            return
        within = str(module.folder / module.name) + os.sep
        for path, content in self.files.items():
            if path.startswith(within):
                yield content or b""


def read_tree(folders: Iterable[Path]) -> SourceTree:
    """Read the sources of plugin folders. Raises OSError where a folder can't be listed."""
    unique = tuple(dict.fromkeys(folders))
    modules = tuple(module for folder in unique for module in _modules(folder))
    files = {str(file): _content(file) for module in modules for file in _files(module)}
    return SourceTree(unique, modules, files)


class _Kept:
    """The copy that this process imports plugins from; None: it reads the folders."""

    tree: SourceTree | None = None


def keep_tree(tree: SourceTree) -> None:
    """Have this process, and its later forks, import plugins from a copy of their sources."""
    _Kept.tree = tree


def tree_of(folders: Iterable[Path]) -> SourceTree:
    """Return the kept copy of these folders, and else read them."""
    unique = tuple(dict.fromkeys(folders))
    kept = _Kept.tree
    return kept if kept is not None and kept.folders == unique else read_tree(unique)


def store_tree(tree: SourceTree) -> BinaryIO:
    """Return an open file without a name that contains the copy, for a child process."""
    document = {
        "folders": list(map(str, tree.folders)),
        "modules": [
            (module.name, str(module.folder), module.file and str(module.file))
            for module in tree.modules
        ],
        "files": {
            path: content if content is None else base64.b64encode(content).decode()
            for path, content in tree.files.items()
        },
    }
    file = TemporaryFile()  # noqa: SIM115  the caller closes it
    file.write(json.dumps(document).encode())
    file.flush()
    return file


def load_tree(descriptor: int) -> SourceTree:
    """Return the copy in a file that a parent process has stored."""
    document = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    return SourceTree(
        tuple(map(Path, document["folders"])),
        tuple(
            Module(name, Path(folder), file and Path(file))
            for name, folder, file in document["modules"]
        ),
        {
            path: content if content is None else base64.b64decode(content)
            for path, content in document["files"].items()
        },
    )


def _modules(folder: Path) -> Iterator[Module]:
    """Yield the modules and packages of a folder, and its folders of modules without a package."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")):
            continue
        if path.suffix == ".py" and path.is_file():
            yield Module(path.stem, folder, path)
        elif (path / "__init__.py").is_file():
            yield Module(path.name, folder, path / "__init__.py")
        elif (
            path.is_dir() and path.name.isidentifier() and any(path.glob("*.py")) and _is_free(path)
        ):
            yield Module(path.name, folder, None)


def _is_free(path: Path) -> bool:
    """Return whether only this folder without an `__init__.py` has its name.

    Python imports any other module of that name first.
    """
    return (
        not path.with_suffix(".py").exists()
        and path.name not in sys.stdlib_module_names
        and not installed_file(path.name, path)
    )


def installed_file(name: str, place: Path) -> str:
    """Return the file of an installed module of a name; empty if there is none but `place`."""
    spec = PathFinder.find_spec(name)
    origin = spec.origin if spec is not None and spec.loader is not None else None
    return "" if origin is None or Path(origin).resolve() == place.resolve() else origin


def _files(module: Module) -> Iterable[Path]:
    if module.file is None or module.file.name == "__init__.py":
        return (module.folder / module.name).rglob("*.py")
    return (module.file,)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:  # its import reports it
        return None
