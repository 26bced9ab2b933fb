"""Open pages of the built book in Chromium with the network off, and report what it shows.

A page of our own, served beside the book, loads each page into a frame of the wanted width, waits until it is quiet,
and posts what it measured back to the server. No browser driver is needed.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HARNESS = """<!doctype html><body style="margin:0"><iframe style="border:0;height:900px"></iframe><script>
const { pages, width, theme } = %s;
const frame = document.querySelector("iframe");
frame.style.width = width + "px";
localStorage.setItem("mode", theme);
localStorage.setItem("theme", theme);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const clear = (colour) => colour === "transparent" || /, 0\\)$/.test(colour);
const measure = async (page) => {
  await new Promise((done) => { frame.onload = done; frame.src = "/" + page; });
  const win = frame.contentWindow, doc = frame.contentDocument;
  const formulas = doc.querySelectorAll(".math").length;
  const drawn = () => doc.querySelectorAll("mjx-container").length;
  for (let i = 0; i < 60 && drawn() < formulas; i++) await pause(100);
  await pause(400);
  const figures = [...doc.querySelectorAll(".plotly-graph-div")];
  const root = doc.documentElement;
  return {
    page, formulas, typeset: drawn(), theme: root.dataset.theme,
    width: root.scrollWidth, frame: root.clientWidth,
    figures: figures.length, plotted: figures.filter((f) => f.querySelector(".main-svg")).length,
    too_wide: figures.filter((f) => [...f.querySelectorAll(".main-svg")].some((svg) => {
      const room = f.closest(".cell_output").getBoundingClientRect();
      return svg.getBoundingClientRect().right > Math.min(room.right, root.clientWidth) + 1;
    })).length,
    boxed: figures.filter((f) => !clear(win.getComputedStyle(f.closest(".text_html") || f).backgroundColor)).length,
    words: doc.querySelectorAll(".lens-tokens button").length,
    loaded: win.performance.getEntriesByType("resource").map((e) => e.name),
  };
};
(async () => {
  const results = [];
  for (const page of pages) {
    try { results.push(await measure(page)); } catch (error) { results.push({ page, error: String(error) }); }
  }
  await fetch("/__results", { method: "POST", body: JSON.stringify(results) });
})();
</script></body>"""


def find() -> str | None:
    """The browser's command, or None. `COURSE_BROWSER` names one."""
    named = os.environ.get("COURSE_BROWSER")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


def look(
    html: Path, pages: list[str], profile: Path, width: int = 390, theme: str = "light", timeout: float = 150
) -> list[dict[str, Any]]:
    """What the browser shows of each page at a width and in a theme.

    Raises:
        TimeoutError: if no report came in time.
    """
    browser = find()
    assert browser, "no Chromium found"
    done, results = threading.Event(), []
    harness = HARNESS % json.dumps({"pages": pages, "width": width, "theme": theme})

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            if self.path != "/__harness":
                return super().do_GET()
            body = harness.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            results.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
        "--window-size=1400,1000",
        "--remote-debugging-port=0",
        f"http://127.0.0.1:{server.server_address[1]}/__harness",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not done.wait(timeout):
            raise TimeoutError(f"{browser} reported nothing within {timeout} s")
    finally:
        process.terminate()
        process.wait(timeout=20)
        server.shutdown()
        server.server_close()
    return results
