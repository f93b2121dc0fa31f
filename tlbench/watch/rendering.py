"""A message as plain text, as Markdown for GitHub, as JSON, as mail and as an entry of the feed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from email.message import EmailMessage
from typing import Any
from xml.etree import ElementTree

from tlbench.records.serial import plain
from tlbench.watch.escaping import code_block, one_line, prose
from tlbench.watch.messages import Event, Message

ATOM = "http://www.w3.org/2005/Atom"
MARK = "<!-- tlbench: {} -->"
"""What a text on GitHub is recognised by. Only hexadecimal keys and our own words are put in."""
ENTRIES = 100


def as_text(message: Message) -> str:
    """Plain text."""
    text = message.text
    lines = [f"{question}: {one_line(answer, 2000)}" for question, answer in text.answers]
    if text.details:
        lines += ["", *(one_line(line, 2000) for line in text.details)]
    if text.commands:
        lines += ["", "To reproduce, before and after:" if len(text.commands) == 2 else "To reproduce:"]
        lines += [f"    {one_line(command, 2000)}" for command in text.commands]
    return "\n".join(lines) + "\n"


def as_markdown(message: Message, mark: str = "") -> str:
    """Markdown for GitHub. It ends with the mark by which it is recognised."""
    text = message.text
    lines = ["  \n".join(f"**{question}:** {prose(answer)}" for question, answer in text.answers)]
    if text.details:
        lines.append("\n".join(f"- {prose(line)}" for line in text.details))
    if text.commands:
        lines.append(code_block(list(text.commands)))
    return "\n\n".join([*lines, MARK.format(mark or message.key)]) + "\n"


def as_json(message: Message) -> dict[str, Any]:
    """JSON for the webhook."""
    return {
        "id": message.id,
        "finding": message.key,
        "event": message.event,
        "level": message.level,
        "at": message.at.isoformat(),
        **plain(message.text),
        "text": as_text(message),
    }


def as_mail(message: Message, sender: str, to: Iterable[str]) -> EmailMessage:
    """Mail. Messages about one finding are one thread."""
    domain = sender.rpartition("@")[2] or "localhost"
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, ", ".join(to)
    mail["Subject"] = f"[TransformerLens numerics] {one_line(message.text.title, 150)}"
    mail["Date"] = message.at
    mail["Message-ID"] = f"<{message.id}@{domain}>"
    if message.event in (Event.CHANGED, Event.CLOSED):
        mail["In-Reply-To"] = mail["References"] = f"<{message.key}-{Event.OPENED}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(as_text(message))
    return mail


def as_feed(messages: Iterable[Message], url: str, updated: datetime, subtitle: str) -> bytes:
    """An Atom feed (RFC 4287) of the newest messages, the last one first."""
    base = url.rstrip("/") or "https://localhost"
    feed = ElementTree.Element("feed", xmlns=ATOM)
    newest = sorted(messages, key=lambda message: message.at, reverse=True)[:ENTRIES]
    _add(feed, "id", f"{base}/news.atom")
    _add(feed, "title", "TransformerLens numerics")
    _add(feed, "subtitle", one_line(subtitle, 1000))
    _add(feed, "updated", updated.isoformat())
    ElementTree.SubElement(feed, "link", rel="self", type="application/atom+xml", href=f"{base}/news.atom")
    ElementTree.SubElement(feed, "link", rel="alternate", type="text/html", href=f"{base}/index.html")
    _add(ElementTree.SubElement(feed, "author"), "name", "tlbench watch")
    for message in newest:
        entry = ElementTree.SubElement(feed, "entry")
        _add(entry, "id", f"{base}/news.atom#{message.id}")
        _add(entry, "title", one_line(message.text.title))
        _add(entry, "updated", message.at.isoformat())
        _add(entry, "published", message.at.isoformat())
        ElementTree.SubElement(entry, "link", rel="alternate", type="text/html", href=f"{base}/index.html#{message.id}")
        ElementTree.SubElement(entry, "category", term=message.level)
        _add(entry, "summary", " ".join(f"{question}: {answer}" for question, answer in message.text.answers))
        _add(entry, "content", as_text(message)).set("type", "text")
    ElementTree.indent(feed, " ")
    return bytes(ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True))


def _add(parent: ElementTree.Element, name: str, text: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, name)
    child.text = text
    return child
