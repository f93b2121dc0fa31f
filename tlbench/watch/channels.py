"""Where messages go: a webhook, GitHub's issues, mail. Each takes a message, or raises NotDelivered with the reason."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import time
from collections.abc import Callable
from email.policy import SMTP

import requests

from tlbench.exceptions import BadInput
from tlbench.watch.configuration import Configuration, Mail, Webhook, secret
from tlbench.watch.escaping import one_line
from tlbench.watch.github import PAUSE_S, TIMEOUT_S, TRIES, GitHub, NotDelivered
from tlbench.watch.messages import Event, Ledger, Level, Message
from tlbench.watch.rendering import as_json, as_mail

SENDMAIL_TIME_LIMIT_S = 60.0
SIGNATURE, DELIVERY = "X-Tlbench-Signature-256", "X-Tlbench-Delivery"

Channel = Callable[[Message, str], str]
"""Takes a message, and what the receiver answered to the first one about the same finding. Returns what it answers now."""


def chosen(configuration: Configuration, level: Level, event: Event) -> tuple[str, ...]:
    """The channels that take messages of a level. Issues are for findings, which can be closed."""
    wanted = {"webhook": configuration.webhook, "github": configuration.github, "mail": configuration.mail}
    takes = [name for name, one in wanted.items() if one and (level is Level.ALARM or one.level is Level.NEWS)]
    return tuple(name for name in takes if name != "github" or event is not Event.SAID)


def channels(configuration: Configuration) -> dict[str, Channel]:
    """How to send by each channel of a configuration."""
    found: dict[str, Channel] = {}
    if webhook := configuration.webhook:
        found["webhook"] = lambda message, _: post(webhook, message)
    if github := configuration.github:
        found["github"] = lambda message, address: GitHub(
            github.repository_name, secret(github.token, "a token that may write issues"), github.api
        ).tell(message, github.label, address)
    if mail := configuration.mail:
        found["mail"] = lambda message, _: send(mail, message)
    return found


def deliver(ledger: Ledger, by_name: dict[str, Channel], say: Callable[[str], None]) -> list[str]:
    """Send what waits, and return why what could not be sent was not, in sentences.

    Messages about one finding arrive in their order: where one waits, later ones wait too.
    """
    problems: dict[str, None] = {}
    held = set()
    first = {
        (name, one.key): answer
        for one in ledger.messages()
        if one.event is Event.OPENED
        for name, answer in one.told.items()
    }
    for waiting in ledger.messages():
        message = waiting
        for name in message.waiting:
            if (name, message.key) in held:
                continue
            try:
                if name not in by_name:
                    raise NotDelivered(f"{name} is not configured any more: configure it, so that what waits for it is told")
                say(f"{name}: {message.text.title}")
                answer = by_name[name](message, first.get((name, message.key), ""))
                first.setdefault((name, message.key), answer)
                message = ledger.record(message, name, answer)
            except (NotDelivered, BadInput) as error:
                held.add((name, message.key))
                problems[f"not told by {name}: {error}"] = None
    return list(problems)


def post(webhook: Webhook, message: Message, sleep: Callable[[float], None] = time.sleep) -> str:
    """Post a message, signed as GitHub signs its webhooks. Every try has the same delivery id. Raises NotDelivered."""
    body = json.dumps(as_json(message), sort_keys=True).encode()
    key = secret(webhook.secret, "the secret that the webhook's receiver knows").encode()
    headers = {
        "Content-Type": "application/json",
        DELIVERY: message.id,
        SIGNATURE: f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}",
    }
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            sleep(PAUSE_S * attempt)
        try:
            answer = requests.post(webhook.url, data=body, headers=headers, timeout=TIMEOUT_S, allow_redirects=False)
        except requests.RequestException as error:
            reason = type(error).__name__
            continue
        if 200 <= answer.status_code < 300:
            return str(answer.status_code)
        reason = str(answer.status_code)
        if answer.status_code < 500:
            break
    raise NotDelivered(f"the webhook did not take it ({reason}): see that its receiver runs; the next pass tries again")


def send(mail: Mail, message: Message) -> str:
    """Hand a message to the machine's ``sendmail``. Raises NotDelivered."""
    content = as_mail(message, mail.sender, mail.to).as_bytes(policy=SMTP.clone(linesep="\n"))
    command = [mail.sendmail, "-i", "-f", mail.sender, "--", *mail.to]
    try:
        done = subprocess.run(command, input=content, capture_output=True, check=False, timeout=SENDMAIL_TIME_LIMIT_S)
    except OSError as error:
        raise NotDelivered(f"cannot run {mail.sendmail} ({error.strerror}): install an MTA, or name its sendmail") from error
    except subprocess.TimeoutExpired:
        raise NotDelivered(f"{mail.sendmail} took longer than {SENDMAIL_TIME_LIMIT_S:.0f} s: see its queue") from None
    if done.returncode:
        said = one_line(done.stderr.decode(errors="replace"), 200)
        raise NotDelivered(f"{mail.sendmail} ended with status {done.returncode} ({said}): see its log")
    return "accepted"
