"""The published site: which steps it lists, and that no page shows a figure that is in no result file."""

import functools
import http.server
import json
import re
import shutil
import threading
from types import SimpleNamespace

import pytest
from asv.plugins.regressions import _GraphDataFilter
from asv.step_detect import detect_regressions
from asv.util import UserError, load_json

from asv_plugins.site import patch_scripts
from tests.stored import GPT2, GPT2_16, MEAN, ROOT, Stored

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
RECORD = """
window.labels = [];
const draw = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, ...rest) {
  const width = this.measureText(text).width;
  window.labels.push([text, this.textAlign === "right" ? x - width : x]);
  return draw.call(this, text, x, ...rest);
};
"""
BEFORE, AFTER = 1.6123456e-6, 1.7654321e-6


@pytest.mark.parametrize("folder", [ROOT, ROOT / "releases"])
def test_the_list_of_regressions_is_of_the_mean_alone_and_from_half_a_bit(folder):
    settings = load_json(str(folder / "asv.conf.json"), js_comments=True)
    conf = SimpleNamespace(**{key: settings[key] for key in ("regressions_first_commits", "regressions_thresholds")})
    rules = _GraphDataFilter(conf, None, {"commit": 0})
    graph = SimpleNamespace(params={"branch": "main"})
    benchmarks = load_json(str(ROOT / "releases" / "results" / "benchmarks.json"), api_version=2)
    names = [f"{name}('zoo-gpt2', 'float32')" for name in benchmarks]
    listed = [name for name in names if rules._get_start_revision(graph, {}, name) is not None]
    assert listed == [f"{MEAN}('zoo-gpt2', 'float32')"]
    threshold = rules._get_threshold(graph, {}, listed[0])
    for bits, is_listed in ((0.3, False), (0.5, True), (1, True)):
        steps = [(0, 1, 1e-6, 1e-6, 0), (1, 2, 1e-6 * 2**bits, 1e-6 * 2**bits, 0)]
        assert bool(detect_regressions(steps, threshold)[2]) is is_listed


def test_scripts_that_are_not_as_expected_are_refused(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "index.js").write_text("size:64,values:")
    with pytest.raises(UserError, match="would show figures that nobody measured"):
        patch_scripts(tmp_path)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The site of two commits: one small figure in float32 and a large one in float16, on two machines."""
    stored = Stored.make(tmp_path_factory.mktemp("site"))
    for tag, figure in (("v1", BEFORE), ("v2", AFTER)):
        stored.store(tag, {GPT2: figure, GPT2_16: 1.0})
        stored.store(tag, {GPT2: 3e-6}, machine="another")
    stored.asv("publish", "--no-pull")
    return stored.folder / "html"


@pytest.fixture(scope="module")
def page(html):
    """Open an address of the site in a browser that records what is drawn."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(html))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        def opened(hash_):
            new = browser.new_page(viewport={"width": 1400, "height": 1000})
            new.add_init_script(RECORD)
            new.goto(f"http://127.0.0.1:{server.server_port}/#{hash_}", wait_until="networkidle")
            return new

        yield opened
        browser.close()
    server.shutdown()


@pytest.mark.slow
def test_a_small_figure_s_axis_is_shown_whole(page):
    opened = page(f"view=explore&bench={MEAN}&params=0")
    opened.locator("canvas").first.wait_for(timeout=20_000)
    labels = [(text, left) for text, left in opened.evaluate("window.labels") if text.endswith(" nats")]
    assert labels
    assert all(left >= 0 for _, left in labels), labels
    figures = {float(text.removesuffix(" nats")) for text, _ in labels}
    assert 1.5e-6 < min(figures) < max(figures) < 1.9e-6


@pytest.mark.slow
@pytest.mark.parametrize("hash_", ["", "view=overview", "view=compare", "view=heatmap", f"view=explore&bench={MEAN}"])
def test_no_page_shows_the_mean_of_all_cells(page, hash_):
    text = page(hash_).locator("body").inner_text()
    assert "Explore" in text
    for view in ("Overview", "Heatmap", "Multiples", "Compare"):
        assert view not in text
    means = {(figure + 1.0) / 2 for figure in (BEFORE, AFTER)}
    shown = {float(number) for number in re.findall(r"\d+\.?\d*(?:e-?\d+)?(?= nats)", text)}
    assert not [number for number in shown for mean in means if abs(number / mean - 1) < 1e-3]


def test_graphs_have_the_figures_of_the_result_files(html):
    (path,) = html.glob(f"graphs/**/machine-shared-x86-64/**/{MEAN}.json")
    assert [values[0] for _, values in json.loads(path.read_text())] == [BEFORE, AFTER]
