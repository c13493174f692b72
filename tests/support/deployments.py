"""Processes that serve an environment by plugins of their own, without a server."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.db import processes
from penstock.host import reporter
from penstock.host.host import Host
from penstock.host.served import ServedEnvironment, served_in
from penstock.runs.ids import new_run_id
from penstock.settings import Settings
from support.place import Place

PLUGIN = """
from penstock import HttpTrigger, Pipeline, hookimpl

__version__ = "{version}"
names = {names!r}
needs = {needs!r}

def offered(name):
    pipeline = Pipeline(name, version="1.0.0", trigger=HttpTrigger(api_key=True), needs=set(needs))
    pipeline.get("/")(lambda call: "ok")
    return pipeline

@hookimpl
def penstock_pipelines(): return [offered(name) for name in names]
"""

Plugins = dict[str, str]


def source(*names: str, version: str = "1.0", needs: str = "") -> str:
    """Return the source of a plugin with pipelines of these names."""
    return PLUGIN.format(version=version, names=names, needs=needs.split())


@dataclass
class Process:
    """A process that serves an environment; it writes its report when it is asked to."""

    place: Place
    host: Host
    env: str
    id: str

    @classmethod
    def start(cls, place: Place, env: str, plugins: Plugins, kind: str = "serve") -> Process:
        """Load plugins from a folder of their own, and report."""
        folder = place.folder / f"plugins-{len(list(place.folder.iterdir()))}"
        folder.mkdir()
        for name, text in plugins.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        settings = Settings.from_env(place.environ(env, PENSTOCK_PLUGIN_PATH=str(folder)))
        return cls(place, Host(settings), env, "").listed(kind)

    def listed(self, kind: str = "serve") -> Process:
        """Read the environment, enter the list of processes, and report."""
        self.read()
        self.id = new_run_id()
        processes.register(
            self.place.engine,
            self.id,
            kind=kind,
            environment_id=self.host.view.environment_id,
            host=reporter.socket.gethostname(),
            pid=1,
        )
        self.host.upkeep.reporter.listed_as(self.id)
        self.report()
        return self

    def read(self) -> None:
        """Read the access data of the environment, and evaluate the pipelines."""
        self.host.view.access, self.host.view.evaluated = self.host.evaluator.evaluate_environment(
            self.place.engine, self.env, self.place.box
        )

    def report(self) -> None:
        self.host.upkeep.reporter.write_if_changed(self.place.engine)

    def another(self) -> Process:
        """Return another process of the same load: forked, or in place of one that died."""
        twin = Process(self.place, Host.__new__(Host), self.env, "")
        twin.host.__dict__.update(self.host.__dict__)
        parts = self.host._parts  # noqa: SLF001  what a fork copies
        twin.host.upkeep = type(self.host.upkeep)(parts)
        return twin.listed()

    def end(self) -> None:
        processes.unregister(self.place.engine, self.id)

    def served(self, env: str) -> ServedEnvironment:
        """Return what is served in an environment, asked from this process."""
        engine, catalog = self.place.engine, self.host.catalog
        access, evaluated = self.host.evaluator.evaluate_environment(engine, env, self.place.box)
        return served_in(engine, catalog, access, evaluated.external, evaluated.internal)
