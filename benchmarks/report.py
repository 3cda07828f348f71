"""How long a report with a page for every feature takes to write, and to open in a browser.

    python benchmarks/report.py [--latents 16384] [--keep FOLDER]

The tables are invented (tests/report/many_features.py): four members, five contexts of 19 tokens per latent. The
page is opened from disk by a headless Chromium, five times in a fresh tab; the median is printed, and beside it
that of the same page without any feature: what is left is what the features cost.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))

import chromium
from made_up import made_up_run
from many_features import many_features

from heredity.report import write_report

OPENED = 5


def main() -> None:
    """Write, open, search, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--keep", type=Path, help="write the run here and leave it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        run = many_features(folder / "many", options.latents)
        start = time.perf_counter()
        page = write_report(run)
        written = time.perf_counter() - start
        files = list((page.parent / "features").iterdir())
        plain = write_report(made_up_run(folder / "none"))
        size = sum(file.stat().st_size for file in files)
        print(f"{4 * options.latents:,} latents, {len(files):,} files, {size / 1e6:.0f} MB")
        print(f"index {(page.parent / 'features' / 'index.js').stat().st_size / 1e6:.1f} MB")
        print(f"page {page.stat().st_size / 1e6:.1f} MB, written in {written:.1f} s")
        if chromium.found() is None:
            print("no chromium or chrome on the PATH: not opened")
            return
        with chromium.tab() as tab:
            for name, file in (("with", page), ("without", plain)):
                times = [_open(tab, file) for _ in range(OPENED)]
                loaded, drawn = (statistics.median(part) for part in zip(*times, strict=True))
                print(
                    f"opened {name} features: {loaded:.2f} s until it can be read, {drawn:.2f} s until all is drawn"
                )
            _open(tab, page)
            shown = _until(tab, "kin", "scrollIntoView")
            print(f"list loaded and first feature shown {shown:.2f} s after scrolling to it")
            print(f"a search over all latents: {_search(tab) * 1000:.0f} ms")


def _open(tab: chromium.Tab, file: Path) -> tuple[float, float]:
    """Return the seconds until the page's load event, and until its last plot is drawn."""
    start = time.perf_counter()
    tab.open(file, width=1300)
    drawn = time.perf_counter() - start
    return float(tab.value("performance.getEntriesByType('navigation')[0].loadEventEnd")) / 1000, drawn


def _until(tab: chromium.Tab, what: str, how: str) -> float:
    start = time.perf_counter()
    tab.value(f"document.getElementById('browse').{how}()")
    tab.value(f"""new Promise((done) => {{ const wait = () =>
        document.querySelector('#feature .{what}') ? done(true) : setTimeout(wait, 10); wait(); }})""")
    return time.perf_counter() - start


def _search(tab: chromium.Tab) -> float:
    return float(
        tab.value("""(async () => { const f = document.querySelector('.find'); f.text.value = 'word123';
        const start = performance.now(); f.dispatchEvent(new Event('input')); await Promise.resolve();
        await new Promise((done) => setTimeout(done)); return (performance.now() - start) / 1000; })()""")
    )


if __name__ == "__main__":
    main()
