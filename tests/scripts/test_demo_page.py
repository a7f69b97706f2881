"""The page that shows trained models, in a browser without a window.

It needs Gradio, Selenium (the extra `browser-tests`), and Debian's packages chromium and chromium-driver.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from demo_models import PROMPT, SOURCE, write_models

pytest.importorskip("gradio", reason="the extra `demo` has Gradio")
pytest.importorskip("matplotlib")
selenium = pytest.importorskip("selenium", reason="the extra `browser-tests` has Selenium")

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from papers_to_gpt.demonstration import serving  # noqa: E402
from papers_to_gpt.visualization import models  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver of Debian are not installed"),
]

FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --window-size=1280,1000
""".split()
PATIENCE = 120  # seconds, for machines with much other work


def free_port():
    with serving.listen("127.0.0.1", 0) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A process that serves the page of tiny models: its address, its folder and the process."""
    folder = tmp_path_factory.mktemp("runs")
    write_models(folder)
    port = free_port()
    command = [sys.executable, "-m", "papers_to_gpt", "demo", "--models_dir", str(folder), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--max_input_tokens", "12"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = process.stdout.readline()
    assert re.match(rf"7 models at http://127.0.0.1:{port} ", first), first + process.stderr.read()
    yield f"http://127.0.0.1:{port}", folder, process
    if process.poll() is None:
        process.kill()


@contextmanager
def open_page(address, tmp_path, name="user"):
    """Opens the page in a browser of its own, and yields what uses it."""
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / name}"]:
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.set_page_load_timeout(PATIENCE)
        driver.get(address)
        page = Page(driver)
        page.wait(lambda: page.picture("alignment"))
        yield page
    finally:
        driver.quit()


class Page:
    """What a user does on the page and sees of it."""

    def __init__(self, driver):
        self.driver = driver

    def wait(self, condition):
        return WebDriverWait(
            self.driver, PATIENCE, 0.2, ignored_exceptions=[StaleElementReferenceException, IndexError]
        ).until(lambda _: condition())

    def find(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)[0]

    def value(self, name):
        return self.find(f"#{name} textarea").get_property("value")

    def text(self, name):
        return self.find(f"#{name}").text

    def picture(self, name):
        found = self.driver.find_elements(By.CSS_SELECTOR, f"#{name} img")
        return found[0].get_attribute("src") if found else None

    def type(self, name, text):
        field = self.find(f"#{name} textarea")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)

    def click(self, name):
        self.driver.execute_script("arguments[0].click()", self.find(f"#{name}"))

    def open_tab(self, label):
        self.wait(lambda: [tab for tab in self.tabs() if tab.text.strip() == label])[0].click()

    def tabs(self):
        return self.driver.find_elements(By.CSS_SELECTOR, "button[role=tab]")

    def message(self):
        """Waits for a message, and closes it."""
        message = self.wait(lambda: self.find(".toast-body").text)
        self.driver.execute_script("document.querySelectorAll('.toast-close').forEach(button => button.click())")
        self.wait(lambda: not self.driver.find_elements(By.CSS_SELECTOR, ".toast-body"))
        return message

    def hosts(self):
        """Returns the hosts that the page has sent requests to."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [
            entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"
        ]
        return {urlsplit(url).netloc for url in sent if urlsplit(url).scheme in ("http", "https", "ws", "wss")}


def translation_of(folder, kind, sentence):
    return models.translation_of(models.load(str(folder / kind)), sentence)


def test_typing_translates_and_changes_the_picture_and_wrong_inputs_are_answered(server, tmp_path):
    address, folder, _ = server
    with open_page(address, tmp_path) as page:
        assert [tab.text for tab in page.tabs()] == ["Translate", "Compare translators", "Continue text", "Classify"]
        before = page.picture("alignment")
        page.type("sentence", SOURCE)
        page.wait(lambda: page.value("translation") == translation_of(folder, "bahdanau", SOURCE))
        page.wait(lambda: page.picture("alignment") not in (None, before))
        assert "Translated in" in page.text("translation-note")
        assert "under Apache 2.0" in page.find(".about").text

        page.type("sentence", "two " * 13)  # refused beside the text while it is typed, and by a message on request
        page.wait(lambda: "has 13 tokens. At most 12 are read" in page.text("translation-note"))
        assert (page.value("translation"), page.picture("alignment")) == ("", None)
        page.click("translate")
        assert "has 13 tokens. At most 12 are read; shorten it." in page.message()
        page.type("sentence", "")
        page.wait(lambda: page.text("translation-note") == "")
        page.click("translate")
        assert "The sentence is empty. Type at least a word." in page.message()
        assert "Traceback" not in page.driver.page_source
        assert page.hosts() == {urlsplit(address).netloc}


def test_models_are_compared_text_grows_and_texts_are_classified(server, tmp_path):
    address, folder, _ = server
    with open_page(address, tmp_path) as page:
        page.open_tab("Compare translators")
        page.type("compared-sentence", SOURCE)
        page.click("compare")
        page.wait(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#comparison tbody tr")) == 3)
        for kind in ("bahdanau", "rnn_seq2seq", "transformer"):
            assert f"{translation_of(folder, kind, SOURCE)} " in page.text("comparison")

        page.open_tab("Continue text")
        page.type("prompt", PROMPT)
        # A sampled token may end the text at once; the most probable ones do not.
        page.find("#temperature input[type=number]").send_keys(Keys.CONTROL, "a")
        page.find("#temperature input[type=number]").send_keys("0", Keys.TAB)
        page.click("continue")
        lengths = {page.wait(lambda: len(page.value("text"))) for _ in range(3)}
        page.wait(
            lambda: "The chosen length is reached" in page.text("text-note") or "ended" in page.text("text-note")
        )
        lengths.add(len(page.value("text")))
        assert len(lengths) > 1 and page.value("text").startswith(PROMPT)
        assert page.wait(lambda: page.picture("probabilities"))
        assert "%" in page.text("next-tokens")

        page.open_tab("Classify")
        page.type("text-0", "word5")
        page.click("classify")
        assert "The text 'second' is empty" in page.message()
        page.type("text-1", "word6 word7")
        page.click("classify")
        assert page.wait(lambda: page.text("prediction")) in ("bad", "good", "fair")
        assert page.hosts() == {urlsplit(address).netloc}


def test_two_users_at_the_same_time_get_their_own_translations(server, tmp_path):
    address, folder, _ = server
    sentences = {"first": "dogs two run run", "second": "run dogs"}
    with open_page(address, tmp_path, "first") as first, open_page(address, tmp_path, "second") as second:
        pages = {"first": first, "second": second}
        before = {user: page.picture("alignment") for user, page in pages.items()}
        for user, page in pages.items():
            page.type("sentence", sentences[user])
        for page in pages.values():
            page.click("translate")
        for user, page in pages.items():
            expected = translation_of(folder, "bahdanau", sentences[user])
            page.wait(lambda page=page, expected=expected: page.value("translation") == expected)
            page.wait(lambda page=page, user=user: page.picture("alignment") not in (None, before[user]))
        assert first.picture("alignment") != second.picture("alignment")


def test_a_second_page_on_the_same_port_is_refused_and_ctrl_c_ends_the_first(server):
    address, folder, process = server
    port = str(urlsplit(address).port)
    second = subprocess.run(
        [sys.executable, "-m", "papers_to_gpt", "demo", "--models_dir", str(folder), "--port", port],
        capture_output=True,
        text=True,
    )
    assert second.returncode == 2 and f"error: port is {port}, which another program uses" in second.stderr
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    # Errors of users are no errors of the server.
    assert "Traceback" not in errors and errors.rstrip().endswith("Interrupted.")
