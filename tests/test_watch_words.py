"""What the watch reads and writes: its configuration, and words from outside made harmless."""

import re

import pytest
from markdown_it import MarkdownIt

from tests.conftest import ROOT
from tlbench.exceptions import BadInput
from tlbench.watch import escaping
from tlbench.watch.configuration import read

HOSTILE = (
    "](javascript:x) <img src=x onerror=alert(1)> @everyone `$(touch /tmp/x)` #1 ``` --> \u202eevil &lt; | *b* \u2028 : - !"
)


@pytest.mark.parametrize("text", [HOSTILE, "``", "`a", "", " ", "a\nb\r\nc\0d", "x" * 5000])
def test_code_spans_and_prose_show_one_line_and_nothing_else(text):
    markdown = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    (paragraph,) = markdown.parse(f"a {escaping.code(text)} b")[1:2]
    assert [token.type for token in paragraph.children] == ["text", "code_inline", "text"] or not text.strip()
    (paragraph,) = markdown.parse(f"a {escaping.prose(text)} b")[1:2]
    assert {token.type for token in paragraph.children} <= {"text", "text_special"}
    assert "".join(token.content for token in paragraph.children).startswith("a ")


def test_a_configuration_that_says_nothing_sensible_is_refused_in_words(tmp_path):
    path = tmp_path / "watch.toml"
    with pytest.raises(BadInput, match=r"docs/watch\.md"):
        read(path)
    for text in ("branch = 1", "branches = []", "branches =", '[mail]\nto = "x"', '[github]\nlevel = "loud"'):
        path.write_text(text)
        with pytest.raises(BadInput, match=str(path)):
            read(path)


def test_the_documented_configuration_is_read_and_documents_every_field(tmp_path):
    text = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "watch.md").read_text(), re.DOTALL)[1]
    (tmp_path / "watch.toml").write_text(text)
    found = read(tmp_path / "watch.toml")
    documented = set(re.findall(r"^(\w+) = ", text, re.MULTILINE)) | {"dtype", "option", "wrapper"}
    for section in (found, found.publish, found.github, found.webhook, found.mail):
        assert set(section.__struct_fields__) <= documented | {"publish", "github", "webhook", "mail"}


def test_the_committed_configuration_is_read_and_names_nobody_by_default(monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    found = read(ROOT / "watch.toml")
    assert found.branches == ("dev", "main")
    assert (found.webhook, found.mail) == (None, None)
    assert found.github.repository_name == "owner/name"
