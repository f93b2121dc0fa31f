"""A small world for the watch: an upstream that grows commit by commit, GitHub and a webhook with faults, and a mailbox.

Commits are measured by reading what they say of themselves, in ``transformer_lens/states.json``. All else is real: git, the
search, the files, and HTTP.
"""

import json
import os
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.test_environments import git
from tlbench.environments.provenance import PACKAGE
from tlbench.environments.workshop import Environment
from tlbench.exceptions import CellFailed
from tlbench.grid import Cell
from tlbench.metrics.change import State
from tlbench.metrics.verdict import Verdict

CELLS = tuple(Cell(f"zoo-{name}", "float32", "unprocessed", "TransformerBridge") for name in ("gpt2", "llama", "opt"))
GPT2, LLAMA, OPT = CELLS
RIGHT = {"verdict": "benign", "fingerprint": "right", "error": 1e-6}
WRONG = {"verdict": "broken", "fingerprint": "wrong", "error": 4.5}
ROUNDED = {"verdict": "benign", "fingerprint": "rounded", "error": 1.1e-6}
PLACE = "block 1, attention output"


@dataclass
class Upstream:
    """A repository of commits that say what their cells are; what is not said is as before."""

    folder: Path
    states: dict = field(default_factory=lambda: {str(cell): RIGHT for cell in CELLS})
    number: int = 0
    transformers: str = "5.23.0"
    with_transformers: dict = field(default_factory=dict)
    """By version, the cells that this version alone moves, and their states."""

    def __post_init__(self):
        (self.folder / PACKAGE).mkdir(parents=True)
        git(self.folder, "init", "--quiet", "--initial-branch=dev")
        self.commit("First")

    def commit(self, subject, states=None, builds=True):
        """Add a commit with other states of some cells, and return its hash."""
        self.number += 1
        self.states |= {str(cell): state for cell, state in (states or {}).items()}
        content = {"states": self.states, "builds": builds, "number": self.number}
        content |= {"transformers": self.transformers, "with_transformers": self.with_transformers}
        (self.folder / PACKAGE / "states.json").write_text(json.dumps(content))
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", f"--message={subject}")
        return git(self.folder, "rev-parse", "HEAD")

    def git(self, *words):
        return git(self.folder, *words)


def measure_by_reading(monkeypatch):
    """Replace what installs and runs TransformerLens."""

    def content_of(clone, commit):
        blob = clone.package(commit)["states.json"]
        return json.loads(clone.blobs([blob])[blob])

    def environment(self, commit):
        version = content_of(self.clone, commit)["transformers"]
        packages = ("torch==2.13.0", f"transformers=={version}")
        return Environment(Path("python"), "era5", f"{version:e<12}", packages)

    def measure(self, commit, where, cells):
        content = content_of(self.clone, commit)
        if not content["builds"]:
            raise CellFailed("it does not build")
        moved = content["with_transformers"].get(where.packages[1].removeprefix("transformers=="), {})
        states = {str(cell): (content["states"] | moved)[str(cell)] for cell in cells}
        return {
            cell: State(Verdict(one["verdict"]), one["fingerprint"], one["error"], environment=str(where))
            for cell, one in ((cell, states[str(cell)]) for cell in cells)
        }

    monkeypatch.setattr("tlbench.environments.workshop.Workshop.environment", environment)
    monkeypatch.setattr("tlbench.steps.measuring.Laboratory._measure", measure)
    monkeypatch.setattr("tlbench.steps.measuring.Laboratory._kept", lambda *_: {})
    monkeypatch.setattr("tlbench.steps.measuring.Laboratory.first_wrong", lambda *_: PLACE)


class Receivers:
    """GitHub's API and a webhook on this machine.

    ``faults`` are taken one a request: a status is answered and nothing done; ``("lost", status)`` does what was asked and
    answers the status; ``("slow", seconds)`` does it and answers late; None is no fault.
    """

    def __init__(self):
        self.issues, self.comments, self.deliveries, self.requests = [], [], [], []
        self.labels, self.pull = [], {}
        self.faults = []
        self.lock = threading.Lock()
        receivers = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with receivers.lock:
                    fault = receivers.faults.pop(0) if receivers.faults else None
                    receivers.requests.append((self.command, self.path))
                    if isinstance(fault, int):
                        status, answer = fault, {"message": f"planted {fault}"}
                    else:
                        status, answer = receivers.answer(self.command, self.path, self.headers, body)
                if isinstance(fault, tuple):
                    kind, value = fault
                    status, answer = (value, {}) if kind == "lost" else (status, answer)
                    time.sleep(value if kind == "slow" else 0)
                content = json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # who asked is gone

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, method, path, headers, body):
        parts = urlsplit(path)
        words = parts.path.strip("/").split("/")
        content = json.loads(body) if body else {}
        if words == ["hook"]:
            self.deliveries.append((dict(headers), body))
            return 200, {}
        assert words[:3] == ["repos", "owner", "name"], path
        return self.of_repository(method, words[3:], content, parse_qs(parts.query))

    def of_repository(self, method, words, content, query):  # noqa: PLR0911
        match method, words:
            case "GET", ["issues"]:
                return 200, page(list(self.issues), query)
            case "POST", ["issues"]:
                number = len(self.issues) + 1
                issue = {"number": number, "state": "open", "html_url": f"https://github.com/owner/name/issues/{number}"}
                self.issues.append(issue | content)
                return 201, self.issues[-1]
            case "PATCH", ["issues", "comments", number]:
                self.comments[int(number) - 1] |= content
                return 200, self.comments[int(number) - 1]
            case "PATCH", ["issues", number]:
                self.issues[int(number) - 1] |= content
                return 200, self.issues[int(number) - 1]
            case "GET", ["issues", number, "comments"]:
                return 200, page([one for one in self.comments if one["issue"] == int(number)], query)
            case "POST", ["issues", number, "comments"]:
                own = {"id": len(self.comments) + 1, "issue": int(number), "user": {"type": "Bot"}}
                self.comments.append(own | content)
                return 201, self.comments[-1]
            case "GET", ["pulls", _]:
                return 200, self.pull
            case "GET", ["issues", number] if int(number) <= len(self.issues):
                issue = self.issues[int(number) - 1]
                return (410, {"message": "deleted"}) if issue["state"] == "deleted" else (200, issue)
            case "GET", ["issues", _]:
                return 200, {"labels": [{"name": name} for name in self.labels]}
            case "POST", ["issues", _, "labels"]:
                self.labels += content["labels"]
                return 200, []
            case "DELETE", ["issues", _, "labels", name]:
                self.labels.remove(name)
                return 200, []
        return 404, {"message": "Not Found"}

    def delivered(self):
        """What the webhook got, each delivery id once, in order."""
        return list({headers["X-Tlbench-Delivery"]: json.loads(body) for headers, body in self.deliveries}.values())

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def page(items, query):
    size, number = int(query["per_page"][0]), int(query["page"][0])
    return items[size * (number - 1) : size * number]


def mailbox(folder):
    """A program that stands for ``sendmail``, and how to read what it was given.

    Like that, it refuses a mail whose header is not whole, as its sender was killed.
    """
    box, program = folder / "mail", folder / "sendmail"
    box.mkdir()
    program.write_text(
        f'#!/bin/sh\ncat > "{box}/.$$" && grep -q "^$" "{box}/.$$" && mv "{box}/.$$" "{box}/$$.$(date +%N)"\n'
    )
    program.chmod(0o755)
    return program, lambda: [path.read_bytes() for path in sorted(box.glob("[!.]*"), key=os.path.getmtime)]
