"""The site in a real browser, over the committed results: figures are the stored ones, and nothing comes from elsewhere."""

import functools
import gzip
import http.server
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from asv.config import Config

from tests.stored import BIN, GPT2, GPT2_16, LLAMA, MEAN, ROOT, Stored
from tlbench import catalogue
from tlbench.environments import lens_environment
from tlbench.exceptions import BadInput
from tlbench.site import findings, words
from tlbench.site import publish as site
from tlbench.site import searched as ranges
from tools.docs.findings import faults

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
AXE = files("axe_playwright_python") / "axe.min.js"
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
NEWS = {
    "looked_at": "2026-01-01T03:17:00Z",
    "started_at": "2026-01-02T03:17:00Z",
    "max_age_h": 36.0,
    "heads": {"dev": "0123456789" * 4},
    "open": [{"title": "zoo-gpt2: alarm <b>&</b>", "commit": "a" * 40, "url": "https://github.com/owner/name/issues/1"}],
    "problems": ["the webhook did not take it (502)"],
    "waiting": 1,
}
"""What the watch left on a day long ago."""
ALL_KINDS = (
    "index.html",
    "models.html",
    "releases.html",
    "matrix.html",
    "compare.html",
    "findings.html",
    "steps.html",
    "hooks.html",
    "gradients.html",
    "growth.html",
    "costs.html",
    "environments.html",
    "coverage.html",
    "method.html",
    "commit/4.0.0.html",
    "model/zoo-gemma.html",
    "history/zoo-mixtral.html",
    "finding/gemma-erf-gelu.html",
    "profile/zoo-gemma.html",
)

DARK = ("index.html", "gradients.html", "model/zoo-gemma.html", "history/zoo-mixtral.html")
"""Pages that have every colour between them."""
AXE_OPTIONS = {"resultTypes": ["violations"], "preload": False, "iframes": False}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The committed results of twelve releases and the grid's models, and their configuration, in a folder of their own.

    What is asserted of these stays true whatever is measured beside them; :func:`whole` has everything.
    """
    folder = committed(tmp_path_factory.mktemp("site"))
    further = {model.name for model in catalogue.load().every if model.source is catalogue.Source.CONFIG}
    for path in folder.glob("results/*/*.json*"):
        if path.name[:8] in LATER:
            path.unlink()
        elif path.name.endswith(".environments.jsonl"):
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
        elif path.name.endswith(".endings.jsonl"):
            path.write_text("".join(without(further, path.read_text().splitlines())))
        elif path.suffix == ".json" and path.name != "machine.json":
            path.write_text(json.dumps(narrowed(json.loads(path.read_text()), further)))
    path = folder / "results" / "benchmarks.json"
    described = json.loads(path.read_text())
    for one in described.values():
        if isinstance(one, dict) and one["params"]:
            one["params"][0] = [value for value in one["params"][0] if not is_of(value, further)]
    path.write_text(json.dumps(described))
    (folder / "watch").mkdir()
    (folder / "watch" / "news.json").write_text(json.dumps(NEWS))
    return folder


LATER = ("3adb10e9", "fd9b443e", "8286a4c6", "2f811656", "07c5423d")
"""3.6.0, 3.7.3, 3.9.0, 4.1.0 and 4.2.0."""


def committed(folder):
    """The committed results and their configuration, without the repository."""
    shutil.copytree(ROOT / "releases" / "results", folder / "results", ignore=shutil.ignore_patterns("*-local"))
    configuration = json.loads(re.sub(r"^\s*//.*$", "", (ROOT / "releases" / "asv.conf.json").read_text(), flags=re.M))
    configuration |= {"plugins": [".asv_plugins.site"], "repo": "absent.git"}
    (folder / "asv.conf.json").write_text(json.dumps(configuration))
    return folder


def is_of(value, models):
    """Whether a parameter, such as ``'zoo-gpt2 TransformerBridge'``, names one of these models."""
    return value.strip("'").split(" ")[0] in models


def without(models, lines):
    """The lines of how cells ended, without the cells of these models."""
    for line in lines:
        ending = json.loads(line)
        ending["cells"] = [cell for cell in ending["cells"] if not is_of(cell, models)]
        if ending["cells"]:
            yield json.dumps(ending) + "\n"


def narrowed(stored, models):
    """asv's results of a commit without the cells of these models."""
    for columns in stored["results"].values():
        for grid in columns[1:2]:
            kept = [not is_of(point[0], models) for point in itertools.product(*grid)] if grid else []
            for i, column in enumerate(columns):
                if i != 1 and isinstance(column, list) and len(column) == len(kept):
                    columns[i] = list(itertools.compress(column, kept))
            if grid:
                grid[0] = [value for value in grid[0] if not is_of(value, models)]
    return stored


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The site of everything that is committed."""
    folder = committed(tmp_path_factory.mktemp("whole"))
    publish(folder)
    return folder / "html"


@pytest.mark.parametrize("width", [400, 1400])
def test_with_every_model_and_release_no_page_scrolls_sideways_and_the_first_is_small(browser, whole, width):
    server, root = served(whole.parent)
    page = browser.new_page(viewport={"width": width, "height": 900})
    for name in (*WIDE, "model/zoo-granitemoehybrid-rotary.html", "history/zoo-falcon_h1.html"):
        page.goto(f"{root}html/{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        for cells in SEEN_OF_ALL.get(name, ()):
            right = page.locator(cells).evaluate_all(
                "(all) => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
            )
            assert 0 < right <= width, (name, cells)
    page.close()
    server.shutdown()
    assert len(gzip.compress((whole / "index.html").read_bytes())) < 50_000


WIDE = ("index.html", "models.html", "coverage.html", "matrix.html", "releases.html", "steps.html", "findings.html")
SEEN_OF_ALL = {"index.html": [".glance .cell"], "models.html": ["tbody td.num"]}


def test_the_first_page_folds_right_models_of_further_architectures_and_no_wrong_one(browser, whole):
    page = browser.new_page()
    page.goto((whole / "index.html").as_uri())
    rows = page.locator("[aria-label^=TransformerBridge] .glance tbody th").all_inner_texts()
    assert {"zoo-gpt2", "zoo-bitnet", "zoo-falcon-40b", "zoo-gpt2-unscaled"} <= {*rows}
    assert "zoo-mamba2" not in rows
    assert len({*rows}) < 80
    said = page.locator("main").inner_text()
    assert re.search(r"Without \d\d+ models of further architectures that are not wrong in 4\.3\.0: Models", said)
    page.goto((whole / "coverage.html").as_uri())
    assert re.search(r"^1\d\d architectures are measured", page.locator(".lead").inner_text())
    page.close()


@pytest.fixture(scope="module")
def html(results):
    """The site of the committed results, without the repository."""
    publish(results)
    return results / "html"


def publish(folder, status=0):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [BIN / "asv", "publish", "--no-pull"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def served(folder):
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


@pytest.fixture(scope="module")
def address(html):
    """The site under a sub-path, as GitHub Pages serves it."""
    server, root = served(html.parent)
    yield f"{root}html/"
    server.shutdown()


@pytest.fixture
def page(browser, address):
    """A page that fails the test at an error of the console, a failed request, or one to another host."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page, bad = context.new_page(), []
    page.on("console", lambda message: message.type == "error" and bad.append(message.text))
    page.on("pageerror", lambda error: bad.append(str(error)))
    page.on("requestfailed", lambda request: request.failure == "net::ERR_ABORTED" or bad.append(request.url))  # left early
    page.on("request", lambda request: request.url.startswith((address, "data:")) or bad.append(request.url))
    page.on("response", lambda response: response.status >= 400 and bad.append(response.url))
    yield page
    context.close()
    assert not bad


@functools.cache
def raw(folder):
    """Every stored value by machine, commit, track and words of the cell, read without asv and without tlbench."""
    found = {}
    for path in folder.glob("*/*-*.json"):
        data = json.loads(path.read_text())
        for track, columns in data["results"].items():
            row = dict(zip(data["result_columns"], columns, strict=False))
            params = [[word.strip("'") for word in of] for of in row["params"]]
            values = row["result"] or [None] * math.prod(map(len, params))
            for point, value in zip(itertools.product(*params), values, strict=True):
                found[path.parent.name, data["commit_hash"][:8], track, in_any_order(" ".join(point))] = value
    for path in folder.glob("*/*.profiles.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            for name in ("errors", "reference_errors", "local", "reference_local"):
                for at, value in zip(line["at"], line[name] or [None] * len(line["at"]), strict=True):
                    found[path.parent.name, path.name[:8], f"{line['question']}.{name}.{at}", in_any_order(line["cell"])] = (
                        value
                    )
    return found


def in_any_order(cell):
    return frozenset(cell.split())


def compare_figures(figures, folder):
    stored = raw(folder)
    for machine, commit, track, cell, value, text in figures:
        expected = stored[machine, commit, track, in_any_order(cell)]
        assert float(value) == expected, (machine, commit, track, cell)
        assert close(text, expected), (text, expected)


def close(text, value):
    """Whether a text shows a value in three digits."""
    if text == "∞":
        return math.isinf(value)
    shown = float(text.replace("−", "-"))
    return shown == value if value == 0 else abs(shown / value - 1) < 5.01e-3


class Figures(HTMLParser):
    """Every figure of a page, with the machine, commit and cell that the elements around it name."""

    def __init__(self, text):
        super().__init__()
        self.around, self.found, self.within = [{}], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            own = {**self.around[-1], **dict(attributes), "tag": tag}
            self.around.append(own)
        if tag == "data" and "data-track" in own:
            self.within = True
            self.found.append(
                [*(own.get(f"data-{name}") for name in ("machine", "commit", "track", "cell")), own["value"], ""]
            )

    def handle_endtag(self, tag):
        assert self.around.pop()["tag"] == tag
        self.within = False

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, text):
        if self.within:
            self.found[-1][-1] += text


def test_every_figure_on_every_page_is_the_stored_one(html, results):
    seen = 0
    for path in sorted(html.rglob("*.html")):
        figures = Figures(path.read_text()).found
        compare_figures(figures, results / "results")
        seen += len(figures)
    assert seen > 15_000


COUNTS = """() => Object.fromEntries(
  [...document.querySelectorAll('[data-count]')].map((d) => [d.dataset.count, +d.textContent]))"""


@pytest.mark.parametrize("kind", ["index.html", "commit/4.3.0.html"])
def test_the_counts_are_those_of_the_result_files(page, address, results, kind):
    """4.3.0 against 4.0.0: the same wrapper, so cells are compared one by one."""
    stored = raw(results / "results")
    tracks = sorted({key[2] for key in stored if key[2].startswith(("accuracy.Logit.", "truth.TransformerLens."))})
    found = Counter()
    for cell in {key[3] for key in stored if key[1] == "281d0a89" and key[2] == MEAN}:
        old, new = (
            [stored.get(("shared-x86-64", commit, track, cell), math.nan) for track in tracks]
            for commit in ("648f82ca", "281d0a89")
        )
        if all(isinstance(value, float) and math.isnan(value) for value in new):
            continue
        if None in old and None not in new:
            found["mended"] += 1
        elif repr(old) == repr(new):
            found["same bits"] += 1
    page.goto(address + kind)
    shown = page.evaluate(COUNTS)
    assert found == {"mended": 18, "same bits": 342}
    assert {kind: count for kind, count in shown.items() if count} == found


def test_a_script_compares_two_commits_like_the_page_that_was_written(page, address):
    for earlier, later in (("2.18.0", "3.0.0"), ("3.0.0", "3.5.1"), ("3.5.1", "4.0.0"), ("4.0.0", "4.3.0")):
        page.goto(f"{address}commit/{later}.html")
        written = page.evaluate(COUNTS)
        page.goto(f"{address}compare.html?from={earlier}&to={later}")
        drawn = page.evaluate(COUNTS)
        assert {kind: count for kind, count in drawn.items() if kind in written} == written


@pytest.mark.parametrize("figure", ["mean", "max", "bits lost"])
def test_the_matrix_shows_the_figures_of_any_commit(page, address, results, figure):
    track = {"bits lost": "truth.TransformerLens.track_bits_lost"}.get(figure, f"accuracy.Logit.track_{figure}")
    page.goto(f"{address}matrix.html?commit=3.0.0&figure={figure}&wrapper=HookedTransformer")
    cells = page.evaluate(
        "() => [...document.querySelectorAll('.matrix [data-value]')]"
        ".map((a) => [a.getAttribute('href'), a.dataset.value, a.textContent])"
    )
    stored = raw(results / "results")
    assert len(cells) > 200
    for href, value, text in cells:
        model, dtype, option = re.fullmatch(r"history/(.*)\.html\?commit=3\.0\.0#(\w+)\.(\w+)", href).groups()
        cell = in_any_order(f"{model} {dtype} {option} HookedTransformer")
        expected = stored["shared-x86-64", "10b35403", track, cell]
        assert float(value) == expected
        assert close(text, expected)


@pytest.mark.parametrize(
    ("cell", "decades"),
    [
        ("zoo-gemma.html?wrapper=HookedTransformer#float32.fold_ln", {1e-3, 1e-4, 1e-5}),
        ("zoo-mixtral.html#float32.unprocessed", {1, 1e-2, 1e-4, 1e-6}),  # with zeros, below them
    ],
)
def test_a_chart_s_axis_has_its_decades_at_equal_distances(browser, address, cell, decades):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.add_init_script(
        "window.labels = []; const draw = CanvasRenderingContext2D.prototype.fillText;"
        "CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {"
        "window.labels.push([text, y]); return draw.call(this, text, x, y); };"
    )
    page.goto(f"{address}history/{cell}")
    labels = page.evaluate("window.labels")
    axis = [(float(text.replace("−", "-")), y) for text, y in labels if re.fullmatch(r"(0\.0+1|1e−\d+|1)", text)]
    assert decades <= {value for value, _ in axis}
    drawn = sorted(set(axis))
    assert [y for _, y in drawn] == sorted((y for _, y in drawn), reverse=True)
    distances = [a[1] - b[1] for a, b in itertools.pairwise(drawn)]
    assert max(distances) - min(distances) < 2
    page.close()


def test_the_address_alone_restores_what_is_shown(page, address):
    page.goto(f"{address}history/zoo-gemma.html")
    page.get_by_role("combobox", name="dtype").select_option("float16")
    page.get_by_role("combobox", name="option").select_option("fold_ln")
    page.get_by_role("combobox", name="wrapper").select_option("HookedTransformer")
    page.get_by_role("combobox", name="commit").select_option("3.0.0")
    assert page.url.endswith("history/zoo-gemma.html?wrapper=HookedTransformer&commit=3.0.0#float16.fold_ln")
    state = "() => [...document.querySelectorAll('select')].map((s) => s.value)"
    before = page.evaluate(state)
    page.goto("about:blank")
    page.goto(f"{address}history/zoo-gemma.html?wrapper=HookedTransformer&commit=3.0.0#float16.fold_ln")
    after = page.evaluate(state)
    assert before == after
    assert (
        page.locator(".chosen tbody tr:visible").count()
        == page.locator(".chosen tbody tr[data-wrapper=HookedTransformer]").count()
    )
    page.goto(f"{address}compare.html")
    page.get_by_role("combobox", name="from").select_option("3.0.0")
    page.get_by_role("combobox", name="model").select_option("zoo-gemma")
    assert "from=3.0.0" in page.url
    assert "model=zoo-gemma" in page.url


def test_the_keyboard_alone_reaches_a_cell_s_history_and_its_chart(page, address):
    page.goto(f"{address}index.html")
    label = "() => document.activeElement.getAttribute('aria-label') || ''"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('[aria-label^=HookedTransformer] .glance') !== null"):
            break
    cells = ("zoo-gemma, HookedTransformer", "zoo-gemma, HookedTransformer 3.0.0: worse in 6 of 18")
    for key, wanted in zip(("ArrowDown", "ArrowRight"), cells, strict=True):
        for _ in range(20):
            if page.evaluate(label).startswith(wanted):
                break
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/history/zoo-gemma.html?commit=3.0.0#float32.*")
    page.locator(".chosen .plot").first.focus()
    page.keyboard.press("ArrowLeft")
    said = page.locator(".chosen .say").inner_text()
    assert said.startswith("2.18.0")
    assert "transformers 4.57.6" in said


def test_a_grid_is_one_tab_stop_and_a_table_that_does_not_scroll_is_none(page, address):
    page.goto(f"{address}index.html")
    stops = page.evaluate(
        "() => [...document.querySelectorAll('.grid')].map((g) => g.querySelectorAll('a:not([tabindex=\"-1\"])').length)"
    )
    assert stops == [1, 1, 1]
    page.goto(f"{address}releases.html")
    page.wait_for_function("document.querySelectorAll('.scroll[tabindex]').length === 0")
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function("document.querySelectorAll('.scroll[tabindex]').length === 1")


def test_under_the_pointer_a_figure_says_all_its_digits(page, address):
    page.goto(f"{address}model/zoo-gemma.html")
    figure = page.locator("data[data-track='accuracy.Logit.track_max']").nth(1)
    figure.hover()
    assert figure.get_attribute("title") == figure.get_attribute("value")
    assert len(figure.get_attribute("title")) > len(figure.inner_text())


def test_printed_folds_are_open_and_colours_light(browser, address):
    context = browser.new_context(viewport={"width": 1000, "height": 900}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{address}costs.html")
    folded = page.locator("details:not([open]) tbody tr").first
    assert not folded.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert folded.evaluate("(row) => row.getBoundingClientRect().height > 0")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    context.close()


def test_what_fails_when_first_measured_is_counted_at_its_release(page, address, results):
    """3.0.0 brought TransformerBridge: none of its failures is a step."""
    stored = raw(results / "results")
    cells = {key[3] for key, value in stored.items() if key[1:3] == ("10b35403", MEAN) and value is None}
    failing = [cell for cell in cells if "TransformerBridge" in cell]
    assert len(failing) == 42
    kind = "failing when first measured"
    page.goto(f"{address}commit/3.0.0.html")
    assert page.evaluate(COUNTS)[kind] == len(failing)
    page.goto(f"{address}compare.html?from=2.18.0&to=3.0.0")
    assert page.evaluate(COUNTS)[kind] == len(failing)
    page.goto(f"{address}steps.html")
    counts = page.locator("#first ~ .scroll tr", has_text="3.0.0").locator("td:nth-child(4)").all_inner_texts()
    assert sum(map(int, counts)) == len(failing)


def test_the_glance_names_everything_that_is_not_right(page, address):
    page.goto(f"{address}index.html")
    cell = page.locator(".glance a[aria-label^='zoo-mixtral, HookedTransformer 2.8.0:']")
    assert cell.get_attribute("aria-label").endswith("2.8.0: broken in 2 of 18; failed in 12 of 18")


def test_a_fault_that_ended_with_its_wrapper_is_never_called_mended(page, address):
    """Gemma is wrong in HookedTransformer from 3.0.0 on, and 4.0.0 has no HookedTransformer."""
    ended = "never mended: HookedTransformer was removed in 4.0.0"
    page.goto(f"{address}index.html")
    heads = page.locator(".glance [scope=colgroup]").all_inner_texts()
    assert heads == ["TransformerBridge", "HookedTransformer removed in 4.0.0"]
    page.goto(f"{address}model/zoo-gemma.html")
    assert ended in page.locator("[aria-label='Wrong versions']").inner_text()
    page.goto(f"{address}history/zoo-gemma.html?commit=3.5.1#float32.fold_ln")
    assert ended in page.locator(".chosen").inner_text().lower().replace("hookedtransformer", "HookedTransformer")
    assert page.evaluate("scrollY") == 0
    page.goto(f"{address}commit/4.0.0.html")
    assert page.evaluate(COUNTS)["no longer applicable"] == 342
    models = page.locator("#no-longer-applicable .of-model").evaluate_all("(all) => all.map((one) => one.dataset.model)")
    assert models == ["zoo-gemma", "zoo-mixtral"]
    assert "zoo-gemma" not in page.locator("#mended").inner_text()


def test_the_first_page_names_what_was_not_compared_and_the_widest_fault_first(page, address):
    page.goto(f"{address}index.html")
    said = page.locator("main").inner_text()
    assert "Only logits are compared: hooks, generation" in said
    assert "were not measured at 4.0.0" in said
    faults = page.locator(".fault .title").all_inner_texts()
    assert faults[:2] == ["Some hooks are accepted and never fire", "logit_attrs leaves the final norm's gain out"]


def test_a_check_shows_its_failures_beside_the_figure_of_the_others(page, address, results):
    stored = raw(results / "results")
    values = {
        key[3]: value
        for key, value in stored.items()
        if key[0] == "xeon-2-cores" and key[2] == "gradients.Gradients.track_error_ratio" and key[1] == "dcde650f"
    }
    hooked = [value for cell, value in values.items() if "HookedTransformer" in cell]
    failed = sum(value is None for value in hooked)
    assert failed
    page.goto(f"{address}gradients.html")
    cell = page.locator("td.check:has(data[data-track='gradients.Gradients.track_error_ratio'])", has_text="failed").first
    assert f"failed {failed} of" in cell.inner_text()
    assert cell.locator("data").count() == 1


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("zoo-gemma.html#float32.unprocessed", "▲ worse in 3.0.0 to 3.5.1 (2.18.0 is right): "),
        ("zoo-gemma.html#float32.unprocessed", ", in the code of 1.15.0 to 1.17.0 and 3.0.0 to 3.9.0."),
        (
            "zoo-mixtral.html#float32.unprocessed",
            "Ended in 3.7.2, which was not measured. Cause: Mixtral does not load with",
        ),
        ("zoo-mixtral.html#float32.unprocessed", "Before that ✕ broken in 1.19.0 to 2.0.0, ✕ broken in 3.0.0."),
    ],
)
def test_a_history_s_first_sentence_has_what_was_right_before_and_everything_wrong_and_follows_the_findings(
    page, address, cell, said
):
    page.goto(f"{address}history/{cell}")
    assert said in page.locator("section:visible p:has(strong)").first.inner_text()


def test_the_list_of_models_and_each_model_s_page_say_first_which_versions_are_wrong(page, address):
    wrong = "▲ worse in 3.0.0 to 3.5.1"
    page.goto(f"{address}models.html")
    assert f"Hooked: {wrong}" in page.locator("tr", has_text="zoo-gemma").first.inner_text()
    page.goto(f"{address}model/zoo-gemma.html")
    assert page.locator(".wrong-at").inner_text().startswith(f"HookedTransformer: {wrong}. ")
    page.goto(f"{address}model/zoo-phi.html")
    assert page.locator(".wrong-at").inner_text().startswith("No measured release is wrong for it.")


def test_the_list_of_releases_names_the_models_that_each_made_worse(page, address):
    page.goto(f"{address}releases.html")
    worse = page.locator("tr", has=page.get_by_role("link", name="3.0.0", exact=True)).locator("td.reason")
    assert "zoo-gemma" in worse.locator("a").all_inner_texts()
    assert page.locator("tr", has=page.get_by_role("link", name="4.3.0", exact=True)).locator("td.reason").inner_text() == ""


def test_a_history_says_the_marked_release_s_verdict_first(page, address):
    page.goto(f"{address}history/zoo-gemma.html?commit=3.0.0#float32.fold_ln")
    assert (
        page.locator(".chosen p:visible")
        .first.inner_text()
        .startswith("3.0.0, HookedTransformer: ▲ worse, mean error 7.03e−5")
    )


def test_a_model_s_page_answers_for_both_wrappers_and_a_comma_is_a_decimal(page, address):
    page.goto(f"{address}model/smollm2-135m.html?effect=1,5&dtype=bfloat16")
    table = "() => [...document.querySelectorAll('.answers tbody .use')].map((use) => use.textContent)"
    assert page.evaluate(table) == ["safe"] * 4 + ["not safe"] * 2
    assert page.locator(".answer").inner_text().startswith("bfloat16: not safe for 1,5 nats; safe from 2.83 nats.")
    page.get_by_role("textbox", name="My effect").fill("0.3")
    assert page.evaluate(table)[2:4] == [
        "safe with fold_ln, all_options only",
        "safe with all_options only",
    ]
    assert page.url.endswith("?effect=0.3&dtype=bfloat16")


def test_the_command_on_the_first_page_follows_its_form(page, address):
    page.goto(f"{address}index.html")
    page.get_by_role("combobox", name="Model").select_option("zoo-gemma")
    page.get_by_role("textbox", name="Effect").fill("0,5")
    page.get_by_role("combobox", name="Dtype").select_option("bfloat16")
    command = page.locator(".effect-form code").inner_text()
    assert command == "tlbench advise zoo-gemma --effect 0.5nats --dtype bfloat16"


def test_in_two_clicks(page, address):
    home = f"{address}index.html"
    page.goto(home)
    page.locator(".findings .title").first.click()
    assert "/finding/" in page.url
    page.goto(home)
    page.locator("#worst-cell").click()
    assert "/history/" in page.url
    page.goto(home)
    page.get_by_role("link", name="smollm2-135m", exact=True).first.click()
    assert "safe from 2.83 nats" in page.locator("#advice").inner_text()
    page.goto(home)
    page.get_by_role("link", name="3.0.0", exact=True).first.click()
    assert "What changed since 2.18.0" in page.locator("main").inner_text()
    page.goto(home)
    page.get_by_role("combobox", name="Dtype").select_option("bfloat16")
    page.get_by_role("button", name="Is it safe?").click()
    page.wait_for_url("**/model/smollm2-135m.html?effect=0.1&dtype=bfloat16")
    assert "bfloat16: not safe for 0.1 nats" in page.locator(".answer").inner_text()


def test_each_real_step_is_listed_once_and_none_under_half_a_bit(page, address):
    page.goto(f"{address}steps.html")
    rows = page.evaluate(
        "() => [...document.querySelectorAll('[data-step]')]"
        ".map((r) => [r.dataset.step, ...[...r.children].map((c) => c.innerText)])"
    )
    found = [(kind, release, model, wrapper) for kind, release, model, _, _, wrapper, *_ in rows]
    assert len(set(found)) == len(found)
    bits = [float(row[3].replace("−", "-")) for row in rows if row[3]]
    assert bits
    assert all(abs(one) >= 0.5 for one in bits)
    assert ("error grew", "3.0.0", "zoo-gemma", "Hooked") in found


def test_it_can_be_read_without_a_script_and_from_a_folder(browser, html):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((html / "history" / "zoo-gemma.html").as_uri() + "#float32.fold_ln")
    assert page.locator("tbody tr:visible").count() > 50
    page.goto((html / "index.html").as_uri())
    said = page.locator("h1").inner_text()
    assert re.fullmatch(
        r"4\.3\.0: no model's logits are worse than in 4\.0\.0; no cell fails; \d+ known faults are open\.", said
    )
    context.close()
    page = browser.new_page()
    bad = []
    page.on("console", lambda message: message.type == "error" and bad.append(message.text))
    page.goto((html / "history" / "zoo-gemma.html").as_uri() + "#float32.fold_ln")
    page.locator(".chosen canvas").first.wait_for()
    page.goto((html / "compare.html").as_uri() + "?from=2.18.0&to=3.0.0")
    assert page.locator("[data-count='error grew']").inner_text() == "10"
    assert not bad
    page.close()


def test_every_page_opens_quietly(page, address, html):
    """What it fails at is told by the page's own fixture."""
    paths = sorted(html.rglob("*.html"))
    assert len(paths) > 100
    for path in paths:
        page.goto(address + path.relative_to(html).as_posix())


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_page_fits_the_screen_and_satisfies_axe(page, address, kind):
    page.goto(address + kind)
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.add_script_tag(content=AXE.read_text())
    for scheme in ("light", "dark") if kind in DARK else ("light",):
        page.emulate_media(color_scheme=scheme)
        only = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}  # in which only colours are others
        found = page.evaluate("(options) => axe.run(document, options)", {**AXE_OPTIONS, **only})["violations"]
        serious = [
            (one["id"], one["nodes"][0]["html"][:150], one["nodes"][0].get("failureSummary", "")[:200])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious, scheme


A_FIGURE = ':is(td:has(data), td:has(.word), td:has(.use), td[class*="w-"], td:has([class*="w-"])):not(.reason)'
SEEN_WITHOUT_SCROLLING = {
    "index.html": ".glance .cell",
    "models.html": "tbody td.num",
    "compare.html?from=2.18.0&to=3.0.0": "td:has(.word)",
    "steps.html": "",
    "hooks.html": "[aria-label$='by model'] td[class*='w-']:nth-child(-n+3)",
    "gradients.html": "[aria-label$='by model'] td[class*='w-']",
    "growth.html": "",
    "costs.html": ".costs td:nth-child(2)",
    "environments.html": "td.other",
    "method.html": "td:last-child",
    "commit/3.0.0.html": "td:has(.word)",
    "commit/4.3.0.html": ".measure",
    "model/zoo-gemma.html": ".use, .advice td:nth-child(3)",
    "model/zoo-gpt-neox.html": ".use, .advice td:nth-child(3)",
    "history/zoo-mixtral.html": ".runs .word, .runs [data-track='accuracy.Logit.track_mean']",
    "finding/gemma-erf-gelu.html": "",
}
"""Of each page what answers its question, beside the first figure or verdict of each row of its tables."""
HIDDEN = """([figure, answers]) => {
  const isShown = (element) => element && element.checkVisibility() && element.getBoundingClientRect().width > 0;
  const firsts = [...document.querySelectorAll("tbody tr")].map((row) => row.querySelector(figure));
  const wanted = [...firsts, ...(answers ? document.querySelectorAll(answers) : [])].filter(isShown);
  const heads = [...document.querySelectorAll("tbody th")].filter(isShown);
  const edge = (scroll) => scroll.getBoundingClientRect().right - (scroll.classList.contains("more") ? 20 : 0);  // it fades
  const right = (one) => {  // of its text
    const range = document.createRange(), walker = document.createTreeWalker(one, NodeFilter.SHOW_TEXT), ends = [0];
    while (walker.nextNode()) {
      range.selectNodeContents(walker.currentNode);
      ends.push(range.getBoundingClientRect().right);
    }
    return Math.max(...ends);
  };
  const isCovered = (one) => {  // by its row's first cell, which stays where it is while the others scroll
    const first = one.closest("tr").cells[0];
    return !first.contains(one) && one.getBoundingClientRect().left < first.getBoundingClientRect().right - 0.5;
  };
  const isBeyond = (one) => right(one) > Math.min(innerWidth, edge(one.closest(".scroll"))) + 0.5;
  const hidden = wanted.filter((one) => isCovered(one) || isBeyond(one));
  const covering = heads.filter((head) => right(head) > head.getBoundingClientRect().right + 0.5);
  return [wanted, hidden, covering].map((cells) => cells.map((one) => `${one.closest("tr").innerText} : ${one.innerText}`));
}"""


@pytest.mark.parametrize(("kind", "answers"), SEEN_WITHOUT_SCROLLING.items())
def test_what_a_page_answers_is_seen_on_a_small_screen_without_scrolling_sideways(page, address, kind, answers):
    page.set_viewport_size({"width": 400, "height": 900})
    page.goto(address + kind)
    wanted, hidden, covering = page.evaluate(HIDDEN, [A_FIGURE, answers])
    assert wanted
    assert not hidden
    assert not covering


@pytest.mark.parametrize("kind", ["index.html", "hooks.html", "growth.html", "model/zoo-gpt-neox.html"])
def test_no_table_is_cut_on_a_large_screen(page, address, kind):
    page.goto(address + kind)
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    assert page.locator(".scroll").count() > 2
    cut = "(all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.ariaLabel)"
    assert not page.locator(".scroll").evaluate_all(cut)


def test_a_long_size_stands_below_its_title_and_a_short_one_beside_it(page, address):
    page.goto(f"{address}findings.html")
    tops = "(item) => ['.what', '.amount'].map((part) => item.querySelector(part).getBoundingClientRect())"
    long, short = (page.locator(".finding", has_text=words).first.evaluate(tops) for words in ("17 times the", "7.5 nats"))
    assert long[1]["top"] >= long[0]["bottom"]
    assert short[1]["top"] == short[0]["top"]


def test_an_unknown_cell_or_commit_in_the_address_is_named(page, address):
    page.goto(f"{address}history/zoo-gemma.html?commit=9.9.9#float64.none")
    said = page.locator(".unknown").inner_text()
    assert "no configuration float64.none" in said
    assert "No measured commit is called 9.9.9" in said
    page.goto(f"{address}models.html?model=<b>x&effect=1")
    assert "No model is called <b>x" in page.locator("main").inner_text()
    page.goto(f"{address}matrix.html?commit=9.9.9")
    assert "9.9.9" in page.locator(".unknown").inner_text()


# Bad input -----------------------------------------------------------------------------------------------------------

HOSTILE = "<script>window.hostile = 1</script>"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Stored.make(tmp_path)


def publish_stored(stored):
    """As `asv publish` does, in this process."""
    site.publish(Config.load(str(stored.folder / "asv.conf.json")), stored.folder / "html")


def page_of(stored, name):
    return (stored.folder / "html" / name).read_text()


def test_releases_that_nobody_measured_are_named_between_the_two_compared(stored):
    for tag in ("v1", "v3"):
        stored.store(tag, {GPT2: 1e-6})
    publish_stored(stored)
    assert "are worse than in 1 (2 was not measured); no cell" in page_of(stored, "index.html")
    stored.store("v2", {GPT2: 1e-6})
    publish_stored(stored)
    assert "was not measured." not in page_of(stored, "index.html")


def test_what_cannot_be_read_is_a_sentence_on_the_page_and_never_a_figure(stored):
    stored.store("v1", {GPT2: 1e-6})
    stored.store("v2", {GPT2: 2e-6})
    folder = stored.folder / "results" / "shared-x86-64"
    (path,) = folder.glob(f"{stored.commits['v2'][:8]}-*.json")
    path.write_text(path.read_text()[:200])
    (folder / "00000000-virtualenv-py3.11.json").write_text('{"version": 2, "other": []}')
    (stored.folder / "results" / "empty-machine").mkdir()
    publish_stored(stored)
    text = page_of(stored, "environments.html")
    assert f"shared-x86-64/{path.name} is not a whole results file" in text
    assert "00000000-virtualenv-py3.11.json is not a whole results file" in text
    assert "3 problems" not in page_of(stored, "index.html")
    assert "2 problems" in page_of(stored, "index.html")
    assert "2e-06" not in page_of(stored, "history/zoo-gpt2.html")


def test_results_of_another_machine_are_no_file_of_this_one(stored):
    stored.store("v1", {GPT2: 1e-6})
    stored.store("v2", {GPT2: 2e-6}, machine="another")
    (path,) = (stored.folder / "results" / "another").glob("*-*.json")
    path.rename(stored.folder / "results" / "shared-x86-64" / path.name)
    publish_stored(stored)
    assert "says that it is of machine &#39;another&#39;" in page_of(stored, "environments.html")


def test_no_results_is_a_sentence(stored):
    publish_stored(stored)
    assert "Nothing was measured yet." in page_of(stored, "index.html")


def test_two_arithmetics_are_never_one_line(stored):
    for tag, machine, probe in (("v1", "shared-x86-64", "aaaaaaaa1"), ("v2", "shared-x86-64-mine", "bbbbbbbb2")):
        stored.store(tag, {GPT2: 1e-6}, machine=machine)
        (path,) = (stored.folder / "results" / machine).glob("*-*.json")
        path.with_suffix(".environments.jsonl").write_text(json.dumps({"probe": probe, "torch": "2"}) + "\n")
    publish_stored(stored)
    history, environments = page_of(stored, "history/zoo-gpt2.html"), page_of(stored, "environments.html")
    assert history.count("data-value") == 0
    assert len(re.findall(r'data-track="accuracy.Logit.track_mean"', history.split('<table class="plain runs"')[1])) == 1
    assert "never drawn as one line" in environments
    assert "probe aaaaaaaa" in environments


def test_the_same_arithmetic_on_two_machines_is_one_line(stored):
    for tag, machine in (("v1", "shared-x86-64"), ("v2", "shared-x86-64-mine")):
        stored.store(tag, {GPT2: 1e-6}, machine=machine)
        (path,) = (stored.folder / "results" / machine).glob("*-*.json")
        path.with_suffix(".environments.jsonl").write_text(json.dumps({"probe": "same", "torch": "2"}) + "\n")
    publish_stored(stored)
    rows = re.findall(
        r'<tr data-first="(\d)" data-last="(\d)".*?data-machine="([\w-]+)"', page_of(stored, "history/zoo-gpt2.html")
    )
    assert rows == [("0", "0", "shared-x86-64"), ("1", "1", "shared-x86-64-mine")]


def test_zero_a_failure_and_what_was_not_run_are_three_things(stored):
    stored.store("v1", {GPT2: 0.0, GPT2_16: None})
    publish_stored(stored)
    text = page_of(stored, "history/zoo-gpt2.html")
    assert '<data value="0.0" data-track="accuracy.Logit.track_mean">0</data>' in text
    assert 'data-verdict="failed"' in text
    assert "history/zoo-llama.html" not in page_of(stored, "index.html")
    assert LLAMA[0] not in page_of(stored, "models.html")


def test_an_infinite_figure_is_shown_as_one(stored):
    stored.store("v1", {GPT2: math.inf})
    stored.store("v2", {GPT2: 1e-6})
    publish_stored(stored)
    assert ">∞</data>" in page_of(stored, "history/zoo-gpt2.html")
    assert "Infinity" not in (stored.folder / "html" / "data" / "cells.js").read_text()


def test_a_renamed_benchmark_and_a_foreign_word_are_named(stored):
    stored.store("v1", {GPT2: 1e-6})
    stored.store("v1", {GPT2: 1.0}, name="exactness.Logit.track_mean")
    (path,) = (stored.folder / "results" / "shared-x86-64").glob("*-*.json")
    path.write_text(path.read_text().replace("'float16'", "'float8'").replace("'zoo-llama ", "'../../zoo-llama "))
    publish_stored(stored)
    text = page_of(stored, "environments.html")
    assert "no page shows exactness.Logit.track_mean" in text
    assert "cells of ../../zoo-llama, float8 are not shown" in text


def test_a_script_in_a_commit_s_subject_or_a_machine_s_name_does_not_run(stored, browser):
    repository = stored.folder / "history.git"
    for tag in ("v1", "v2"):
        stored.store(tag, {GPT2: 1e-6 if tag == "v1" else 1e-3}, machine="a<b>&c")
    for path in (stored.folder / "results").glob("*/*-*.json"):
        commit = stored.commits["v1"] if path.name.startswith(stored.commits["v1"][:8]) else stored.commits["v2"]
        body = subprocess.run(
            ["git", "-C", repository, "cat-file", "commit", commit], capture_output=True, text=True, check=True
        ).stdout
        head = body.split("\n\n", 1)[0]
        made = subprocess.run(
            ["git", "-C", repository, "hash-object", "-t", "commit", "-w", "--stdin"],
            input=f"{head}\n\n{HOSTILE}</script>\n",
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        text = path.read_text().replace(commit, made)
        path.with_name(path.name.replace(commit[:8], made[:8])).write_text(text)
        path.unlink()
    publish_stored(stored)
    server, root = served(stored.folder / "html")
    page = browser.new_page()
    pages = (stored.folder / "html").rglob("*.html")
    for path in sorted(path for path in pages if path.parent.name != "finding"):  # which name no subject and no machine
        page.goto(root + path.relative_to(stored.folder / "html").as_posix())
        assert page.evaluate("window.hostile") is None, path
    page.goto(f"{root}compare.html")
    assert HOSTILE[:30] in page.locator("option").all_inner_texts()[0]
    page.close()
    server.shutdown()


def searched(model, subject, **more):
    """What `tlbench steps --format json` prints of one step, and one of rounding."""
    right, wrong = {"verdict": "benign", "error": 1e-6}, {"verdict": "broken", "error": 2.0}
    moved = {"change": "alarm", "before": right, "after": wrong, "bits": 20.9}
    words = ("float32", "unprocessed", "HookedTransformer")
    cell = dict(zip(("model", "dtype", "option", "wrapper"), (model, *words), strict=True))
    step = {
        "change": "alarm",
        "commits": [{"hash": "c" * 40, "subject": subject, "author": "", "date": "2026-01-02", "pull_request": "12"}],
        "before": "b" * 40,
        "after": "c" * 40,
        "cells": [{**moved, "cell": cell}, {**moved, "cell": cell, "bits": None}],
        "first_wrong": "blocks.0.mlp",
        "environment": [],
        "doubt": "",
        "reproduce": ["tlbench verify"],
    }
    quiet = {**step, "change": "other rounding"}
    found = {"good": "a" * 40, "bad": "d" * 40, "headline": "one step", "commits": 9, "cells": 2, "probes": 4}
    return {**found, "skipped": {"e" * 40: "it does not build"}, "not_measured": {}, "steps": [step, quiet], **more}


def test_steps_found_by_commit_are_shown_and_link_to_models_of_this_site_only(stored, monkeypatch):
    stored.store("v1", {GPT2: 1e-6})
    folder = stored.folder / "docs" / "steps"
    folder.mkdir(parents=True)
    monkeypatch.setattr(site, "docs_folder", lambda: folder.parent)
    (folder / "one.json").write_text(json.dumps(searched("zoo-gpt2", HOSTILE, of_a_later_version=1)))
    (folder / "two.json").write_text(json.dumps(searched("zoo-elsewhere", "a subject")))
    (folder / "two.toml").write_text('cccccccc = "the GELU of `mlp.py` <b>changed</b>"')
    publish_stored(stored)
    text = page_of(stored, "steps.html")
    assert HOSTILE not in text
    assert "&lt;script&gt;window.hostile" in text
    assert 'href="history/zoo-gpt2.html#float32.unprocessed"' in text
    assert "history/zoo-elsewhere" not in text
    assert "zoo-elsewhere float32 unprocessed" in text
    assert "+20.90" in text
    assert text.count("1 step of rounding or environment") == 2
    assert "the GELU of <code>mlp.py</code> &lt;b&gt;changed&lt;/b&gt;" in text
    assert "it does not build" in text
    (folder / "two.toml").write_text('dddddddd = "of no step"')
    with pytest.raises(BadInput, match=r"dddddddd: no step of two\.json has this last commit"):
        publish_stored(stored)
    (folder / "two.json").write_text('{"good": 1}')
    with pytest.raises(BadInput, match=r"two\.json: expected the output of `tlbench steps"):
        publish_stored(stored)


def test_every_stored_step_for_the_worse_is_explained():
    found = {one.name: one for one in ranges.read(ROOT / "docs" / "steps")}
    assert found.keys() == {"main", "dev", "dev-4.x"}
    assert len(found["main"].loud) > 40
    for one in found.values():
        assert not [step.commits[-1].short for step in one.loud if step.change.is_for_the_worse and not one.explained(step)]


def test_an_open_finding_says_since_only_where_that_is_known(tmp_path):
    text = (ROOT / "docs" / "findings" / "silent-hooks.md").read_text()
    path = tmp_path / "one.md"
    path.write_text(text)
    assert findings.read(tmp_path)[0].versions == "since 3.0.0"
    path.write_text(re.sub("^before.*\n", "", text, flags=re.M))
    assert findings.read(tmp_path)[0].versions == "seen in 3.0.0, earlier unknown"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.77e-05, "1.77e−5"),
        (0.000581, "0.000581"),
        (12.94, "12.9"),
        (3020323.58, "3.02e6"),
        (32.0, "32"),
        (-0.5, "−0.5"),
    ],
)
def test_figures_have_three_digits(value, text):
    assert words.spelled(value) == text


def test_figures_are_written_alike_by_python_and_by_the_script(page, address):
    values = [
        0.0,
        1.0,
        1.5,
        999.6,
        1234.5,
        99999.5,
        1e5 + 0.5,
        0.000123456,
        0.0000999,
        9.999e-5,
        1e-4,
        5.6e-7,
        32.0,
        123456.0,
        2.5e9,
    ]
    page.goto(f"{address}matrix.html")
    source = (ROOT / "tlbench" / "site" / "static" / "site.js").read_text()
    function = re.search(r"const spelled = \(value\) => \{.*?\n  \};", source, re.S)[0]
    assert page.evaluate(f"(values) => {{ {function} return values.map(spelled); }}", values) == [
        words.spelled(v) for v in values
    ]


def test_findings_md_lists_every_finding():
    assert faults() in (ROOT / "docs" / "findings.md").read_text()


def test_a_finding_s_size_in_words_is_for_what_no_stored_figure_shows(tmp_path):
    text = (ROOT / "docs" / "findings" / "empty-cache-transformers-5-24.md").read_text()
    path = tmp_path / "one.md"
    path.write_text(text)
    assert findings.read(tmp_path)[0].extent == "4 to 9 nats"
    size = '[[size]]\ntrack = "a"\ncell = "b"\ncommit = "c"\n+++\nIt'
    path.write_text(text.replace("+++\ntransformers", f"{size} is transformers"))
    with pytest.raises(BadInput, match="extent"):
        findings.read(tmp_path)


# The watch, and the registry -----------------------------------------------------------------------------------------


def test_the_first_page_says_that_the_watch_has_been_silent_for_too_long(page, address):
    page.goto(f"{address}index.html")
    assert page.locator(".silent").is_visible()
    assert "silent for more than 36 hours" in page.locator(".silent").inner_text()
    link = page.locator("a", has_text="zoo-gpt2: alarm <b>&</b>")
    assert link.get_attribute("href") == NEWS["open"][0]["url"]
    assert page.get_by_text("The watch could not do everything: the webhook did not take it (502)").is_visible()
    page.clock.install(time="2026-01-01T20:00:00Z")
    page.goto(f"{address}index.html")
    assert page.locator(".silent").is_hidden()


def test_numerics_json_follows_its_schema_and_has_the_stored_figures(html, results):
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--schemafile",
        html / "numerics.schema.json",
        html / "numerics.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    numerics = json.loads((html / "numerics.json").read_text())
    assert (numerics["tl_version"], numerics["tl_commit"][:8]) == ("4.3.0", "281d0a89")
    means = defaultdict(set)
    for (_, commit, track, cell), value in raw(results / "results").items():
        if (commit, track) == ("281d0a89", MEAN):
            means[cell].add(value)
    checked = 0
    for entry in numerics["entries"]:
        assert (html / entry["link"].split("#")[0]).is_file()
        cell = in_any_order(f"{entry['measured_model']} {entry['wrapper']} {entry['dtype']} {entry['option']}")
        if entry["mean_nats"] is not None:
            assert entry["mean_nats"] in means[cell]
            checked += 1
    assert checked > 100
    by_model = {entry["measured_model"]: entry["architecture_id"] for entry in numerics["entries"]}
    assert (by_model["zoo-gpt2"], by_model["zoo-llama"]) == ("GPT2LMHeadModel", "LlamaForCausalLM")


VALIDATE = """
import shutil, sys
from pathlib import Path
from transformer_lens.tools.model_registry import validate
data = Path(sys.argv[1])
shutil.copytree(Path(validate.__file__).parent / "data", data, dirs_exist_ok=True)
found = validate.validate_data_directory(data)
assert found and all(result.valid for result in found.values()), found
print(len(found))
"""


def test_transformer_lens_s_own_validator_accepts_numerics_json_beside_its_registry(html, tmp_path):
    shutil.copy(html / "numerics.json", tmp_path)
    command = [lens_environment("4.3.0").python, "-c", VALIDATE, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == 3
