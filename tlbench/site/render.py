"""Jinja2's environment: templates that escape everything, and the filters that write figures, verdicts and addresses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from tlbench.grid import Cell, Wrapper
from tlbench.metrics.verdict import Verdict
from tlbench.report.render import short_wrapper
from tlbench.site import searched, words

TEMPLATES = Path(__file__).parent / "templates"


@lru_cache
def environment() -> jinja2.Environment:
    """The environment; undefined names are errors."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "figure": words.spelled,
        "bits": signed_bits,
        "day": lambda at: f"{at:%Y-%m-%d}" if at else "an unknown day",
        "wrapper": short_wrapper,
        "option": lambda option: words.OPTIONS[option],
        "vclass": words.css_class,
        "wclass": lambda word: f"w-{word}".replace("/", "").replace(" ", "-"),
        "symbol": lambda verdict: words.VERDICTS[verdict][0],
        "meaning": lambda verdict: words.VERDICTS[verdict][1],
        "anchor": anchor,
        "markdown": markdown,
        "plural": plural,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
        "breakable": breakable,
        "joined": joined,
        "listed": listed,
        "commit_page": searched.commit_page,
        "pull_page": searched.pull_page,
        "own_subject": searched.own_subject,
        "change_in_words": searched.change_in_words,
        "cells_in_words": searched.cells_in_words,
    }
    env.globals |= {
        "tracks": words.TRACKS,
        "Verdict": Verdict,
        "Wrapper": Wrapper,
        "fig": fig,
        "word": word,
    }
    return env


def write(html: Path, address: str, template: str, **context: Any) -> None:
    """Render a template to a page of the site."""
    path = html / address
    path.parent.mkdir(parents=True, exist_ok=True)
    root = "../" * address.count("/")
    path.write_text(environment().get_template(template).render(root=root, address=address, **context), encoding="utf-8")


def fig(value: float | None, track: str, cell: str = "", commit: str = "", machine: str = "", absent: str = "") -> Markup:
    """One figure, with the address of the stored one: what is not given here is that of the elements around it."""
    if value is None:
        return Markup('<span class="absent">{}</span>').format(absent)
    told = "".join(
        f' data-{name}="{escape(text)}"' for name, text in (("cell", cell), ("commit", commit), ("machine", machine)) if text
    )
    return Markup(f'<data value="{value!r}" data-track="{escape(track)}"{told}>{words.spelled(value)}</data>')


@lru_cache
def word(verdict: Verdict) -> Markup:
    """A verdict with its symbol."""
    symbol = f'<span class="sym" aria-hidden="true">{words.VERDICTS[verdict][0]}</span>'
    return Markup(f'<span class="word {words.css_class(verdict)}">{symbol} {escape(verdict)}</span>')


def signed_bits(bits: float | None) -> str:
    """A change of the mean, in bits."""
    if bits is None:
        return ""
    if bits in (float("inf"), float("-inf")):
        return "+∞" if bits > 0 else "−∞"
    return f"{bits:+.2f}".replace("-", "−")


def anchor(cell: Cell) -> str:
    """The name of a cell's section in the page of its model's history."""
    return f"{cell.dtype}.{cell.option}"


def plural(count: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def joined(items: Any, limit: int = 6) -> str:
    """The first items, and how many more there are."""
    texts = list(dict.fromkeys(map(str, items)))
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


def breakable(name: str) -> Markup:
    """A name in snake case, which a line may break at its underscores."""
    return escape(name).replace("_", Markup("_<wbr>"))


def listed(items: Sequence[Any]) -> str:
    """All items: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(map(str, items[:-1])), str(items[-1]))))


@lru_cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def markdown(text: str) -> Markup:
    """Prose from this repository, as HTML; HTML in it is shown as text."""
    return Markup(_markdown().render(text))


def script(path: Path, name: str, value: Any) -> None:
    """Data for a page's script, as a script that assigns it: pages opened from a folder may fetch nothing."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, default=_plain).replace("</", "<\\/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"window.TL=window.TL||{{}};TL.{name}={text};\n")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
