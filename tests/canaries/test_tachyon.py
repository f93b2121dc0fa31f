"""Canaries of asv-tachyon: the site publishes its pages in place of asv's."""

import re
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from tests.canaries import canary

SITE = "asv_plugins/site.py"
FETCHED = re.compile(r"fetch\(`\$\{\w+\}([\w.-]+)`")
"""How the scripts fetch a file of a fixed name; graphs and samples are fetched by the name of a benchmark."""
WRITTEN_BY_ASV = {"index.json", "regressions.json"}
DATA = {"graphs", "samples", "index.json", "info.json", "regressions.json", "regressions.xml"}
"""Names that the pages must not overwrite."""


@pytest.fixture
def html(tmp_path) -> Path:
    """A folder as ``asv publish`` hands it to the publishers."""
    (tmp_path / "index.html").write_text("asv's")
    (tmp_path / "asv.js").write_text("")
    (tmp_path / "vendor").mkdir()
    (tmp_path / "graphs" / "branch-main").mkdir(parents=True)
    (tmp_path / "graphs" / "branch-main" / "some.track_x.json").write_text("[]")
    return tmp_path


def scripts() -> Iterator[str]:
    """The text of every script that the pages load."""
    from asv_plugins.site import UI_FOLDER, UI_PACKAGE

    with as_file(files(UI_PACKAGE) / UI_FOLDER) as pages:
        for path in pages.rglob("*.js"):
            yield path.read_text()


@canary("asv-tachyon moved its pages, or they load files that the site does not install", SITE)
def test_everything_that_the_first_page_loads_is_installed(html):
    from asv_plugins.site import install_pages

    install_pages(html)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', (html / "index.html").read_text())
    assert any(name.endswith(".js") for name in loaded)
    assert [name for name in loaded if not (html / name).is_file()] == []
    assert not (html / "asv.js").exists()


@canary("asv-tachyon's pages overwrite asv's data", SITE)
def test_the_pages_overwrite_no_data():
    from asv_plugins.site import UI_FOLDER, UI_PACKAGE

    with as_file(files(UI_PACKAGE) / UI_FOLDER) as pages:
        assert DATA.isdisjoint(path.name for path in pages.iterdir())


@canary("asv-tachyon changed its first page: there is no </head> to put the style before", SITE)
def test_the_first_page_has_one_end_of_its_head(html):
    from asv_plugins.site import STYLE, install_pages

    install_pages(html)
    assert (html / "index.html").read_text().count(f"{STYLE}</head>") == 1


@canary("asv-tachyon changed its first page: there is no <body> to put the link in", "asv_plugins/environments.py")
def test_the_first_page_has_one_body(html):
    from asv_plugins.site import install_pages

    install_pages(html)
    assert (html / "index.html").read_text().count("<body>") == 1


@canary("asv-tachyon's pages fetch other optional files than the site writes", SITE)
def test_every_file_that_the_pages_fetch_is_written_by_asv_or_by_the_site(html):
    from asv_plugins.site import write_sidecars

    write_sidecars(html)
    written = {path.name for path in html.glob("*.json")}
    assert {name for script in scripts() for name in FETCHED.findall(script)} - WRITTEN_BY_ASV == written


@canary("asv-tachyon moved samples/: its pages fetch them from elsewhere", SITE)
def test_the_pages_fetch_samples_from_where_the_site_writes_them(html):
    from asv_plugins.site import write_sidecars

    write_sidecars(html)
    assert (html / "samples" / "branch-main" / "some.track_x.json").is_file()
    assert any(r'replace(/^graphs\//,"samples/")' in script for script in scripts())


@canary("asv-tachyon no longer reads a benchmark's less_is_better", SITE)
def test_the_pages_read_whether_less_is_better():
    assert any(".less_is_better" in script for script in scripts())


@canary("asv-tachyon renamed the class param-chips: a long list pushes the chart out of sight", SITE)
def test_the_list_of_benchmarks_has_the_class_that_the_site_styles():
    from asv_plugins.site import STYLE

    (name,) = re.findall(r"\.([\w-]+) \{", STYLE)
    assert any(f'className:"{name}"' in script for script in scripts())


@canary("asv-tachyon changed its scripts: they cut off the figures of an axis, or show means of all cells", SITE)
def test_each_patched_part_is_in_the_scripts_once():
    from asv_plugins.site import PATCHES

    assert {old: sum(script.count(old) for script in scripts()) for old in PATCHES} == dict.fromkeys(PATCHES, 1)
