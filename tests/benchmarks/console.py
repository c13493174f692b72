"""How long the console's pages take: 200 pipelines, counts of a week, 1,000,000 runs. `PYTHONPATH=tests python -m benchmarks.console`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from console_kit import PASSWORD, ROOT, people
from kit import Place

from penstock.db import counts, runs
from penstock.host import Host
from penstock.runs.records import first_id
from penstock.settings import Settings
from penstock.web import create_app

PIPELINES, RUNS, AT_ONCE, ROUNDS = 200, 1_000_000, 10_000, 15
PAGES = ("/", "/?span=day", "/?span=week", "/overview/points?span=week", "/users", "/account")
PLUGIN = f"""
from penstock import Call, HttpTrigger, Pipeline, hookimpl

def made(number):
    pipeline = Pipeline(f"p{{number}}", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=number % 2 == 0))
    @pipeline.get("/")
    def show(call: Call): return {{}}
    return pipeline

@hookimpl
def penstock_pipelines(): return [made(number) for number in range({PIPELINES})]
"""


def fill(place: Place) -> None:
    """Write what a week of calls leaves behind."""
    now = int(time.time())
    for span, since in [
        *((60, now // 60 * 60 - 60 * ago) for ago in range(1, 60)),
        *((3600, now // 3600 * 3600 - 3600 * ago) for ago in range(2, 168)),
    ]:
        row = {"environment_id": 1, "span": span, "since": since, "process": "p", "calls": 50, "micros": 500_000, "buckets": [0, 5, 20, 20, 5]}
        counts.write(place.engine, [row | {"pipeline": f"v1/p{number}", "outcome": "succeeded"} for number in range(PIPELINES)])
    for batch in range(RUNS // AT_ONCE):
        moment = first_id(now - 86_400 + batch)[:18]
        numbers = range(batch * AT_ONCE, (batch + 1) * AT_ONCE)
        rest = (False, None, None, "succeeded", 200, 900, *[None] * 6)
        runs.record(
            place.engine, [(f"{moment}-8000-{number:012x}", 1, f"v1/p{number % PIPELINES}", "1.0.0", "GET /", *rest) for number in numbers], []
        )


def main() -> None:
    """Fill a database, and time the pages in this process, after a first look that is told apart."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place.make(f"sqlite:///{folder}/penstock.db", Path(folder))
        place.plugin("many", PLUGIN)
        people(place.engine)
        fill(place)
        given = {name: value for name, value in place.environ().items() if name.startswith("PENSTOCK_")}
        app = create_app(Host(Settings.from_env(given | {"PENSTOCK_CONSOLE": "true"})))
        client = app.test_client()
        token = client.get(f"{ROOT}/sign-in").text.partition('name="csrf-token" content="')[2].partition('"')[0]
        client.post(f"{ROOT}/sign-in", data={"name": "ann", "password": PASSWORD, "csrf_token": token})
        for page in PAGES:
            took = []
            for _ in range(ROUNDS + 1):
                began = time.perf_counter()
                answered = client.get(ROOT + page)
                took.append((time.perf_counter() - began) * 1000)
                assert answered.status_code == 200, page
            sys.stdout.write(f"{page:30} first {took[0]:7.1f} ms   then {statistics.median(took[1:]):6.1f} ms\n")
        app.host.stop()


if __name__ == "__main__":
    main()
