"""The pages in a real browser: headless Chromium, where the machine has it and its driver.

HFVISION_SCREENSHOTS=FOLDER keeps a picture of each page.
"""

import io
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from hfvision.data.digits import load_digit_scenes
from hfvision.hub import pulls, repositories
from hfvision.hub.commits import AddFile
from tests.hub.publishing import caller_of, png, publish, publish_starter

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
By = pytest.importorskip("selenium.webdriver.common.by").By
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
WebDriverException = pytest.importorskip("selenium.common.exceptions").WebDriverException
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium with its driver on this machine", allow_module_level=True)

SECONDS = 90
PAGES = {
    "home": ("/", "Models and datasets on this hub"),
    "models": ("/models", "Filters"),
    "model": ("/me/seen", "Try it with an image"),
    "files": ("/me/seen/tree/main", "model.safetensors"),
    "file": ("/me/seen/blob/main/config.json", "SegformerForSemanticSegmentation"),
    "history": ("/me/seen/commits/main", "Add files"),
    "commit": ("/me/seen/commit/main", "added"),
    "compare": ("/me/seen/compare", "model_type"),
    "dataset": ("/datasets/me/seen-data", "First images"),
    "viewer": ("/datasets/me/seen-data/viewer", "2 images"),
    "try": ("/me/seen/try", "choose it, drop it here, or paste it"),
    "login": ("/login", "With one of your tokens"),
    "missing": ("/me/absent", "Repository not found"),
    "pulls": ("/me/seen/discussions", "Say where the scenes come from"),
    "pull": ("/me/seen/discussions/1", "2 files changed"),
    "gated": ("/me/seen-gated", "Sign in to ask for access"),
    "rich-card": ("/me/seen-rich", "Not for flying"),
}
OWN_PAGES = {  # of who is signed in
    "own-account": ("/me", "seen-gated"),
    "own-pull": ("/me/seen/discussions/1", "Comment"),
    "settings": ("/me/seen-gated/settings", "To confirm, type me/seen-gated"),
    "tokens": ("/settings/tokens", "this session"),
}
RICH = """---
license: other
license_link: LICENSE
---
<h1 align="center">Roofs</h1>
<p align="center"><img src="roof.png" width="120" alt="A roof"></p>

> [!WARNING]
> Not for flying.

- [x] trained
- [ ] tried at night

| Data | Top-1 |
|:-----|------:|
| day | 91.2 |

```python
print("a line that is much wider than the screen of a telephone, so that it has to be scrolled", flush=True)
```
<details><summary>More</summary>

inside

</details>
"""


@pytest.fixture(scope="module")
def published(server):
    publish_starter(server.hub, "segformer-digit-scenes", "me/seen")
    publish(server.hub, "me/seen-data", {"a/1.png": png(), "b/2.png": png(colour=(0, 200, 0))}, "dataset")
    publish(server.hub, "me/seen-rich", {"README.md": RICH, "roof.png": png(64, 48), "LICENSE": "Ask."})
    publish(server.hub, "me/seen-gated", {"README.md": "# Ask first"})
    me, you = caller_of(server.hub), caller_of(server.hub, "you")
    repositories.update_settings(server.hub, me, "model", "me/seen-gated", gated="manual")
    seen = repositories.find(server.hub, me, "model", "me/seen")
    files = [AddFile("README.md", b"# Scenes\nMade by a program.\n"), AddFile("notes.md", b"Notes\n")]
    pulls.propose(
        server.hub, you, seen, "main", files, "Say where the scenes come from", "- [x] checked\n\n**Please** read"
    )


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(SECONDS)
    yield driver
    driver.quit()


def waiting(browser):
    """For what a page will show. While it replaces another, the driver may fail over what is gone: ask again."""
    return WebDriverWait(browser, SECONDS, ignored_exceptions=[WebDriverException])


def complaints(browser):
    """What the browser's console says: refused resources, script errors."""
    return [row["message"] for row in browser.get_log("browser") if "404 (Not Found)" not in row["message"]]


@pytest.fixture
def signed_in(server, browser):
    browser.get(server.endpoint + "/login")
    browser.find_element(By.ID, "token").send_keys(server.tokens["me"] + webdriver.Keys.ENTER)
    waiting(browser).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, ".who button"))
    yield
    browser.delete_all_cookies()


def check(browser, name, address, words):
    """The page has its words, a style, every image, and no reason to complain."""
    browser.get(address)
    assert words in browser.find_element(By.TAG_NAME, "body").text
    picture = browser.get_screenshot_as_png()
    if folder := os.environ.get("HFVISION_SCREENSHOTS"):
        Path(folder, f"{name}.png").write_bytes(picture)
    shown = Image.open(io.BytesIO(picture)).convert("L")
    assert len(set(shown.resize((200, 150)).tobytes())) > 10  # more than an empty sheet
    assert browser.execute_script("return getComputedStyle(document.querySelector('main')).maxWidth") != "none"
    broken = "i => i.getAttribute('src') && i.loading != 'lazy' && !i.naturalWidth"
    assert browser.execute_script(f"return [...document.images].filter({broken}).length") == 0
    assert complaints(browser) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_its_content_without_a_complaint(server, published, browser, name):
    path, words = PAGES[name]
    check(browser, name, server.endpoint + path, words)


def test_pages_of_who_is_signed_in_show_their_content(server, published, browser, signed_in):
    for name, (path, words) in OWN_PAGES.items():
        check(browser, name, server.endpoint + path, words)


def test_pages_fit_a_phone(server, published, browser, signed_in):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for path, _ in (*PAGES.values(), *OWN_PAGES.values()):
            browser.get(server.endpoint + path)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360, path
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_pages_are_dark_where_the_reader_wants_it(server, published, browser):
    grounds = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(server.endpoint + "/me/seen")
        grounds.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    light, dark = (sum(map(int, ground[4:-1].split(","))) for ground in grounds)
    assert light > 700 and dark < 120


def test_everything_is_reached_by_keyboard(server, published, browser):
    browser.get(server.endpoint + "/me/seen")
    reached = []
    for _ in range(14):
        browser.switch_to.active_element.send_keys(webdriver.Keys.TAB)
        reached.append(browser.switch_to.active_element.text)
    assert reached[0] == "Skip to content"
    assert set(reached) >= {"hfvision hub", "Models", "Datasets", "Sign in", "Card", "Files", "History", "Try it"}
    browser.get(server.endpoint + "/models")
    search = browser.find_element(By.ID, "search")
    search.send_keys("seen" + webdriver.Keys.ENTER)
    waiting(browser).until(lambda driver: "search=seen" in driver.current_url)
    assert "seen" in browser.find_element(By.TAG_NAME, "main").text


def test_a_pull_request_is_answered_and_merged_by_keyboard_alone(server, published, browser, signed_in):
    repo = publish(server.hub, "me/typed", {"a.txt": "a"})
    you = caller_of(server.hub, "you")
    pulls.propose(server.hub, you, repo, "main", [AddFile("a.txt", b"b")], "Better")
    browser.get(server.endpoint + "/me/typed/discussions/1")
    keys, reached = webdriver.Keys, []
    while "Comment" not in reached:
        browser.switch_to.active_element.send_keys(keys.TAB)
        here = browser.switch_to.active_element
        reached.append(here.accessible_name)
        assert len(reached) < 40, reached
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) != "none"  # readers see where they are
    here.send_keys("Thank *you*")
    while browser.switch_to.active_element.accessible_name != "Merge into main":
        browser.switch_to.active_element.send_keys(keys.TAB)
    browser.switch_to.active_element.send_keys(keys.ENTER)
    waiting(browser).until(lambda driver: "merged this" in driver.find_element(By.TAG_NAME, "main").text)
    assert browser.find_element(By.CSS_SELECTOR, "article.said em").text == "you"
    assert pulls.find_pull(server.hub, repo, 1).status == "merged" and complaints(browser) == []


def test_an_image_that_is_dropped_is_answered_in_colours(server, published, browser, tmp_path):
    file = tmp_path / "scene.png"
    load_digit_scenes(train=1, validation=3)["validation"][2]["image"].save(file)
    browser.get(server.endpoint + "/me/seen/try")
    browser.find_element(By.ID, "image").send_keys(str(file))
    waiting(browser).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "section.answer"))
    answer = browser.find_element(By.CSS_SELECTOR, "section.answer")
    assert "digit 3" in answer.text and "Share of the image" in answer.text
    width = "return document.querySelector('.answer img').naturalWidth"
    waiting(browser).until(lambda driver: driver.execute_script(width) > 90)
    if folder := os.environ.get("HFVISION_SCREENSHOTS"):
        Path(folder, "answer.png").write_bytes(browser.get_screenshot_as_png())
    assert complaints(browser) == []


def test_a_hostile_card_does_nothing(server, browser):
    run = "document.title='run'"
    card = f'# Trap\n<script>{run}</script><img src=x onerror="{run}"><style>body{{display:none}}</style>'
    publish(server.hub, "me/trap", {"README.md": card, "page.html": f"<script>{run}</script>"})
    for path in ("/me/trap", "/me/trap/blob/main/page.html"):
        browser.get(server.endpoint + path)
        assert browser.title != "run" and browser.find_element(By.TAG_NAME, "main").is_displayed()
    browser.get_log("browser")


def test_signing_in_and_out(server, browser):
    publish(server.hub, "me/own", {"README.md": "# Mine alone"}, private=True)
    browser.get(server.endpoint + "/me/own")
    browser.find_element(By.CSS_SELECTOR, "main a[href*=login]").click()
    browser.find_element(By.ID, "token").send_keys(server.tokens["me"] + webdriver.Keys.ENTER)
    waiting(browser).until(lambda driver: driver.current_url.endswith("/me/own"))
    assert "Mine alone" in browser.find_element(By.TAG_NAME, "main").text
    browser.find_element(By.CSS_SELECTOR, ".who button").click()
    waiting(browser).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, ".who a[href*=login]"))
    browser.get(server.endpoint + "/me/own")
    assert "Mine alone" not in browser.find_element(By.TAG_NAME, "main").text
    browser.get_log("browser")
