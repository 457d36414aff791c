"""The console in a browser: what it shows is what Prometheus and the platform say at that moment.

`make test-full` runs them, and says so where Chromium is missing.
"""

import json
import os
import shutil
from urllib.parse import parse_qs, urlencode

import pytest

from dashboards import DASHBOARD, PANELS, filled

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.slow  # a browser beside a whole platform

GLANCE = [panel for panel in PANELS if panel["type"] == "stat"]
CHARTS = [panel for panel in PANELS if panel["type"] == "timeseries"]


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    if os.environ.get("WITHOUT_BROWSER"):
        pytest.skip("WITHOUT_BROWSER is set: install Chromium and unset it")
    assert CHROMIUM, "needs Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        # Without a profile of its own it would be the user's; Playwright makes a new one.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, platform):
    """`open_page(**look)` → the page, once it has asked; at the end nothing was complained of."""
    pages, complaints = [], []

    def open_(path="/", **look):
        page = browser.new_page(**look)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        pages.append(page)
        page.goto(address(platform) + path)
        page.wait_for_selector("body[data-asked]")
        return page

    open_.complaints = complaints
    yield open_
    for page in pages:
        page.close()
    assert complaints == []


def address(platform):
    return f"http://127.0.0.1:{platform.ports.console}"


def asked_again(page):
    """Wait for the next round of questions."""
    before = page.get_attribute("body", "data-asked")
    page.wait_for_function("before => document.body.dataset.asked !== before", arg=before)


@pytest.mark.parametrize("panel", GLANCE, ids=lambda panel: panel["title"])
def test_a_figure_is_prometheuss_at_the_moment_that_it_says(platform, open_page, panel):
    page = open_page()

    def agree():
        shown = page.evaluate(
            "title => ({...document.querySelector(`.tile[data-title='${title}']`).dataset})", panel["title"]
        )
        asked = urlencode({"query": filled(panel["targets"][0]["expr"]), "time": shown["time"]})
        _, answer = platform.ask("GET", f"/api/v1/query?{asked}", port=platform.ports.prometheus)
        if not answer["data"]["result"]:
            return False
        (series,) = answer["data"]["result"]
        if panel["options"]["textMode"] == "name":
            return shown["value"] == series["metric"]["version"]
        return float(shown["value"]) == float(series["value"][1])

    # Rates need a few scrapes; and one may reach Prometheus between the two questions: then the next round agrees.
    platform.wait(agree, f"{panel['title']} is what Prometheus says")


def test_replicas_model_and_verdict_are_those_of_the_platform(platform, open_page):
    page = open_page()
    status = platform.status()
    slots = page.locator("#replicas .slot[data-state=ready]")
    assert slots.count() == sum(replica["state"] == "ready" for replica in status["replicas"])
    assert f"Version {status['model']['version']}" in page.inner_text("#model")
    assert "Why: " in page.inner_text("#replicas")
    components = page.locator("#components li").all_inner_texts()
    assert [text.split()[0] for text in components] == [
        component["name"] for component in status["components"]
    ]
    page.wait_for_function("() => document.querySelector('#status').dataset.tone === 'good'", timeout=60_000)
    assert page.inner_text("#verdict") == "All is well"
    assert page.title().startswith("All is well")


def test_every_panel_of_the_dashboard_is_drawn_with_its_last_values(platform, open_page):
    page = open_page(viewport={"width": 1280, "height": 9000})  # all in view
    page.wait_for_function(
        "wanted => document.querySelectorAll('.panel canvas').length === wanted", arg=len(CHARTS)
    )
    titles = page.locator(".panel h3").all_inner_texts()
    assert titles == [panel["title"] for panel in CHARTS]
    assert (
        page.locator(".row > h2").all_inner_texts()[:-1]
        == [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"][1:]
    )

    def empty():
        return page.evaluate(
            "[...document.querySelectorAll('.panel')].filter(p => !p.querySelector('.legend b')?.textContent).map(p => p.dataset.title)"
        )

    platform.wait(lambda: not empty(), "each has a value: rates need a few scrapes")


def test_a_line_ends_with_prometheuss_value(platform, open_page):
    page = open_page(viewport={"width": 1280, "height": 9000})
    panel = page.locator(".panel[data-title='Processes that answer']")
    panel.locator(".legend b").first.wait_for()
    told = dict(text.split() for text in panel.locator(".legend li").all_inner_texts())
    found = platform.query('sum by (container) (up{job="ml-model"})')
    assert told == {series["metric"]["container"]: series["value"][1] for series in found}


ALERT = {
    "labels": {"alertname": "HighErrorRate", "severity": "critical", "service": "ml-model"},
    "annotations": {
        "summary": "<img src=x onerror=alert(1)> fail",
        "runbook_url": "file:///docs/runbooks/HighErrorRate.md",
    },
    "state": "firing",
    "activeAt": "2026-01-01T00:00:00Z",
}


def answer_with(page, pattern, body, status=200):
    page.route(
        pattern,
        lambda route: route.fulfill(status=status, content_type="application/json", body=json.dumps(body)),
    )


def test_an_alert_that_fires_is_the_verdict_and_its_text_stays_text(open_page):
    page = open_page()
    answer_with(page, "**/api/v1/alerts", {"data": {"alerts": [ALERT]}})
    asked_again(page)
    assert page.get_attribute("#status", "data-tone") == "bad"
    assert page.inner_text("#verdict") == ALERT["annotations"]["summary"]
    (link,) = page.locator("#alerts a").all()
    assert link.get_attribute("href") == "/docs/runbooks/HighErrorRate.md"
    assert page.locator("img").count() == 0
    assert "watchdog does not fire" in page.inner_text("#alerts")


def test_a_part_that_is_not_ready_is_the_verdict_unless_something_critical_fires(platform, open_page):
    page = open_page()
    _, overview = platform.ask("GET", "/api/overview", port=platform.ports.console)
    overview["ready"] = False
    overview["components"][0]["state"] = "restarting"
    answer_with(page, "**/api/overview", overview)
    answer_with(page, "**/api/v1/alerts", {"data": {"alerts": []}})
    asked_again(page)
    assert page.inner_text("#verdict") == f"{overview['components'][0]['name']} is restarting"
    assert page.get_attribute("#status", "data-tone") == "warn"
    answer_with(page, "**/api/v1/alerts", {"data": {"alerts": [ALERT]}})
    asked_again(page)
    assert page.inner_text("#verdict") == ALERT["annotations"]["summary"]


def test_without_rules_nothing_is_called_well(open_page):
    page = open_page()
    answer_with(page, "**/api/v1/alerts", {"data": {"alerts": []}})
    asked_again(page)
    assert page.inner_text("#verdict") == "No alert rules are evaluated"
    assert page.get_attribute("#status", "data-tone") == "warn"


def test_the_alerts_of_prometheus_are_listed(platform, open_page):
    page = open_page()
    _, answer = platform.ask("GET", "/api/v1/alerts", port=platform.ports.prometheus)
    named = {alert["labels"]["alertname"] for alert in answer["data"]["alerts"]}
    assert "Watchdog" in named
    shown = page.eval_on_selector_all("#alerts li", "all => all.map(item => item.dataset.alert)")
    assert set(shown) <= named - {"Watchdog"}
    assert "the watchdog fires" in page.inner_text("#alerts")


def test_a_prometheus_that_is_gone_is_said_and_what_else_is_known_is_shown(open_page):
    page = open_page()
    answer_with(page, "**/api/v1/**", {"detail": "Prometheus does not answer at …"}, status=502)
    asked_again(page)
    assert page.inner_text("#verdict") == "Prometheus does not answer"
    assert page.get_attribute("#status", "data-tone") == "bad"
    assert page.locator("#replicas .slot[data-state=ready]").count() >= 4
    page.unroute("**/api/v1/**")
    page.wait_for_function("() => document.querySelector('#status').dataset.tone === 'good'", timeout=60_000)
    open_page.complaints[:] = [text for text in open_page.complaints if "502" not in text]


def test_a_change_of_scale_is_on_the_time_line(open_page):
    page = open_page()

    def scaled(route):
        form = {name: values[0] for name, values in parse_qs(route.request.post_data).items()}
        found = []
        if form["query"].startswith("count_values"):
            at = float(form["end"]) - 20 * float(form["step"])
            found = [{"metric": {"replicas": "5"}, "values": [[at, "1"]]}]
        route.fulfill(content_type="application/json", body=json.dumps({"data": {"result": found}}))

    page.route("**/api/v1/query_range", scaled)
    asked_again(page)
    assert "Scaled to 5 replicas" in page.inner_text("#changes")
    assert page.locator("#changes .lane .mark").count() == 1
    assert "5 min ago" in page.inner_text("#changes")


def test_keys_choose_the_time_pause_and_help(open_page):
    page = open_page()
    page.keyboard.press("3")
    assert page.inner_text("#ranges [aria-pressed=true]") == "1h"
    assert page.url.endswith("#1h")
    page.keyboard.press("?")
    assert page.locator("#help").get_attribute("open") is not None
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.wait_for_function("() => document.querySelector('#asked').textContent.startsWith('paused')")


def test_all_that_can_be_pressed_is_reached_by_tab_and_shows_it(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the panels"
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert {"5m", "15m", "1h", "6h", "24h", "?"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(open_page, scheme):
    page = open_page(color_scheme=scheme, viewport={"width": 1280, "height": 9000})
    faint = page.evaluate(CONTRASTS)
    assert faint == []


CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = rgb(text).slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((rgb(colour)[3] ?? 1) > 0) return colour;
    }
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) && element.checkVisibility() && !element.closest("script, .skip"));
  return texts.map((element) => {
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    return [element.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5);
}"""
"""WCAG's contrast of each text, below AA."""


def test_it_fits_a_phone(open_page):
    page = open_page(viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    cut_off = page.evaluate(
        "[...document.querySelectorAll('main *, header *')].filter(e => e.checkVisibility() && e.getBoundingClientRect().right > 360).map(e => e.outerHTML.slice(0, 80))"
    )
    assert cut_off == []
    narrow = page.evaluate(
        "[...document.querySelectorAll('#ranges button')].map(b => b.getBoundingClientRect().height)"
    )
    assert min(narrow) >= 30


def test_what_is_vendored_and_inline_obeys_the_policy(platform, open_page):
    page = open_page()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran") is None
    open_page.complaints[:] = [text for text in open_page.complaints if "Content Security Policy" not in text]
