"""Plugin folders.

Import the modules that lie there, plugins and their helpers, by name from anywhere in plugin code.

Python imports by one flat name for the whole process, and a server runs the plugins of several
folders. So a module of a plugin folder is importable only while its name means one thing: one file
in one folder, and no module of the standard library or of an installed package (another copy of the
plugin itself apart). Any other name is reported, and means what it would mean without the folder;
where two folders have it, importing it raises ImportError, for Python would return one of the two
without a word.

A finder is used in place of `sys.path`: a folder on `sys.path` would be searched for every import
of every library, would let a plugin file replace a library's module, and the first of two equal
names would win silently.
"""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from importlib.metadata import EntryPoint
from pathlib import Path
from types import CodeType, ModuleType

NO_PLUGIN = ("_", ".", "test_", "conftest")  # beginnings of names that are no plugin's
STANDARD = "Python's standard library"
OWN_CODE = str(Path(__file__).parent) + os.sep
DYNAMIC = frozenset({"import_module", "__import__"})


class SourceLoader(SourceFileLoader):
    """Compile a module from its source at each start.

    A cached file counts as current when time (in seconds) and size agree, which a deployment that
    sets all times alike would fool.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the compiled module."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


DETAILS = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceLoader, SOURCE_SUFFIXES))


@dataclass(frozen=True, slots=True)
class Module:
    """A module or package in a plugin folder.

    Its name, and the file that is run to import it (None for a folder of modules).
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
        return self.file is not None and not self.name.startswith(NO_PLUGIN)


@dataclass(slots=True)
class PluginFolders(MetaPathFinder):
    """Find the modules of plugin folders by name, for `sys.meta_path`."""

    folders: Sequence[Path]
    modules: dict[str, Module] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)  # by name, what else it means
    copies: dict[str, str] = field(default_factory=dict)  # by name, where else the plugin is
    twice: dict[str, list[Module]] = field(default_factory=dict)
    installed: Sequence[EntryPoint] = ()  # plugins that came with packages

    def __post_init__(self) -> None:
        present: dict[str, list[Module]] = {}
        self.folders = tuple(dict.fromkeys(self.folders))
        # Nothing may stand in for these.
        installed = {entry.module.partition(".")[0] for entry in self.installed}
        for module in (module for folder in self.folders for module in _modules(folder)):
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
        """Answer imports of this process from now on, in place of an earlier one.

        Modules that only that one knew are forgotten.
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
        """Return how a module of a plugin folder is loaded.

        Raises ImportError where two have its name.
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
        if path is None:
            return FileFinder(str(self.modules[name].folder), *DETAILS).find_spec(fullname)
        return next(
            (
                spec
                for entry in path
                if (spec := FileFinder(entry, *DETAILS).find_spec(fullname)) is not None
            ),
            None,
        )

    def holds(self, filename: str) -> bool:
        """Say whether a file lies in one of the folders."""
        return any(Path(filename).is_relative_to(folder) for folder in self.folders)

    def imported(self) -> frozenset[str]:
        """Return the names that modules of the folders import from one another.

        Imports anywhere in their code count.
        """
        return frozenset(
            name
            for module in self.modules.values()
            for file in _sources(module)
            for name in _imports(file)
            if name != module.name
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
    """Say whether nothing but this folder without an `__init__.py` has its name.

    Python takes anything else first.
    """
    return (
        not path.with_suffix(".py").exists()
        and path.name not in sys.stdlib_module_names
        and not _known_elsewhere(path.name, path)
    )


def _elsewhere(modules: Sequence[Module]) -> str:
    """Return where else a name is a module, or nothing. Test modules are nobody's helpers."""
    name = modules[0].name
    if modules[0].file is None or name.startswith(("test_", "conftest")):
        return ""
    if name in sys.stdlib_module_names:
        return STANDARD
    return next(
        (found for module in modules if (found := _known_elsewhere(name, module.place))), ""
    )


def _known_elsewhere(name: str, place: Path) -> str:
    """Return the file of an installed module of a name, if that is not this one."""
    spec = PathFinder.find_spec(name)
    origin = spec.origin if spec is not None and spec.loader is not None else None
    return "" if origin is None or Path(origin).resolve() == place.resolve() else origin


def _in_use(module: Module) -> bool:
    """Say whether this process has imported another module of that name."""
    known = sys.modules.get(module.name)
    return known is not None and getattr(known, "__file__", None) != str(module.place)


def _is_plugin(origin: str) -> bool:
    """Say whether a module has hooks, as far as its source shows."""
    try:
        return b"hookimpl" in Path(origin).read_bytes()
    except OSError:
        return False


def _sources(module: Module) -> Iterable[Path]:
    if module.file is None or module.file.name == "__init__.py":
        return (module.folder / module.name).rglob("*.py")
    return (module.file,)


def _imports(file: Path) -> Iterator[str]:
    """Yield the first parts of the names that a source imports.

    What can't be read imports nothing.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
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
    """Return a path as people read it: relative to the current folder where it lies in it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):  # it lies elsewhere, or the current folder was deleted
        return str(path)


def place_of(error: BaseException) -> str:
    """Return where plugin code raised an exception, as `plugins/orders.py, line 4`.

    Return nothing where that can't be known.
    """
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
