"""Run the platform, ask it the README's question, and draw what the terminal showed: docs/images/up.svg."""

import io
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from fraudscale.config import LocalSettings
from fraudscale.local.banner import EXAMPLE
from fraudscale.local.install.ports import Ports
from fraudscale.scoring.codec import encode_transaction

PICTURE = Path(__file__).parent.parent / "docs/images/up.svg"
WIDTH = 122
LINES_OF_TRAFFIC = 6
UP_SECONDS = 300
# The library's own format loads fonts from the network; a picture in a repository should not.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def run_platform() -> tuple[list[str], str]:
    """Start the platform, let some traffic flow, ask, stop: the lines of its terminal, and the answer."""
    ports = Ports.of(LocalSettings.read())
    up = subprocess.Popen(
        [sys.executable, "-m", "fraudscale.cli", "up"],
        stdout=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    lines: list[str] = []
    deadline = time.monotonic() + UP_SECONDS
    try:
        for line in up.stdout or ():
            lines.append(line.rstrip())
            if (
                sum("scored" in seen for seen in lines) >= LINES_OF_TRAFFIC // 2 + 1
                or time.monotonic() > deadline
            ):
                break
        answer = ask(ports.entry)
    finally:
        up.terminate()
        up.communicate(timeout=60)
    return lines, answer


def ask(port: int) -> str:
    command = ["curl", "-s", f"http://127.0.0.1:{port}/predict", "-H", "content-type: application/json"]
    done = subprocess.run(
        [*command, "-d", encode_transaction(EXAMPLE).decode()],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


def draw(lines: list[str], answer: str) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print("[bold green]$[/] make up")
    for line in lines:
        console.print(
            line, soft_wrap=False, overflow="ellipsis", no_wrap="scored" not in line and "try it" not in line
        )
    console.print(
        "\n[bold green]$[/] curl -s http://127.0.0.1:8000/predict …   [dim]the line above, in another terminal[/]"
    )
    console.print_json(answer)
    return console.export_svg(title="fraudscale", theme=MONOKAI, code_format=SVG, unique_id="up")


def main() -> None:
    lines, answer = run_platform()
    PICTURE.write_text(draw(lines, answer))
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    main()
