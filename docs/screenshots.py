"""Take the screenshots of README and docs: TensorBoard and the report of a run, in headless Chromium.

    python docs/screenshots.py                  # a short study first: about two minutes on 2 CPU cores
    python docs/screenshots.py --run runs/RUN   # of a run that was evaluated

Needs Chromium or Chrome on the PATH (Debian: `apt-get install chromium`). Pictures go to docs/images/.
"""

import argparse
import contextlib
import io
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
STUDY = ["--steps", "40000", "--seeds", "32"]
WAIT = 90  # seconds until TensorBoard has read a run, and for a page to be drawn
COLOURS = 255  # of a saved picture

PAGES = {
    "tensorboard": ("", (1500, 1000)),
    "tensorboard-custom-scalars": ("#custom_scalars", (1500, 760)),
    "tensorboard-hparams": ("#hparams", (1500, 560)),
}
"""Name of the picture, the tab of TensorBoard, and the size of the window."""


def main() -> None:
    """Run the study where none is given, and take all pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="folder of an evaluated run (default: a short study)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    args = parser.parse_args()

    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        parser.error(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    if args.run is not None and not (args.run / "evaluation.json").is_file():
        parser.error(f"{args.run} has no evaluation.json: python train_agent.py --evaluate {args.run}")

    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = args.run.resolve() if args.run else study(Path(folder))
        with tensorboard(run) as address:
            for name, (tab, size) in PAGES.items():
                shoot(browser, f"{address}/{tab}", size, args.out / f"{name}.png")
        page = report(run, Path(folder))
        shoot(browser, page.as_uri(), (1280, 900), args.out / "report.png")
        shoot(browser, page.as_uri(), (412, 900), args.out / "report-phone-dark.png", dark=True)


def study(folder: Path) -> Path:
    """A short run of the main job; its folder."""
    command = [sys.executable, str(ROOT / "train_agent.py"), *STUDY, "--out", str(folder / "runs")]
    subprocess.run(command, cwd=ROOT, check=True)
    (run,) = (folder / "runs").iterdir()
    return run


def report(run: Path, folder: Path) -> Path:
    """The report of a run, beside which nothing is changed."""
    copy = shutil.copytree(run, folder / run.name, dirs_exist_ok=True)
    command = [sys.executable, str(ROOT / "train_agent.py"), "--report", str(copy)]
    subprocess.run(command, cwd=ROOT, check=True)
    return copy / "report.html"


@contextlib.contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """TensorBoard of a run; gives its address once the evaluation was read."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", run.name, "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=run.parent, **quiet)
    address = f"http://localhost:{port}"
    try:
        wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    """Wait until TensorBoard lists the sub-runs of the evaluation."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/data/runs") as answer:
            if any(name.startswith("evaluation") for name in json.load(answer)):
                time.sleep(2)  # until every sub-run is read
                return
        time.sleep(0.5)
    raise SystemExit(f"TensorBoard at {address} showed no evaluation within {WAIT} s")


def shoot(browser: str, address: str, size: tuple[int, int], path: Path, *, dark: bool = False) -> None:
    """Save a picture of a page."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}",
            "--virtual-time-budget=25000", f"--screenshot={raw}", address,
        ]  # fmt: skip
        if dark:
            command.insert(1, "--blink-settings=preferredColorScheme=0")
        subprocess.run(
            command, check=True, timeout=WAIT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        small = io.BytesIO()
        Image.open(raw).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
    path.write_bytes(small.getvalue())
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
