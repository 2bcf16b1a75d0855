"""The comparison and its page: facts, charts, images; and both kinds of pages in a real browser."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
from dataclasses import replace
from html import unescape
from urllib.parse import urlsplit

import pytest
from scipy.stats import binomtest

from components.evaluation.report import PAGE, load_report
from components.registry.comparison import (
    Entry,
    Pair,
    compare_pair,
    differing_settings,
    images_apart,
    to_values,
)
from components.registry.comparison_page import explain_pair, write_comparison
from components.registry.models import Version

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def entries(hardened):
    """The three models as if they had been registered."""
    return [
        Entry(
            version=Version(
                name="digits",
                number=str(number),
                aliases=("champion",) if name == "strong" else (),
                created=0,
                run_id="",
                tags={"verdict": f"verdict on {name}"},
            ),
            evaluation=load_report(hardened / name / "report"),
            provenance={"stage": name},
            recipe={"training.epochs": str(number), "training.seed": "0"},
        )
        for number, name in enumerate(("strong", "weak", "concealed"), start=1)
    ]


def outcomes(entry):
    samples = entry.evaluation[1]
    return dict(zip(samples["id"].to_pylist(), samples["robust"].to_pylist(), strict=True))


def test_pairs_against_counting_by_hand(entries):
    first, second = outcomes(entries[0]), outcomes(entries[1])
    better = sum(second[id] > first[id] for id in first)
    worse = sum(second[id] < first[id] for id in first)
    pair = compare_pair(entries[1], entries[0])
    assert (pair.better, pair.worse) == (better, worse)
    assert pair.p_value == pytest.approx(binomtest(better, better + worse).pvalue)
    assert pair.gain == pytest.approx((better - worse) / len(first))
    back = compare_pair(entries[0], entries[1])
    assert (back.better, back.worse, back.p_value) == (worse, better, pair.p_value)
    apart = {id: by_first for id, _, by_first in images_apart(entries[1], entries[0])}
    assert apart == {id: first[id] == 1 for id in first if first[id] != second[id]}


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 5), (7, 2), (2, 7), (90, 61)])
def test_a_pair_in_words(better, worse):
    p_value = binomtest(better, better + worse).pvalue if better + worse else 1.0
    pair = Pair(version="7", against="3", gain=0.0, better=better, worse=worse, p_value=p_value)
    start = {
        (0, 0): "Under attack version 7 gets the same images right as 3",
        (90, 61): "Version 7 withstands more than 3",
    }.get((better, worse), "Nobody can tell whether version 7 withstands more than 3")
    assert explain_pair(pair).startswith(start)


def test_only_what_differs_in_the_recipes(entries):
    assert differing_settings(entries) == {"training.epochs": ["1", "2", "3"]}
    unknown = replace(entries[1], recipe={})
    assert differing_settings([entries[0], unknown]) == {}
    assert differing_settings([*entries[::2], unknown]) == {"training.epochs": ["1", "3", "–"]}


def test_the_comparison_is_json(entries):
    values = json.loads(json.dumps(to_values(entries), allow_nan=False))
    assert [version["trust"] for version in values["versions"]] == ["trusted", "trusted", "masked"]
    assert values["versions"][0]["lineage"]["verdict"] == "verdict on strong"


def test_the_page_names_what_is_missing(entries, tmp_path):
    report, samples = entries[1].evaluation
    other = replace(entries[1], evaluation=(replace(report, epsilon=0.2), samples))
    html = unescape(write_comparison([entries[0], other], tmp_path).read_text(encoding="utf-8"))
    assert "Version 2 cannot be compared with 1" in html
    assert "Version 2 was attacked in linf with epsilon 0.2, version 1 in linf with 0.1." in html
    assert "Class by class" not in html and "tell them apart" not in html


def test_the_page_shows_images_where_it_has_them(entries, tmp_path, digits_shards):
    without = write_comparison(entries, tmp_path / "a").read_text(encoding="utf-8")
    shown = write_comparison(entries, tmp_path / "b", digits_shards).read_text(encoding="utf-8")
    assert without.count("<img") == 0 and "Compared with <code>--data" in without
    apart = len(list(images_apart(entries[1], entries[0])))
    assert shown.count("<img") == min(apart, 12)
    for page in (without, shown):
        assert not re.search(r"://|url\(|@import|<script", page)
        assert "it hides the way to fool it" in page


# What a browser made of each chart: how many shapes, how many without size or outside of it.
PROBE = """<script>
for (const svg of document.querySelectorAll("svg[role=img]")) {
  const frame = svg.getBoundingClientRect(); let drawn = 0, lost = 0;
  for (const shape of svg.querySelectorAll("line, path, polyline, polygon, circle, text")) {
    const box = shape.getBoundingClientRect(); drawn += 1;
    const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1
      && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
    if (!inside || box.width + box.height === 0) lost += 1;
  }
  svg.dataset.drawn = frame.width > 100 && frame.height > 50 ? drawn : 0;
  svg.dataset.lost = lost;
}
document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
</script></body>"""


# Whom the browser asks on its own account, whatever page is open.
OWN_HOSTS = {"clients2.google.com", "update.googleapis.com", "accounts.google.com"}


class Network:
    """A proxy through which a browser has to go; remembers whom it wanted to ask."""

    def __init__(self):
        self.listener, self.hosts = socket.create_server(("127.0.0.1", 0)), set()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                visitor, _ = self.listener.accept()
                with visitor, contextlib.suppress(OSError):
                    visitor.settimeout(10)
                    _, address, *_ = visitor.recv(2000).decode().split()
                    self.hosts.add(urlsplit(address).hostname or address.partition(":")[0])


@pytest.fixture
def browse(tmp_path):
    """Open a page; gives its elements, what the console said and whom it asked."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")

    def browse(page, width=1000):
        network = Network()
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
        flags += " --disable-background-networking --disable-component-update --dump-dom"
        flags += f" --enable-logging=stderr --window-size={width},3000"
        port = network.listener.getsockname()[1]
        flags += f" --proxy-server=127.0.0.1:{port} --proxy-bypass-list=<-loopback>"
        done = subprocess.run(
            [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        network.listener.close()
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, said, network.hosts - OWN_HOSTS

    return browse


@pytest.fixture
def pages(entries, hardened, tmp_path, digits_shards):
    return {
        "report": hardened / "strong" / "report" / PAGE,
        "comparison": write_comparison(entries, tmp_path / "page", digits_shards),
    }


@pytest.mark.parametrize(("kind", "charts"), [("report", 2), ("comparison", 2)])
def test_a_browser_draws_every_chart_and_asks_nobody(browse, pages, tmp_path, kind, charts):
    dom, said, hosts = browse(pages[kind])
    assert said == [] and hosts == set()
    assert "</html>" in dom

    html = pages[kind].read_text(encoding="utf-8")
    probed = re.sub("<meta http-equiv[^>]*>", "", html).replace("</body>", PROBE)
    (tmp_path / "probed.html").write_text(probed, encoding="utf-8")
    for width in (1000, 500):
        dom, _, _ = browse(tmp_path / "probed.html", width)
        drawn = re.findall(r'data-drawn="(\d+)" data-lost="(\d+)"', dom)
        assert len(drawn) == charts == html.count('role="img" aria-labelledby')
        assert all(int(shapes) > 10 and lost == "0" for shapes, lost in drawn)
        assert int(re.search(r'data-overflow="(-?\d+)"', dom)[1]) <= 0


def test_the_browser_would_have_told(browse, tmp_path):
    """The watch itself is watched: a page that does ask, and complains."""
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://example.org/x.png"><script>console.log("!")</script>')
    _, said, hosts = browse(page)
    assert said and hosts == {"example.org"}
