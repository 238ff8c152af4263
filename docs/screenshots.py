"""Take the pictures of docs/app.md in a browser: `python docs/screenshots.py --lora outputs/quickstart/<time>`.

With `--out <folder>` every tab goes there, at desktop and at phone width, light and dark.
"""

import argparse
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from seg4diff.app.server import served
from seg4diff.data.toyworld.scenes import make_scene

WIDTHS = {"desktop": (1200, 800), "phone": (390, 800)}
DOCS = {"segment-desktop-light": "app", "generate-desktop-dark": "app-generate", "compare-desktop-light": "app-compare"}
DOCS |= {"segment-phone-dark": "app-phone"}
"""Screenshots that docs/app.md shows, and their names in docs/images."""


def fill(window: Page, picture: Path) -> None:
    """Use every tab once."""
    window.locator("#picture input[type=file]").set_input_files(picture)
    for word in ("flower", "traffic cone", "brick", "grass"):
        window.get_by_label("Words", exact=True).fill(word)
        window.keyboard.press("Enter")
    window.get_by_label("Words", exact=True).blur()
    window.locator("#legend").get_by_text("grass").wait_for()
    window.get_by_role("tab", name="Generate").click()
    window.locator("#prompt textarea").fill("a flower on grass")
    window.locator("#generate").click()
    window.get_by_text("seed 1, LoRA x 1").wait_for()
    window.locator("#generated-view input:not([disabled])").first.wait_for()
    window.locator("#generated-view").get_by_text("flower").click()
    window.locator("#strip img").first.wait_for()
    window.get_by_role("tab", name="Blocks").click()
    window.locator("#every-block").click()
    window.get_by_text("block 7").wait_for()
    window.get_by_role("tab", name="Compare").click()
    window.locator("#right-lora input").uncheck()
    window.locator("#compare").click()
    window.locator("#differs img").wait_for()


def screenshots(url: str, picture: Path) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures of every tab."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page()
        window.set_default_timeout(300_000)
        window.goto(url)
        fill(window, picture)
        for width, (columns, rows) in WIDTHS.items():
            window.set_viewport_size({"width": columns, "height": rows})
            for scheme in ("light", "dark"):
                window.evaluate(f"document.body.classList.toggle('dark', {'true' if scheme == 'dark' else 'false'})")
                for tab in ("Segment", "Generate", "Blocks", "Compare"):
                    window.get_by_role("tab", name=tab).click()
                    window.wait_for_timeout(1000)
                    image = Image.open(BytesIO(window.screenshot(full_page=True)))
                    yield f"{tab.lower()}-{width}-{scheme}", image.convert("RGB")


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lora", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, served({"lora": arguments.lora}, port=0) as page:
        picture = Path(folder) / "photo.png"
        Image.fromarray(make_scene(0, "test", 33, 384).image).save(picture)
        for name, image in screenshots(page.local_url, picture):
            if arguments.out:
                arguments.out.mkdir(parents=True, exist_ok=True)
                image.save(arguments.out / f"{name}.png")
            if name in DOCS:
                image.quantize(256, kmeans=1).save(Path(__file__).parent / "images" / f"{DOCS[name]}.png", optimize=True)


if __name__ == "__main__":
    main()
