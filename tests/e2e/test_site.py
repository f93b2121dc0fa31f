"""The published site in a real browser, without network."""

import functools
import http.server
import json
import os
import shutil
import threading

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CELL = "accuracy.Logit.track_max"
MEAN = "accuracy.Logit.track_mean"


@pytest.fixture(scope="module")
def site(project):
    """The folder that `asv publish` wrote."""
    project.asv("publish", "--no-pull")
    return project.folder / "html"


@pytest.fixture(scope="module")
def address(site):
    """The site, served on loopback."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_every_error_is_lower_is_better(site):
    benchmarks = json.loads((site / "index.json").read_text())["benchmarks"]
    assert CELL in benchmarks
    assert all(benchmark["less_is_better"] for benchmark in benchmarks.values())


def test_asv_s_regressions_list_the_planted_fault(site):
    regressions = json.loads((site / "regressions.json").read_text())["regressions"]
    assert any(entry[0].startswith(f"{MEAN}('zoo-gpt2', 'float32', 'unprocessed'") for entry in regressions)
    assert not any("zoo-llama" in entry[0] for entry in regressions)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1400, 400])
def test_the_history_of_a_cell_is_seen_without_a_request_to_anywhere_else(address, width, tmp_path):
    from playwright.sync_api import sync_playwright

    requests, failures = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("request", lambda request: requests.append(request.url))
        page.on("requestfailed", lambda request: failures.append(request.url))
        page.on("response", lambda response: response.status >= 400 and failures.append(response.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(f"{address}/#view=explore&bench={CELL}", wait_until="networkidle")
        page.get_by_text(
            "model='zoo-gpt2', dtype='float32', option='unprocessed', wrapper='HookedTransformer'"
        ).first.wait_for()
        chart = page.locator("canvas").first
        chart.wait_for(timeout=20_000)
        top = chart.bounding_box()["y"]
        assert top < 2 * 900 if width > 1000 else top < 4 * 900
        pictures = os.environ.get("TLBENCH_PICTURES", str(tmp_path))
        page.screenshot(path=f"{pictures}/site-{width}.png")
        browser.close()
    assert not [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert not failures
