"""The plugin of the trial: a call answered at once, one that takes a while, a durable run of
three steps, and a pipeline with a need."""

PLUGIN = """
import json, os, time, uuid
from penstock import Call, Durable, HttpTrigger, Pipeline, hookimpl, step

TRIGGER = HttpTrigger(api_key=True, jwt=True, idempotent="key", timeout=60)
trial = Pipeline("trial", version="1.0.0", trigger=TRIGGER, durable=Durable(recoveries=50, backlog=1_000_000))
needy = Pipeline("needy", version="1.0.0", trigger=HttpTrigger(api_key=True, jwt=True), needs={"region"})

def note(number, run, step):
    token, began = uuid.uuid4().hex, time.time()
    with open(os.environ["CHAOS_STEPS"], "a") as steps:
        steps.write(json.dumps([number, run, step, token, began]) + chr(10))
    time.sleep(0.05)
    return token

@step()
def first(number: int, run: str) -> str: return note(number, run, 1)
@step()
def second(number: int, run: str) -> str: return note(number, run, 2)
@step()
def third(number: int, run: str) -> str: return note(number, run, 3)

@trial.get("/")
def quick(call: Call) -> str: return "quick"

@trial.get("/slow")
def slow(call: Call, *, seconds: float) -> str:
    time.sleep(seconds)
    return "slow"

@trial.post("/", mode="durable")
def work(call: Call, body: dict[str, int]) -> list[str]:
    number = body["n"]
    return [first(number, call.run), second(number, call.run), third(number, call.run)]

@needy.get("/")
def region(call: Call) -> str: return call.variables["region"]

@hookimpl
def penstock_pipelines(): return [trial, needy]
"""  # noqa: E501  text as it is
