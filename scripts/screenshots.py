"""Take the pictures of the console for the documentation, of the platform that runs here: docs/images/console*.png.

It needs Chromium on PATH; the pictures are nicest after a quarter of an hour with traffic.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, sync_playwright

from fraudscale.config import LocalSettings
from fraudscale.local import running

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"
FLAGS: Final = ("--headless", "--no-sandbox", "--disable-gpu")
PICTURES: Final[dict[str, dict[str, Any]]] = {
    "console.png": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "light"},
    "console-dark.png": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "dark"},
    "console-phone.png": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
}
PANELS: Final = "console-panels.png"
"""The desktop's page, all of it."""


def take(browser: Browser, address: str, folder: Path) -> None:
    """Take each picture once everything on it was asked for and drawn."""
    for name, look in PICTURES.items():
        page = browser.new_page(**look)
        page.goto(address)
        page.wait_for_selector("body[data-asked]")
        page.wait_for_timeout(1500)  # charts that came into view just now
        page.screenshot(path=folder / name)
        if name == "console.png":
            _whole(page, folder / PANELS)
        page.close()


def _whole(page: Any, path: Path) -> None:
    """Make the window as high as the page, so that every chart is in view."""
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": 1280, "height": height})
    page.wait_for_timeout(7000)
    page.screenshot(path=path)


def main() -> int:
    chromium = shutil.which("chromium")
    status = running.examine(LocalSettings.read().fraudscale_home)
    address = next((c.address for c in status.components if c.name == "console"), None)
    if chromium is None or address is None:
        print("needs Chromium on PATH (apt-get install chromium) and a running platform (make up)")
        return 1
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS])
        take(browser, address, folder)
        browser.close()
    print("\n".join(str(folder / name) for name in (*PICTURES, PANELS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
