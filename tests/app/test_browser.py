"""The page in a browser: what a person drops, types, clicks and sees."""

import json
import shutil

import numpy as np
import pytest
from tests.app.pictures import ODD

from seg4diff.commands.segment import segment_files

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine: apt-get install chromium")
WORDS = ["apple", "traffic cone", "grass"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


class Person:
    """Somebody before the page."""

    def __init__(self, window):
        self.window, self.at = window, window.locator

    def drop(self, file):
        self.at("#picture input[type=file]").set_input_files(file)

    def say(self, *words):
        for word in words:
            self.window.get_by_label("Words", exact=True).fill(word)
            self.window.keyboard.press("Enter")
        self.window.get_by_label("Words", exact=True).blur()  # the list of words closes, and covers nothing

    def see(self, text):
        self.window.get_by_text(text).first.wait_for()

    def open(self, tab):
        self.window.get_by_role("tab", name=tab).click()

    def watch(self, act):
        """The shown picture after it has changed."""
        before = self.at("#shown img").get_attribute("src")
        act()
        self.window.wait_for_function("src => document.querySelector('#shown img').src != src", arg=before)
        return self.at("#shown img").get_attribute("src")

    def download(self, button):
        with self.window.expect_download() as coming:
            self.at(button).click()
        return coming.value.path()


@pytest.fixture(scope="module")
def arrive(browser, page):
    """Opens a new window on the page; in the end none of them may have asked another host."""
    asked = []

    def arrive():
        window = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True).new_page()
        window.set_default_timeout(60_000)
        window.on("request", lambda request: asked.append(request.url))
        window.goto(page.local_url)
        return Person(window)

    yield arrive
    assert all(url.startswith((page.local_url, "data:", "blob:")) for url in asked)


@pytest.fixture(scope="module")
def person(arrive, photo):
    """Somebody who has dropped a picture and typed words, the same for several tests."""
    person = arrive()
    person.drop(photo)
    person.say(*WORDS)
    person.at("#legend").get_by_text("grass").wait_for()
    return person


def test_words_change_the_masks_and_the_label_map_is_that_of_the_command(arrive, photo, load_options, tmp_path):
    person = arrive()
    person.drop(photo)
    person.at("#shown img").wait_for()
    person.watch(lambda: person.say(*WORDS))
    person.at("#legend").get_by_text("grass").wait_for()
    segment_files(photo, WORDS, out=tmp_path / "out", load_options=load_options)
    assert person.download("#labels").read_bytes() == (tmp_path / "out" / "labels" / "photo.png").read_bytes()


def test_block_lora_and_reader_change_what_is_shown(person):
    person.open("Segment")
    block = person.window.get_by_label("range slider for Block").first
    changes = [lambda: block.press("ArrowRight"), lambda: person.at("#segment-lora input").uncheck(), lambda: choose(person, "t2i")]
    assert len({person.watch(change) for change in changes}) == 3


def choose(person, reader):
    person.at("#segment-reader input").click()
    person.window.get_by_role("option", name=reader).click()


def test_a_word_has_a_map_and_a_pixel_has_words(person):
    person.open("Segment")
    person.watch(lambda: person.at("#view").get_by_text("apple").click())
    person.at("#shown img").click()
    person.at("#pixel").get_by_text("traffic cone").first.wait_for()


def test_a_word_of_the_legend_has_a_map_while_it_is_pointed_at(person):
    person.open("Segment")
    chosen = person.at("#shown img").get_attribute("src")
    pointed = person.watch(lambda: person.at("#legend").get_by_text("traffic cone").hover())
    left = person.watch(lambda: person.window.mouse.move(0, 0))
    assert pointed != chosen == left


def test_files_are_made_when_they_are_asked_for(person, photo, tmp_path):
    person.open("Segment")
    found = json.loads(person.download("#coco").read_bytes())
    assert {own["name"] for own in found["categories"]} == set(WORDS) and found["images"][0]["file_name"] == photo.name
    shutil.unpack_archive(person.download("#archive"), tmp_path, "zip")
    with np.load(tmp_path / "maps.npz") as maps:
        assert set(maps) == {"labels", "map_0", "map_1", "map_2"} and maps["map_0"].shape == maps["labels"].shape


def test_images_are_generated_and_a_word_has_a_strip(person):
    person.open("Generate")
    person.at("#prompt textarea").fill("a fish on water")
    person.at("#steps input[type=number]").fill("2")
    person.at("#generate").click()
    person.see("seed 1, LoRA x 1")
    person.at("#generated-view").get_by_text("fish").click()
    person.at("#strip").get_by_text("fish over the steps").wait_for()
    assert person.at("#strip img").count() == 4 * 2, "two seeds with and without the LoRA, two steps"


def test_a_long_job_is_stopped(person):
    person.open("Generate")
    person.at("#prompt textarea").fill("a fish on water")
    person.at("#seeds input, #seeds textarea").first.fill("4-7")
    person.at("#steps input[type=number]").fill("40")
    person.at("#generate").click()
    person.see("seed 4, base")
    person.at("#stop").click()
    person.at("#seeds input, #seeds textarea").first.fill("9")
    person.at("#steps input[type=number]").fill("1")
    met = set()
    for _ in range(400):
        if "seed 9, LoRA x 1" in met:
            break
        person.at("#generate").click()  # it waits for what is being drawn
        person.window.wait_for_timeout(300)
        met |= set(person.at("#images .caption-label").all_inner_texts())
    assert "seed 9, LoRA x 1" in met and not [caption for caption in met if "seed 7" in caption]


def test_every_block_and_two_ways_to_read(person):
    person.open("Blocks")
    person.at("#every-block").click()
    person.see("block 3")
    person.open("Compare")
    person.at("#right-lora input").uncheck()
    person.at("#compare").click()
    person.see("of the pixels have another label")
    assert person.at("#agreement tr").count() == 1 + len(WORDS)


def test_odd_pictures_are_shown(arrive, tmp_path):
    person = arrive()
    for name in ODD.keys() - {"named wrongly.txt"}:  # a browser offers pictures alone
        picture, options = ODD[name]
        picture.save(tmp_path / name, **options)
        person.window.reload()
        person.drop(tmp_path / name)
        person.at("#shown img").wait_for()


def test_what_goes_wrong_is_one_sentence(arrive, tmp_path):
    for name, content in {"text": b"no picture", "short": b"\x89PNG\r\n\x1a\n"}.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        person = arrive()
        person.drop(tmp_path / f"{name}.png")
        person.see(f"The image {name}.png cannot be read")
    person.open("Generate")
    person.at("#generate").click()
    person.see("There is no prompt: say what to draw")


def test_a_phone_needs_no_scrolling_to_the_side(person):
    person.window.set_viewport_size({"width": 390, "height": 844})
    for tab in ("Segment", "Generate", "Blocks", "Compare"):
        person.open(tab)
        assert person.window.evaluate("document.documentElement.scrollWidth") <= 390
