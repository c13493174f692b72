"""Find the endpoint of a path: static paths in a dict, paths with parameters by their segments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.route_problems import PARAMETER

Shape = tuple[str | None, ...]


@dataclass(slots=True)
class Place:
    """A path: the id of its pipeline, and an endpoint for each method."""

    pipeline: str
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        """The `Allow` header."""
        return ", ".join(sorted({*self.endpoints, *(("HEAD",) if "GET" in self.endpoints else ())}))


class Routes:
    """The paths of all external pipelines."""

    def __init__(
        self, endpoints: Iterable[tuple[str, Endpoint]], unroutable: Iterable[str]
    ) -> None:
        self._static: dict[str, Place] = {}
        self._shaped: dict[str, dict[Shape, Place]] = {}
        self._unroutable = frozenset(f"/{identifier}" for identifier in unroutable)
        for identifier, endpoint in endpoints:
            self._add(identifier, endpoint)
        for base, shapes in self._shaped.items():  # a literal segment wins over a parameter
            self._shaped[base] = dict(
                sorted(shapes.items(), key=lambda item: [part is None for part in item[0]])
            )

    def _add(self, identifier: str, endpoint: Endpoint) -> None:
        path = f"/{identifier}{endpoint.route.path}".rstrip("/")
        if endpoint.in_path:
            shape = tuple(
                None if PARAMETER.fullmatch(part) else part for part in path.split("/")[3:]
            )
            place = self._shaped.setdefault(f"/{identifier}", {}).setdefault(
                shape, Place(identifier)
            )
        else:
            place = self._static.setdefault(path, Place(identifier))
            self._static[path + "/"] = place
        place.endpoints[endpoint.route.method] = endpoint

    def find(self, path: str) -> tuple[Place, list[str]] | None:
        """Return the place at a path and the values of its parameters.

        A path below a pipeline with a broken declaration has a place without endpoints.
        """
        place = self._static.get(path)
        if place is not None:
            return place, []
        parts = path.split("/")
        base = "/".join(parts[:3])
        rest = parts[3:-1] if parts[-1] == "" else parts[3:]
        for shape, candidate in self._shaped.get(base, {}).items():
            if len(shape) == len(rest) and all(
                want == part if want is not None else part
                for want, part in zip(shape, rest, strict=True)
            ):
                return candidate, [
                    part for want, part in zip(shape, rest, strict=True) if want is None
                ]
        return (Place(base[1:]), []) if base in self._unroutable else None
