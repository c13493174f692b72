"""A process that has imported everything once: the `penstock` commands of tests are its forks, for imports take most of a second."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path


class Zygote:
    """Runs commands in forks of a process of its own, each with its own environment, folder and standard streams."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(self, words: tuple[str, ...], env: dict[str, str], folder: Path, given: str | None) -> subprocess.CompletedProcess[str]:
        """Run `penstock` with these words."""
        with tempfile.TemporaryDirectory() as streams:
            paths = [Path(streams) / name for name in ("in", "out", "err")]
            paths[0].write_text(given or "", encoding="utf-8")
            request = {"words": words, "env": env, "folder": str(folder), "streams": [str(path) for path in paths]}
            status = self._ask(json.dumps(request))
            return subprocess.CompletedProcess(["penstock", *words], status, paths[1].read_text("utf-8"), paths[2].read_text("utf-8"))

    def _ask(self, request: str) -> int:
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


def serve() -> None:
    """Fork for each line of standard input, and print the exit code of what ran there."""
    import penstock.cli

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run_in_fork(json.loads(line), penstock.cli.main)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def run_in_fork(request: dict[str, object], main: object) -> None:
    """Become the command that was asked for."""
    code = 70
    try:
        os.environ.clear()
        os.environ.update(request["env"])  # type: ignore[call-overload]  # what `run` sent
        os.chdir(request["folder"])  # type: ignore[arg-type]
        for number, path in enumerate(request["streams"]):  # type: ignore[arg-type, var-annotated]
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w")))
        sys.argv = ["penstock", *request["words"]]  # type: ignore[misc]
        random.seed()
        main()  # type: ignore[operator]
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:  # noqa: BLE001  as the interpreter does at the end of a process
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
