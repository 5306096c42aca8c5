"""The page in a real browser: live progress, a dropped file, the keyboard, and no scripts at all."""

import threading
from pathlib import Path

import pytest

from mithridate.service.worker.worker_loop import JobWorker
from tests.service.conftest import FAKE, Server, make_parts, new_key, upload

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}")
    parts = make_parts(tmp_path_factory.mktemp("browser") / "service")
    server = Server(parts)
    worker = JobWorker(parts, FAKE)
    thread = threading.Thread(target=worker.work, daemon=True)
    thread.start()
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield server, chromium
        chromium.close()
    worker.stop.set()
    thread.join(10)
    server.close()


def opened(house, **given):
    """A window in which a person has signed in, with the keyboard alone, and what went wrong in it."""
    server, chromium = house
    window = chromium.new_context(base_url=server.url, **given).new_page()
    faults = []
    window.on("pageerror", lambda error: faults.append(str(error)))
    window.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    window.on(
        "request", lambda asked: None if asked.url.startswith((server.url, "data:")) else faults.append(asked.url)
    )
    window.goto("/")
    window.wait_for_selector("#key:focus")  # without a click
    window.keyboard.type(new_key(server.parts))
    window.keyboard.press("Enter")
    window.wait_for_selector("h1:has-text('Jobs')")
    return window, faults


DROP = """([name, text]) => {
  const form = document.querySelector("[data-drop]"), data = new DataTransfer();
  data.items.add(new File([text], name));
  form.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


def test_a_file_is_dropped_and_its_job_watched(house):
    window, faults = opened(house)
    window.goto("/files")
    window.evaluate(DROP, ["<img src=x onerror=alert(1)>.jsonl", upload("steps150").decode()])
    window.click("main button:has-text('Upload')")
    window.wait_for_url("**/files/file-*")
    assert window.locator("h1").inner_text() == "<img src=x onerror=alert(1)>.jsonl"
    window.click("text=Make a job of it")
    window.fill("#suffix", "watched")
    window.click("text=Make the job")
    # Nothing is reloaded by hand from here on.
    window.wait_for_selector("#progress", timeout=20000)
    window.wait_for_selector(".state .badge.succeeded", timeout=30000)
    assert "ft:miniature:local:watched:" in window.locator("#decision").inner_text()
    assert "Released: as tuned" in window.locator("#decision").inner_text()
    assert "succeeded" in window.title()
    assert faults == []


def test_losses_grow_while_the_job_runs_and_the_open_table_stays_open(house):
    window, faults = opened(house)
    window.goto("/files")
    window.evaluate(DROP, ["rows.jsonl", upload("steps400").decode()])
    window.click("main button:has-text('Upload')")
    window.wait_for_url("**/files/file-*")
    window.click("text=Make a job of it")
    window.click("text=Make the job")
    window.wait_for_selector("#losses svg polyline.train", timeout=20000)
    window.click("#losses summary")
    window.click("h1")  # the focus is elsewhere, so that the table is replaced as it grows
    rows = window.locator("#losses tbody tr")
    rows.nth(rows.count()).wait_for(state="visible", timeout=20000)
    assert window.locator("#losses details").evaluate("one => one.open")
    window.click("text=Cancel for good")
    assert faults == []


def test_without_scripts_everything_but_live_updates_works(house):
    window, faults = opened(house, java_script_enabled=False)
    window.goto("/files")
    content = upload() + b"not json\n"
    window.set_input_files("#file", {"name": "rows.jsonl", "mimeType": "text/plain", "buffer": content})
    window.click("main button:has-text('Upload')")
    assert window.locator("caption").inner_text() == "Rows at fault: 1"
    assert window.locator("tbody th").first.inner_text() == "13"
    assert faults == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(house):
    window, faults = opened(house)
    window.goto("/files")
    reached = []
    for _ in range(12):
        window.keyboard.press("Tab")
        reached.append(window.evaluate("document.activeElement.innerText || document.activeElement.id"))
    assert reached[0] == "Skip to content"
    for wanted in ("Jobs", "Files", "Sign out", "file", "Upload"):
        assert wanted in reached
    assert window.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert faults == []


CONTRAST = """() => {
  const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim())) continue;
    const [one, other] = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
    if ((one + 0.05) / (other + 0.05) < 4.5) poor.push(`${node.className} ${node.textContent.trim().slice(0, 40)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(house, scheme):
    window, _ = opened(house, color_scheme=scheme)
    for place in ("/", "/files", "/jobs/new", "/jobs/ftjob-none"):
        window.goto(place)
        assert window.evaluate(CONTRAST) == []
