"""Planted mutations: each breaks one rule of access, and tests must notice. `make mutations` plants
each in a copy of the tree.

A mutation is a text of the source, what stands in its place, and the tests that must then fail.
Where a rename makes a text stale, `tests/contracts/test_mutations.py` fails and names the line that
is most like it: change `old` (and `new`) here. A mutation is never weakened: where its rule moved,
it moves along.
"""

# ruff: noqa: E501  a text of the source stands as it is there
# ruff: noqa: T201  the result

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
COPIED = (
    "runtime",
    "plugins",
    "tests",
    "migrations",
    "docs",
    "pyproject.toml",
    "wsgi.py",
    "README.md",
    "Makefile",
)
AT_ONCE = 2
LONGEST = 240.0  # seconds that the tests of one mutation may take
FAILED = 1  # pytest's exit code where tests ran, and some failed

GATE, COMPLIANCE, GATE_COMPILER, VERDICTS = (
    "runtime/penstock/gate/gate.py",
    "runtime/penstock/gate/compliance.py",
    "runtime/penstock/gate/credentials.py",
    "runtime/penstock/gate/verdicts.py",
)
DISPATCHER, EXCHANGE = "runtime/penstock/web/dispatcher.py", "runtime/penstock/web/exchange.py"
ADMISSION = "runtime/penstock/web/admission.py"
HOST_TOKENS, COMPILATION = "runtime/penstock/host/tokens.py", "runtime/penstock/host/compilation.py"
HISTORY = "runtime/penstock/db/history.py"
ACCESS_ROWS = "runtime/penstock/db/access_rows.py"
API_KEY, JWT, JWT_VERIFICATION, JWT_ISSUING = (
    "plugins/penstock_api_key/__init__.py",
    "plugins/penstock_jwt/tokens.py",
    "plugins/penstock_jwt/verification.py",
    "plugins/penstock_jwt/issuing.py",
)
BASIC, MTLS = "plugins/penstock_basic/__init__.py", "plugins/penstock_mtls/__init__.py"
SIGNATURE, POLICY = (
    "plugins/penstock_webhook_signature/__init__.py",
    "plugins/penstock_access_policy/__init__.py",
)
KEY_TESTS, JWT_TESTS = "plugins/penstock_api_key", "plugins/penstock_jwt/test_penstock_jwt.py"
OUTSIDE_TESTS, GATE_TESTS = (
    "plugins/penstock_jwt/test_outside.py",
    "tests/unit/gate/test_gate_rows.py",
)


@dataclass(frozen=True, slots=True)
class Edit:
    """A text of a file, which must be there exactly once, and what stands in its place."""

    file: str
    old: str
    new: str

    def problem(self, root: Path) -> str | None:
        """Say why it can't be made, and what it may have become."""
        path = root / self.file
        if not path.is_file():
            return f"{self.file} is not there any more"
        source = path.read_text(encoding="utf-8")
        number = source.count(self.old)
        if number == 1:
            return None
        near = get_close_matches(
            self.old.strip().splitlines()[0],
            [line.strip() for line in source.splitlines()],
            n=1,
            cutoff=0.3,
        )
        return f"{self.file} has {self.old!r} {number} times" + (
            f"; most like it is: {near[0]}" if near and not number else ""
        )


@dataclass(frozen=True, slots=True)
class Mutation:
    """A broken rule, and the tests that must fail: files, and with `only` those whose names
    match (pytest's `-k`)."""

    name: str
    edits: tuple[Edit, ...]
    tests: str
    only: str = ""

    def problems(self, root: Path) -> list[str]:
        """Say what keeps it from being planted, or its tests from being run."""
        gone = [
            f"{test} is not there any more"
            for test in self.tests.split()
            if not (root / test).exists()
        ]
        return [
            f"{self.name}: {problem}"
            for problem in (*(edit.problem(root) for edit in self.edits), *gone)
            if problem
        ]


def mutation(name: str, file: str, old: str, new: str, tests: str, only: str = "") -> Mutation:
    """Return a mutation of one edit."""
    return Mutation(name, (Edit(file, old, new),), tests, only)


ADMIT = "caller = exchange.caller or self._admission.admit(exchange, endpoint, body)"
MUTATIONS = (
    # Which calls meet a gate at all.
    mutation("HEAD is not gated", DISPATCHER, ADMIT, f"caller = Caller() if exchange.method == 'HEAD' else {ADMIT[9:]}", GATE_TESTS, "gated"),
    mutation("a path with a trailing slash is not gated", DISPATCHER, ADMIT, f"caller = Caller() if exchange.environ['PATH_INFO'][-1] == '/' else {ADMIT[9:]}", GATE_TESTS, "gated"),
    mutation("a CORS preflight runs the handler", DISPATCHER, 'Outcome(204, [], b"")', "Outcome(204, [], next(iter(exchange.place.endpoints.values())).route.handler(exchange))", GATE_TESTS, "preflight"),
    mutation("a preflight is answered without CORS", DISPATCHER, "\n            and self._headers.cors(place) is not None", "", GATE_TESTS, "preflight"),
    mutation("X-HTTP-Method-Override is obeyed", EXCHANGE, 'environ["REQUEST_METHOD"]', 'environ.get("HTTP_X_HTTP_METHOD_OVERRIDE") or environ["REQUEST_METHOD"]', GATE_TESTS, "obeyed"),
    mutation("the gate is not asked", DISPATCHER, ADMIT, "caller = Caller()", GATE_TESTS, "gated"),
    mutation("internal pipelines are found outside", DISPATCHER, "if is_exposed(item.pipeline, internal=internal)", "if item", "tests/unit/http/test_listeners.py"),
    mutation("a stale view of access answers calls", ADMISSION, " or not view.fresh():", ":", GATE_TESTS, "too_old"),
    mutation("a closed gate opens", GATE, '"""Accept no call."""\n        raise unavailable()', '"""Accept no call."""\n        return ANONYMOUS', "tests/unit/access/test_variables.py", "unset_variable_is_blocked"),
    mutation("a gate that ended is still used", GATE, "if now >= self._until:", "if False:", GATE_TESTS, "kept_for"),
    mutation("a body is read before the gate", ADMISSION, "head = RequestHead(environ", "body.read()\n        head = RequestHead(environ", GATE_TESTS, "nothing_of"),
    # What a gate asks.
    mutation("missing credentials pass", GATE, "        if missing:", "        if False:", GATE_TESTS, "gated"),
    mutation("a credential that can't be read passes", GATE, "if rejected is not None:", "if False:", KEY_TESTS, "forbids or different"),
    mutation("what is sent without being asked for is not checked", GATE_COMPILER, "if item.name in requires or not item.only_where_asked", "if item.name in requires", GATE_TESTS, "asked_for"),
    mutation("the toggles ask for nothing", COMPLIANCE, "closure(verdict.requires | trigger.toggles)", "closure(verdict.requires)", GATE_TESTS, "gated"),
    mutation("what a policy requires beyond the toggles is not added", VERDICTS, "requires |= verdict.requires", "requires |= frozenset[str]()", GATE_TESTS, "requires"),
    mutation("an unmet need does not refuse", COMPLIANCE, "verdict.violations + lacking + unmet,", "verdict.violations + lacking,", "tests/unit/access/test_variables.py", "unset_variable_is_blocked"),
    mutation("a disabled pipeline is served", COMPLIANCE, "if not access.pipeline(pipeline.id).enabled:", "if False:", "tests/unit/plugins/test_loading.py", "disabled_pipeline"),
    mutation("a missing authenticator asks for nothing", GATE_COMPILER, "for name in sorted(names - self._authenticators.keys())", "for name in ()", "tests/unit/plugins/test_loading.py", "product_plugins"),
    mutation("a login flow exempts itself", POLICY, "if trigger.login and candidate.designated:", "if trigger.login:", "plugins/penstock_access_policy"),
    mutation("an undesignated login flow issues tokens", HOST_TOKENS, "or not access.pipeline(pipeline.id).login_flow:", "or False:", JWT_TESTS, "login_flow"),
    mutation("a policy demands no toggles", POLICY, "sorted(demands - trigger.toggles)", "()", "plugins/penstock_access_policy"),
    mutation("a policy that raises refuses nothing", VERDICTS, "            violations.append(run.add_fault(fault))\n", "            run.add_fault(fault)\n", "tests/unit/gate/test_evaluation.py"),
    mutation("access data that can't be applied still answers calls", "runtime/penstock/access/snapshot.py", 'return float("inf") if self.broken is not None else time', "return time", "tests/unit/access/test_damaged_data.py tests/unit/host/test_upkeep.py"),
    mutation("a name that two plugins share is served", COMPILATION, "if others := sorted(owners[name] - {offer.plugin}):", "if others := sorted(owners[name] - owners[name]):", "tests/unit/access/test_by_id.py"),
    mutation("a scheme that nothing can check passes as anonymous", GATE, "if not in_header and head.authorization is not None:", "if False:", "tests/unit/gate/test_authorization.py"),
    mutation("wrong guesses give their count back", "runtime/penstock/gate/guesses.py", "if guess.right and time", "if time", "tests/unit/gate/test_guesses.py"),
    mutation("handlers get the credentials", "runtime/penstock/contracts/withheld.py", "for name, value in fields.items() if name not in self.headers}", "for name, value in fields.items()}", "tests/unit/contracts/test_withheld.py"),
    mutation("handlers get a key from the query", "runtime/penstock/contracts/withheld.py", "        if not text:\n            return text\n", "        return text\n", "tests/unit/contracts/test_withheld.py"),
    # Who may call.
    mutation("associations are not looked at", GATE, " or not access.associated(caller.consumer_id, self._pipeline)", "", KEY_TESTS, "may_not_call"),
    mutation("a disabled consumer may call", GATE, "consumer is not None and consumer.enabled and ", "consumer is not None and ", KEY_TESTS, "may_not_call"),
    mutation("scopes are not looked at", GATE, "if not self._scopes <= caller.scopes:", "if False:", "plugins/penstock_demo", "reader"),
    mutation("a refusal says why", GATE, "is not valid here.", "is not valid here: {error}.", KEY_TESTS, "every_invalid_key"),
    mutation("a pipeline's networks are not looked at", ADMISSION, "networks is not None\n            and evaluated.gate is not CLOSED", "False", "tests/unit/access/test_limits.py", "takes_calls_from_its_networks"),
    mutation("a consumer's networks are not looked at", ADMISSION, "access.networks\n            and caller.consumer_id in access.networks\n", "False\n", "tests/unit/access/test_limits.py", "its_networks_alone"),
    mutation("rates are not counted", ADMISSION, "if trigger.rate or access.limits:", "if False:", "tests/unit/gate/test_rates.py tests/unit/access/test_limits.py", "one_call_too_many or stands_in_place"),
    mutation("bad credentials are not counted", ADMISSION, "isinstance(error.__cause__, CredentialRejected) and not error.counted", "False", "tests/unit/gate/test_rates.py", "fails_too_often"),
    mutation("any peer is believed whom it calls for", "runtime/penstock/http/addresses.py", "if not from_trusted_proxy(environ, proxies):", "if False:", "tests/unit/gate/test_rates.py", "header_means_nothing or believed"),
    # API keys.
    mutation("a disabled or revoked key is usable", API_KEY, "if not key.usable:", "if False:", KEY_TESTS, "usable or disabled_key"),
    mutation("keys live an hour longer", API_KEY, "key.expires_at <= now:", "key.expires_at + 3600 <= now:", KEY_TESTS, "moment_it_expires"),
    mutation(
        "a restored database is recognised by its revision alone",
        HISTORY,
        "return self.revision <= now.revision and self.mark == mark",
        "return self.revision <= now.revision",
        "tests/unit/access/test_history.py",
        "comes_again and sqlite",
    ),
    mutation(
        "half of a restore is read",
        HISTORY,
        'if connection.scalar(with_key, {"names": names}) != len(names):',
        'if connection.scalar(with_key, {"names": names}) is None:',
        "tests/unit/access/test_history.py",
        "half_of_a_restore",
    ),
    Mutation(
        "keys of other environments are good",
        (
            Edit(API_KEY, "if parsed is None or parsed.environment != access.environment.name:", "if parsed is None:"),
            Edit(ACCESS_ROWS, ".where(ApiKeyRow.environment_id == environment_id, ApiKeyRow.revision > since)", ".where(ApiKeyRow.revision > since)"),
        ),
        KEY_TESTS,
        "every_invalid_key",
    ),
    mutation("of two keys one counts", API_KEY, "if len(sent) > 1:", "if False:", KEY_TESTS, "different"),
    mutation("keys in the query are taken everywhere", API_KEY, "if not access.environment.keys_in_query:", "if False:", KEY_TESTS, "a_key_in_it"),
    # Tokens.
    mutation("a token is not bound to the key's consumer", JWT, "if caller.consumer is None or caller.consumer != token.consumer:", "if caller.consumer is None:", JWT_TESTS, "key_of_its_consumer_alone"),
    mutation("tokens live an hour longer", JWT, "if now >= token.ends + LEEWAY_S or", "if now >= token.ends + 3600 or", JWT_TESTS, "leeway"),
    mutation("a token is good before its time", JWT, "if now < token.starts - LEEWAY_S:", "if False:", JWT_TESTS, "leeway"),
    mutation("a token may live longer than the environment says", JWT, "if token.ends - token.issued_at > access.environment.token_lifetime:", "if False:", JWT_TESTS, "every_invalid_token or ends_at_once"),
    mutation("revoked tokens pass", JWT, "if access.token_revoked(token.jti, token.consumer, token.issued_at):", "if False:", JWT_TESTS, "revocation"),
    mutation("a token that was seen passes after its key has changed", JWT, "if version != self._cache_version:", "if self._cache_version == -1:", JWT_TESTS, "dropped_key or ends_at_once"),
    mutation("a retired key verifies for ever", JWT, " or now >= token.verify_until:", ":", JWT_TESTS, "rotated_away"),
    mutation("a token of another kind passes", JWT_VERIFICATION, ' or str(header.get("typ", "")).lower() != TYPE\n', "\n", JWT_TESTS, "every_invalid_token"),
    mutation("a token for another environment passes", JWT_VERIFICATION, 'if claims["aud"] != access.environment.name:', "if False:", JWT_TESTS, "every_invalid_token"),
    mutation("a token's header is obeyed", JWT_VERIFICATION, "if not DANGEROUS.isdisjoint(header):", "if False:", JWT_TESTS, "every_invalid_token"),
    mutation("a login flow sets any lifetime", JWT_ISSUING, "if not 1 <= lifetime <= limit:", "if lifetime < 1:", JWT_TESTS, "impossible_life"),
    mutation("a login flow sets registered claims", JWT_ISSUING, "    if taken:", "    if False:", JWT_TESTS, "claim_that_is_ours"),
    mutation("an outside token is good for every audience", JWT_VERIFICATION, "audience=trusted.audience,\n                options={", 'options={"verify_aud": False, ', OUTSIDE_TESTS, "do_not_hold or elsewhere"),
    mutation("an outside token names its consumer itself", JWT_VERIFICATION, 'return trusted.consumers.get(value, "") if trusted.consumers else value', "return value", OUTSIDE_TESTS, "mean_a_consumer"),
    mutation("an outside set may hold private keys", "runtime/penstock/contracts/jwks.py", 'kind == "oct" or not PRIVATE_MEMBERS.isdisjoint(jwk)', 'kind == "oct"', OUTSIDE_TESTS + " tests/unit/contracts/test_jwks.py", "private"),
    # Further proofs.
    mutation("any password is right", BASIC, "if not self._matches(hashed, password) or stored is None:", "if stored is None:", "plugins/penstock_basic", "a_wrong_one"),
    mutation("a user may be another consumer's than the key", BASIC, "caller.consumer_id is not None and caller.consumer_id != consumer.id", "False", "plugins/penstock_basic", "of_one_consumer"),
    mutation("any signature is right", SIGNATURE, "if any(compare_digest(expected, signature) for signature in signatures):", "if expected:", "plugins/penstock_webhook_signature", "changed_byte"),
    mutation("a signed message counts twice", SIGNATURE, "            if self.timed\n            else None", "            if False\n            else None", "plugins/penstock_webhook_signature", "replay"),
    mutation("an old signature counts", SIGNATURE, "if self.timed and abs(now - int(moment)) > TOLERANCE_S:", "if False:", "plugins/penstock_webhook_signature", "too_far_away"),
    mutation("a certificate is believed from any peer", "runtime/penstock/http/certificates.py", "        or not from_trusted_proxy(environ, proxies)\n", "", "plugins/penstock_mtls", "untrusted or trusted_proxies"),
    mutation("an expired certificate is good", MTLS, "if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:", "if False:", "plugins/penstock_mtls", "of_tomorrow"),
    # What one consumer sees of another.
    mutation("an Idempotency-Key is everybody's", "runtime/penstock/web/idempotency_key.py", "str(caller.consumer_id),\n        caller.subject", '"",\n        caller.subject', "tests/unit/runs/test_idempotency.py", "one_consumer_and_one_person"),
    mutation("an Idempotency-Key is all subjects'", "runtime/penstock/web/idempotency_key.py", 'caller.subject or ""', '""', "tests/unit/runs/test_idempotency.py", "one_consumer_and_one_person"),
    mutation("an Idempotency-Key repeats another request", "runtime/penstock/runs/idempotency.py", "if first != body:", "if False:", "tests/unit/runs/test_idempotency.py", "another_request"),
    mutation("runs of others are shown", "runtime/penstock/durable/run_endpoints.py", " and row.consumer_id == call.caller.consumer_id", "", "tests/unit/runs/test_records.py", "consumer_s_alone"),
    mutation("secrets of other pipelines are handed out", "runtime/penstock/access/variables.py", "return (self.pipelines is None or pipeline in self.pipelines) and (", "return (", "tests/unit/access/test_variables.py", "for_some_pipelines"),
    mutation("callbacks go to private addresses", "runtime/penstock/durable/callbacks.py", "if not private and any(", "if False and any(", "tests/unit/durable/test_callbacks.py", "private"),
    mutation("callbacks go anywhere on an allowed host", "runtime/penstock/access/callbacks.py", "            and below\n", "", "tests/unit/durable/test_callbacks.py", "leads_out"),
    # The console.
    mutation("the console takes forms without a CSRF token", "runtime/penstock/console/pages.py", "            csrf.protect()\n        except CSRFError:\n            abort", "            pass\n        except CSRFError:\n            abort", "tests/console/test_roles.py", "csrf_token"),
    mutation("a form is kept over a sign-in without a CSRF token", "runtime/penstock/console/pages.py", "        csrf.protect()\n        values", "        values", "tests/console/test_kept_forms.py", "not_kept"),
    mutation("a kept form is shown to another user", "runtime/penstock/console/kept_forms.py", "form.user != user or ", "", "tests/console/test_kept_forms.py", "another_user"),
    mutation("secrets are kept over a sign-in", "runtime/penstock/console/kept_forms.py", '{"csrf_token", *secret_fields}', '{"csrf_token"}', "tests/console/test_kept_forms.py", "secrets_are_not_kept"),
    mutation("a role may do anything", "runtime/penstock/console/pages.py", "if g.role is None or not g.role.may(needed):", "if False:", "tests/console/test_roles.py", "no_further"),
    mutation("a role of one environment counts in all", "runtime/penstock/console/pages.py", "[signed_in.role_in(name) for name in names]", "[signed_in.highest_role for name in names]", "tests/console/test_environment_roles.py", "gives_roles_on_the_page"),
    mutation("wider changes need no second approval", "runtime/penstock/audit/approvals.py", "if approval is None and not row.second_approval:", "if approval is None:", "tests/unit/access/test_approvals.py", "waits_and_is_applied"),
    mutation("an author approves their own change", "runtime/penstock/audit/approvals.py", "if change.author.casefold() == approver.casefold():", "if False:", "tests/unit/access/test_approvals.py", "waits_and_is_applied"),
    mutation("an approval applies to another state", "runtime/penstock/audit/approvals.py", "if approval.proposal != proposal:", "if False:", "tests/unit/access/test_approvals.py", "moved_on"),
    # What is never written.
    mutation("keys are written", "runtime/penstock/contracts/masks.py", 'if "pk" in text:', "if False:", "tests/unit/contracts/test_masks.py"),
    mutation("tokens are written", "runtime/penstock/contracts/masks.py", 'if "ey" in text or "ew" in text:', "if False:", "tests/unit/contracts/test_masks.py"),
    mutation("a credential that is cut is written", "runtime/penstock/contracts/masks.py", 'return _CUT.sub("", shown)', "return shown", "tests/unit/contracts/test_masks.py", "beyond"),
    mutation("a credential as request id is echoed", EXCHANGE, " and masked(sent) == sent", "", "tests/unit/web/test_credentials_nowhere.py"),
    mutation("a sensitive parameter of a path is written", "runtime/penstock/runs/redaction.py", "HIDDEN if part in hidden else part", "part", "tests/unit/contracts/test_masks.py"),
    mutation("a secret shows itself", "runtime/penstock/contracts/variables.py", 'return f"<Secret {self.name}>"', 'return f"<Secret {self._value}>"', "tests/unit/access/test_variables.py", "shows_itself_nowhere"),
    mutation("the log of plugin code shows passwords", "runtime/penstock/logs/lines.py", "HIDDEN if is_sensitive(name, self._names) else", "", "tests/unit/logs/test_plugin_logs.py", "credential"),
    # Plugins.
    mutation("an inner pipeline's refusal is the caller's", "runtime/penstock/execution/executor.py", "raise CalledPipelineFailed(str(error)) from error", "raise", "tests/unit/runs/test_steps.py", "operators"),
    mutation("a file replaces a module of Python", "runtime/penstock/plugins/folders.py", "if name in sys.stdlib_module_names:", "if False:", "tests/unit/plugins/test_folders.py", "replaces"),
    mutation("a file replaces an installed plugin", "runtime/penstock/plugins/folders.py", "name in installed or ", "", "tests/unit/plugins/test_folders.py", "installed"),
)  # fmt: skip


def plant(mutation: Mutation, tree: Path) -> dict[Path, str]:
    """Make a mutation's edits in a copy of the tree, and return the files as they were. Raises
    SystemExit where one is stale."""
    problems = mutation.problems(tree)
    if problems:
        raise SystemExit("\n".join(problems))
    before: dict[Path, str] = {}
    for edit in mutation.edits:
        path = tree / edit.file
        source = path.read_text(encoding="utf-8")
        before.setdefault(path, source)
        path.write_text(source.replace(edit.old, edit.new), encoding="utf-8")
    return before


def is_caught(mutation: Mutation, tree: Path) -> tuple[bool, str]:
    """Plant a mutation, run its tests, take it out again; return whether a test failed, and how
    it went."""
    before = plant(mutation, tree)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--no-header",
        *mutation.tests.split(),
    ]
    paths = os.pathsep.join(str(tree / part) for part in ("runtime", "plugins"))
    env = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *(["-k", mutation.only] if mutation.only else [])],
            cwd=tree,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return False, f"its tests took longer than {LONGEST:g} s"
    finally:
        for path, source in before.items():
            path.write_text(source, encoding="utf-8")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == FAILED and bool(failed), (
        failed[0][:150] if failed else done.stdout[-300:]
    )


def copy(folder: Path) -> Path:
    """Copy what is needed of the tree."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source,
                folder / name,
                ignore=shutil.ignore_patterns("__pycache__", "*.db", "*.db-*"),
            )
        else:
            shutil.copy(source, folder / name)
    return folder


def main(words: list[str]) -> int:
    """Plant all mutations, or those whose names contain one of the words, and say which were
    caught."""
    chosen = [
        mutation
        for mutation in MUTATIONS
        if not words or any(word in mutation.name for word in words)
    ]
    stale = [problem for mutation in chosen for problem in mutation.problems(ROOT)]
    if stale:
        print("\n".join(stale))
        return 1
    survivors = []
    with (
        tempfile.TemporaryDirectory(prefix="penstock-mutations-") as folder,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(AT_ONCE):
            trees.put(copy(Path(folder) / str(number)))

        def work(mutation: Mutation) -> tuple[Mutation, bool, str, float]:
            tree, began = trees.get(), time.monotonic()
            try:
                return mutation, *is_caught(mutation, tree), time.monotonic() - began
            finally:
                trees.put(tree)

        for mutation, caught, how, seconds in pool.map(work, chosen):
            print(
                f"{'caught  ' if caught else 'SURVIVED'} {seconds:5.1f} s "
                f" {mutation.name}{'' if caught else f': {how}'}",
                flush=True,
            )
            if not caught:
                survivors.append(mutation.name)
    print(f"planted {len(chosen)}, caught {len(chosen) - len(survivors)}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
