"""Plugin folders: import the modules in them by name, from anywhere in plugin code.

Python imports by one flat name for the whole process, and a server runs the plugins of several
folders. So a module of a plugin folder can be imported only while its name is unambiguous. There
must be one file of that name in one folder, and no such module in the standard library or in an
installed package. Another copy of the plugin itself is no conflict.

An ambiguous name is reported, and imports what it would import without the folder. Where two
folders have the name, importing it raises ImportError: Python would silently return one of the two.

Rejected: adding the folders to `sys.path`. Every import of every library would search them, a
plugin file could replace a library's module, and the first of two equal names would win silently.
"""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.metadata import EntryPoint
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from penstock.plugins.source_tree import Module, SourceTree, installed_file, tree_of

STANDARD = "Python's standard library"
OWN_CODE = str(Path(__file__).parent) + os.sep
DYNAMIC = frozenset({"import_module", "__import__"})


class SourceLoader(SourceFileLoader):
    """Compile a module from the copy of its source, at each start.

    Python takes a cached file if its time, in seconds, and its size agree with the source. A
    deployment that sets the same time for all files would then run old code.
    """

    def __init__(self, fullname: str, path: str, tree: SourceTree) -> None:
        super().__init__(fullname, path)
        self._tree = tree

    def get_data(self, path: str) -> bytes:
        """Return the content of a source file from the copy, and of other files from the disk."""
        content = self._tree.files.get(path)
        return super().get_data(path) if content is None else content

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the compiled module."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


EXTENSIONS = (ExtensionFileLoader, EXTENSION_SUFFIXES)


@dataclass(slots=True)
class PluginFolders(MetaPathFinder):
    """Finder for `sys.meta_path`: finds the modules of plugin folders by name."""

    folders: Sequence[Path]
    modules: dict[str, Module] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)  # the other module, by name
    copies: dict[str, str] = field(default_factory=dict)  # the file of a plugin's copy, by name
    twice: dict[str, list[Module]] = field(default_factory=dict)
    installed: Sequence[EntryPoint] = ()  # plugins of installed packages
    tree: SourceTree = field(init=False)

    def __post_init__(self) -> None:
        present: dict[str, list[Module]] = {}
        self.tree = tree_of(self.folders)
        self.folders = self.tree.folders
        # Nothing may replace these.
        installed = {entry.module.partition(".")[0] for entry in self.installed}
        for module in self.tree.modules:
            present.setdefault(module.name, []).append(module)
        for name, modules in present.items():
            self.modules[name] = modules[0]
            origin = _elsewhere(modules)
            if origin and (name in installed or _in_use(modules[0]) or not _is_plugin(origin)):
                self.conflicts[name] = f"the module {name} of " + (
                    f"an installed package ({origin})" if origin != STANDARD else origin
                )
            elif len(modules) > 1:
                self.twice[name] = modules
            elif origin:
                self.copies[name] = origin

    def install(self) -> None:
        """Answer imports of this process from now on, in place of an earlier finder.

        Modules that only the earlier one could find are removed from `sys.modules`.
        """
        sys.meta_path[:] = [
            finder for finder in sys.meta_path if not isinstance(finder, PluginFolders)
        ]
        for name, module in list(sys.modules.items()):
            loader = getattr(module, "__loader__", None)
            if isinstance(loader, SourceLoader) and not self.holds(loader.path):
                del sys.modules[name]
        sys.meta_path.insert(0, self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002  importlib's
    ) -> ModuleSpec | None:
        """Return how a module of a plugin folder is loaded; None for any other module.

        Raises ImportError where two modules have the name.
        """
        name = fullname.partition(".")[0]
        if name not in self.modules or name in self.conflicts:
            return None
        if name in self.twice:
            first, second = (shown(module.place) for module in self.twice[name][:2])
            raise ImportError(
                f"there are two modules named {name!r}, {first} and {second}; rename one of them",
                name=name,
            )
        entries = [str(self.modules[name].folder)] if path is None else path
        specs = (self._spec(fullname, entry) for entry in entries)
        return next((spec for spec in specs if spec is not None), None)

    def _spec(self, fullname: str, entry: str) -> ModuleSpec | None:
        """Return how the module of a name in one folder is loaded, in the order of Python."""
        place = os.path.join(entry, fullname.rpartition(".")[2])  # noqa: PTH118  importlib's are texts
        package = os.path.join(place, "__init__.py")  # noqa: PTH118
        if package in self.tree.files:
            return self.source_spec(fullname, package)
        extension = FileFinder(entry, EXTENSIONS).find_spec(fullname)
        if extension is not None and extension.loader is not None:
            return extension
        if f"{place}.py" in self.tree.files:
            return self.source_spec(fullname, f"{place}.py")
        if any(path.startswith(place + os.sep) for path in self.tree.files):
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [place]
            return spec
        return None

    def source_spec(self, fullname: str, path: str) -> ModuleSpec | None:
        """Return how a source file is loaded as a module or package of a name."""
        locations = [os.path.dirname(path)] if os.path.basename(path) == "__init__.py" else None  # noqa: PTH119, PTH120  as above
        return spec_from_file_location(
            fullname,
            path,
            loader=SourceLoader(fullname, path, self.tree),
            submodule_search_locations=locations,
        )

    def holds(self, filename: str) -> bool:
        """Return whether a file is in one of the folders."""
        return any(Path(filename).is_relative_to(folder) for folder in self.folders)

    def imported(self) -> frozenset[str]:
        """Return the names that modules of the folders import from one another.

        An import counts wherever it is in the code, also within a function.
        """
        return frozenset(
            name
            for module in self.modules.values()
            for source in self.tree.sources_of(module)
            for name in _imports(source)
            if name != module.name
        )


def _elsewhere(modules: Sequence[Module]) -> str:
    """Return where another module of that name is; empty if nowhere.

    Test modules are skipped: no plugin imports them.
    """
    name = modules[0].name
    if modules[0].file is None or name.startswith(("test_", "conftest")):
        return ""
    if name in sys.stdlib_module_names:
        return STANDARD
    return next((file for module in modules if (file := installed_file(name, module.place))), "")


def _in_use(module: Module) -> bool:
    """Return whether this process has imported another module of that name."""
    imported = sys.modules.get(module.name)
    return imported is not None and getattr(imported, "__file__", None) != str(module.place)


def _is_plugin(origin: str) -> bool:
    """Return whether the source of a module mentions hooks."""
    try:
        return b"hookimpl" in Path(origin).read_bytes()
    except OSError:
        return False


def _imports(source: bytes) -> Iterator[str]:
    """Yield the first parts of the names that a source file imports.

    A file that can't be parsed imports nothing.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
        elif (
            isinstance(node, ast.Call)
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            function = node.func
            if (
                function.attr
                if isinstance(function, ast.Attribute)
                else getattr(function, "id", "")
            ) in DYNAMIC:
                yield node.args[0].value.partition(".")[0]


def shown(path: str | Path) -> str:
    """Return a path relative to the current folder if it is in it, and else in full."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):  # it is elsewhere, or the current folder was deleted
        return str(path)


def place_of(error: BaseException) -> str:
    """Return where plugin code raised, as `plugins/orders.py, line 4`; empty if not known."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{shown(error.filename)}, line {error.lineno}"
    frames = [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    frames = [frame for frame in frames if not frame[0].startswith(("<frozen ", OWN_CODE))]
    finders = [finder for finder in sys.meta_path if isinstance(finder, PluginFolders)]
    frames = [
        frame for frame in frames if any(finder.holds(frame[0]) for finder in finders)
    ] or frames
    return f"{shown(frames[-1][0])}, line {frames[-1][1]}" if frames else ""
