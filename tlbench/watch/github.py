"""GitHub's issues and comments, written so that a repeat changes nothing.

An answer may be lost after GitHub has acted on the request. So what to write is looked for by its mark before each try.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests

from tlbench.exceptions import TlbenchError
from tlbench.watch.escaping import one_line
from tlbench.watch.messages import Event, Message
from tlbench.watch.rendering import MARK, as_markdown

TIMEOUT_S = (10.0, 30.0)
TRIES = 3
PAUSE_S = 2.0
PAGE = 100
ADVICE = {
    401: "renew the token",
    403: "give the token the right to write issues, or wait until its rate limit is over",
    404: "check the repository's name, and that the token may see it and that it has issues",
    410: "the repository has no issues: turn them on",
    422: "GitHub refuses the content; see its reason",
    429: "wait until the rate limit is over",
}
DELETED = 410
BODY_LIMIT = 60_000
"""GitHub takes 65,536 characters."""


class NotDelivered(TlbenchError):
    """A receiver did not take a message. The reason says why; the message waits for the next pass.

    Attributes:
        status: the HTTP status of the refusal; 0 if there was none.
    """

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class GitHub:
    """One repository on GitHub.

    Attributes:
        repository: ``owner/name``.
        sleep: waits between tries.
    """

    repository: str
    token: str
    api: str = "https://api.github.com"
    sleep: Callable[[float], None] = time.sleep
    _session: requests.Session = field(default_factory=requests.Session, repr=False)

    def tell(self, message: Message, label: str, address: str) -> str:
        """Open, change or close the issue of a finding, and return its address. Raises NotDelivered.

        ``address`` is of the issue, once it is open. One that somebody has deleted is let go.
        """
        if message.event in (Event.OPENED, Event.SAID):
            return str((self._issue(message) or self._opened(message, label))["html_url"])
        if not address:
            return "the finding is older than this channel"
        number = int(address.rpartition("/")[2])
        try:
            issue = self._asked("GET", f"issues/{number}")
        except NotDelivered as error:
            if error.status == DELETED:
                return address
            raise
        body = as_markdown(message)
        if message.event is Event.CLOSED:
            self.comment(number, message.id, as_markdown(message, message.id))
            if issue["state"] == "open":
                self._write("PATCH", f"issues/{number}", {"state": "closed", "state_reason": "completed"})
        elif issue["body"] != body:
            self._write("PATCH", f"issues/{number}", {"body": body[:BODY_LIMIT]})
        return address

    def pull(self, number: int) -> dict[str, Any]:
        """A pull request. Raises NotDelivered."""
        found: dict[str, Any] = self._asked("GET", f"pulls/{number}")
        return found

    def label(self, number: int, name: str, is_wanted: bool) -> None:
        """Set a label of an issue or pull request, or take it off. Raises NotDelivered."""
        labels = [one["name"] for one in self._asked("GET", f"issues/{number}").get("labels", [])]
        if is_wanted and name not in labels:
            self._asked("POST", f"issues/{number}/labels", json={"labels": [name]})
        if not is_wanted and name in labels:
            self._asked("DELETE", f"issues/{number}/labels/{quote(name, safe='')}")

    def comment(self, number: int, mark: str, body: str, by_bot: bool = False) -> None:
        """Write a comment, or bring the one with this mark up to date. Raises NotDelivered.

        With ``by_bot`` a person's comment is never taken for it: anybody may write the mark into one.
        """

        def find() -> dict[str, Any] | None:
            comments = self._all(f"issues/{number}/comments", {})
            own = (one for one in comments if not by_bot or (one.get("user") or {}).get("type") == "Bot")
            return next((one for one in own if MARK.format(mark) in (one.get("body") or "")), None)

        known = find()
        if known is None:
            self._write("POST", f"issues/{number}/comments", {"body": body[:BODY_LIMIT]}, find)
        elif known["body"] != body:
            self._write("PATCH", f"issues/comments/{known['id']}", {"body": body[:BODY_LIMIT]})

    def _issue(self, message: Message) -> dict[str, Any] | None:
        """The issue that an earlier try has opened for a message, if any. It is no older than the message."""
        since = {
            "state": "all",
            "since": message.at.isoformat().replace("+00:00", "Z"),
            "sort": "created",
            "direction": "asc",
        }
        return next((one for one in self._all("issues", since) if MARK.format(message.key) in (one.get("body") or "")), None)

    def _opened(self, message: Message, label: str) -> dict[str, Any]:
        content = {"title": one_line(message.text.title, 250), "body": as_markdown(message)[:BODY_LIMIT], "labels": [label]}
        return self._write("POST", "issues", content, lambda: self._issue(message))

    def _all(self, path: str, parameters: dict[str, str]) -> Iterator[dict[str, Any]]:
        page = 1
        while True:
            found = self._asked("GET", path, params={**parameters, "per_page": str(PAGE), "page": str(page)})
            yield from found
            if len(found) < PAGE:
                return
            page += 1

    def _write(
        self,
        method: str,
        path: str,
        content: dict[str, Any],
        find: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> dict[str, Any]:
        """Write something. After a lost answer, ``find`` says whether it was written nevertheless."""
        found: dict[str, Any] = self._asked(method, path, find, json=content)
        return found

    def _asked(self, method: str, path: str, find: Callable[[], Any] = lambda: None, **content: Any) -> Any:
        url = f"{self.api}/repos/{self.repository}/{path}"
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                self.sleep(PAUSE_S * attempt)
                if (written := find()) is not None:
                    return written
            try:
                answer = self._session.request(
                    method, url, headers=headers, timeout=TIMEOUT_S, allow_redirects=method == "GET", **content
                )
                if answer.ok and not answer.is_redirect:
                    return answer.json()
            except (requests.RequestException, ValueError) as error:
                reason = f"no usable answer ({type(error).__name__})"
                continue
            said = f"{answer.status_code} {one_line(_message_of(answer), 200)}".strip()
            if answer.status_code < 500:
                advice = ADVICE.get(answer.status_code, "see GitHub's documentation of this status")
                raise NotDelivered(
                    f"GitHub refused {method} {path} of {self.repository} ({said}): {advice}", answer.status_code
                )
            reason = said
        raise NotDelivered(
            f"GitHub failed {TRIES} times at {method} {path} of {self.repository} ({reason}): the next pass tries again"
        )


def _message_of(answer: requests.Response) -> str:
    try:
        said = answer.json()
        details = "; ".join(str(one.get("message", one.get("code", ""))) for one in said.get("errors", []))
        return f"{said.get('message', '')} {details}".strip()
    except (ValueError, AttributeError):
        return answer.reason or ""
