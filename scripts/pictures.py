"""Makes the README's pictures of the report page, light and dark, from the demo's own page.

Needs the packages playwright and pillow, and Chromium.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
WIDTH, MOST_HEIGHT = 1180, 1_000
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
MOST_BYTES = 150_000


def photograph(browser: Browser, page_file: Path, scheme: Literal["light", "dark"]) -> bytes:
    """The top of the page, down to the end of the teachers, as WebP."""
    size: ViewportSize = {"width": WIDTH, "height": MOST_HEIGHT}
    page = browser.new_page(viewport=size, device_scale_factor=1.5, color_scheme=scheme)
    page.goto(page_file.resolve().as_uri())
    page.wait_for_timeout(500)
    box = page.locator("#teachers").bounding_box()
    height = min(MOST_HEIGHT, box["y"] + box["height"]) if box else MOST_HEIGHT
    shot = page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
    page.close()
    picture = io.BytesIO()
    Image.open(io.BytesIO(shot)).convert("RGB").save(picture, "WEBP", lossless=True, method=6)
    return picture.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=ROOT / ".demo" / "report.html")
    parser.add_argument("--output", type=Path, default=ROOT / "cards" / "pictures")
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        parser.error(f"{arguments.page} does not exist: scripts/demo.sh writes it")

    arguments.output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as running:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=root)
        for scheme in SCHEMES:
            picture = photograph(browser, arguments.page, scheme)
            if len(picture) > MOST_BYTES:
                raise ValueError(f"the {scheme} picture has {len(picture):,} bytes; the README takes {MOST_BYTES:,}")
            file = arguments.output / f"page_{scheme}.webp"
            file.write_bytes(picture)
            print(f"{file}: {len(picture):,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
