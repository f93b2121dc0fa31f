"""Words from outside, such as commit subjects and branch names, made harmless where they are shown."""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of characters that show nothing and may turn or hide what does: control, direction, separators."""


def one_line(text: str, most: int = 300) -> str:
    """A text without line breaks and hidden characters, and not longer than ``most``."""
    shown = "".join(" " if unicodedata.category(one) in _HIDDEN else one for one in text)
    words = " ".join(shown.split())
    return words if len(words) <= most else f"{words[: most - 1]}…"


def code(text: str) -> str:
    """A text as a Markdown code span, in which no HTML, link, mention or markup acts."""
    words = one_line(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", words)), default=0))
    space = " " if not words or words[0] in "` " or words[-1] in "` " else ""
    return f"{ticks}{space}{words}{space}{ticks}"


def code_block(lines: list[str]) -> str:
    """Lines as a Markdown code block."""
    shown = [one_line(line, 2000) for line in lines]
    ticks = "`" * max(3, 1 + max((len(run) for line in shown for run in re.findall("`+", line)), default=0))
    return "\n".join([ticks, *shown, ticks])


def prose(text: str) -> str:
    """A text with every character escaped that Markdown or GitHub would act on: markup, HTML, mentions, references."""
    words = one_line(text, 2000)
    escaped = re.sub(r"([\\`*_{}\[\]()<>#+!|~$^&-])", r"\\\1", words)
    return re.sub(r"(https?):", r"\1&#58;", escaped.replace("@", "&#64;")).replace("\\#", "&#35;")
