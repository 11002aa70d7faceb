"""``report.html`` holds what the records hold, asks no host for anything, works in a browser."""

import base64
import csv
import dataclasses
import gzip
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from plasticity.studies.numbers import Numbers
from plasticity.studies.page import page_of
from plasticity.studies.report import report_on
from tests.studies import made_up

LARGEST = 6_000_000
TASKS = 60


@pytest.fixture(scope="module")
def found() -> Numbers:
    return made_up.read_numbers(tasks=TASKS, seeds=4)


@pytest.fixture(scope="module")
def folder(found: Numbers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_on(found, tmp_path_factory.mktemp("report")).parent


def part(page: str, name: str) -> str:
    (content,) = re.findall(rf'<script type="[a-z/]+" id="{name}">(.*?)</script>', page, re.DOTALL)
    return content


def curves(page: str, arm: str, column: str, seeds: int, length: int) -> np.ndarray:
    """Return a curve of the page by loops, NaN where it has none."""
    data = json.loads(part(page, "data"))
    planes = gzip.decompress(base64.b64decode(part(page, "values")))
    count = len(planes) // 4
    start, tasks = data["places"][arm][column]
    tasks = range(length) if tasks is None else tasks
    values = np.full((seeds, length), np.nan)
    for row in range(seeds):
        for place, task in enumerate(tasks):
            k = start + row * len(tasks) + place
            four = bytes(planes[plane * count + k] for plane in range(4))
            (values[row, task],) = np.frombuffer(four, "<f4")
    return values


def test_page_has_the_summary_and_the_curves_of_the_records(folder: Path, found: Numbers) -> None:
    page = (folder / "report.html").read_text()
    data = json.loads(part(page, "data"))
    assert data["summary"].encode() == (folder / "summary.csv").read_bytes()
    assert data["study"]["digest"] == found.study.digest()
    assert {*data["arms"]} == {*found.study.arms}
    for arm in ("mlp", "qnn", "mlp+l2-init"):
        for column, recorded in found.columns[arm].items():
            shown = curves(page, arm, column, 4, TASKS)
            if column == "test_accuracy":
                np.testing.assert_array_equal(shown, recorded)
            else:
                np.testing.assert_allclose(shown, recorded, rtol=2**-11)
        score = found.columns[arm]["test_accuracy"].astype(float)
        drops = score[:, 1:6].mean(1) - score[:, 54:60].mean(1)
        np.testing.assert_allclose(data["arms"][arm]["of_seeds"]["drop"], drops)
    assert data["options"]["mlp+l2-init"]["l2-init.strength"] == "0.01"
    assert data["places"]["mlp"]["ntk_condition"][1] == [0, 50]  # it is taken now and then


def test_seeds_that_are_not_complete_are_not_on_the_page(found: Numbers) -> None:
    complete = {arm: of.copy() for arm, of in found.complete.items()}
    complete["qnn"][1] = complete["linear"][:] = False
    page = page_of(dataclasses.replace(found, complete=complete), "arm\nqnn\n", {})
    data = json.loads(part(page, "data"))
    assert data["arms"]["qnn"]["seeds"] == [0, 2, 3]
    assert (data["arms"]["linear"]["seeds"], data["places"]["linear"]) == ([], {})
    expected = found.columns["qnn"]["test_accuracy"][[0, 2, 3]]
    np.testing.assert_array_equal(curves(page, "qnn", "test_accuracy", 3, TASKS), expected)


def test_page_names_no_host_and_equal_numbers_give_equal_bytes(
    folder: Path, found: Numbers
) -> None:
    page = (folder / "report.html").read_text()
    assert "://" not in page
    assert "default-src 'none'" in page
    assert page_of(found, "arm\n", {}) == page_of(found, "arm\n", {})


def test_no_word_of_a_study_ends_the_script(found: Numbers) -> None:
    evil = "Who?</script><script>alert(1)</script><!--VALUES-->"
    study = dataclasses.replace(found.study, question=evil)
    page = page_of(dataclasses.replace(found, study=study), "arm\n", {})
    assert evil not in page
    assert page.count("<script") == page.count("</script>") == 4
    assert json.loads(part(page, "data"))["study"]["question"] == evil


@pytest.mark.slow
def test_page_of_38_arms_10_seeds_and_300_tasks_is_small_enough() -> None:
    rng = np.random.default_rng(0)
    arms = ("mlp", "mlp+l2", "mlp+redo")
    study = made_up.study(arms, seeds=10, tasks=300, compared=())
    # As many numbers in as many columns as the study mnist-why records; noise cannot be packed.
    names = ["test_accuracy", *(f"column_{k}" for k in range(13 * 38 // 3))]
    columns = {
        arm: {name: rng.lognormal(0, 3, (10, 300)).astype(np.float32) for name in names}
        for arm in arms
    }
    for of in columns.values():
        of["test_accuracy"] = np.round(rng.uniform(0.5, 0.9, (10, 300)), 4).astype(np.float32)
    full = {arm: np.full(10, 300) for arm in arms}
    complete = {arm: np.ones(10, bool) for arm in arms}
    page = page_of(Numbers(study, 300, columns, full, complete), "arm\n", {})
    assert len(page.encode()) < LARGEST


# --- in a browser

Driver = Any


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Open the page in a headless Chromium, 1,280 pixels wide."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    downloads = {"download.default_directory": str(folder / "downloads")}
    options.add_experimental_option("prefs", downloads)
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        width(page, 1280)
        page.get((folder / "report.html").as_uri())
        wait(lambda: page.execute_script("return document.documentElement.dataset.ready"))
        yield page
        assert page.get_log("browser") == []  # no error, and nothing that was refused
    finally:
        page.quit()


def width(page: Driver, pixels: int) -> None:
    metrics = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait(until: Callable[[], Any]) -> Any:
    """Wait for what comes, however busy the machine is."""
    for _ in range(1200):
        if found := until():
            return found
        time.sleep(0.1)
    raise AssertionError("it has not come within two minutes")


def column(page: Driver, name: str) -> list[str]:
    """Return a column of the table of verdicts."""
    names = [h.get_attribute("data-name") for h in page.find_elements("css selector", "#table th")]
    cells = page.find_elements("css selector", f"#table td:nth-child({names.index(name) + 1})")
    return [cell.text for cell in cells]


def pick(page: Driver, select: str, value: str) -> None:
    page.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input'))", select, value,
    )  # fmt: skip


def traces(page: Driver, plot: str) -> list[dict[str, Any]]:
    return page.execute_script(
        "return document.getElementById(arguments[0]).data.map((t) => "
        "({name: t.name, x: [...t.x], y: [...t.y], arms: t.customdata ?? null}))", plot,
    )  # fmt: skip


@pytest.fixture(scope="module")
def lines(folder: Path) -> dict[str, dict[str, str]]:
    text = (folder / "summary.csv").read_text()
    return {line["arm"]: line for line in csv.DictReader(io.StringIO(text))}


@pytest.mark.slow
@pytest.mark.browser
class TestInBrowser:
    def test_table_is_the_report_and_sorts_both_ways_by_keyboard(
        self, browser: Driver, lines: dict[str, dict[str, str]]
    ) -> None:
        from selenium.webdriver.common.keys import Keys

        assert column(browser, "arm") == [*lines]
        for sign in (1, -1):
            browser.find_element("css selector", 'th[data-name="drop"] button').send_keys(
                Keys.ENTER
            )
            assert column(browser, "arm") == sorted(
                lines, key=lambda arm: sign * float(lines[arm]["drop"])
            )
            assert browser.switch_to.active_element.text == "drop (points)"
        for text, arm in zip(column(browser, "drop"), column(browser, "arm"), strict=True):
            line = lines[arm]
            numbers = [100 * float(line[n]) for n in ("drop", "drop_low_95", "drop_high_95")]
            np.testing.assert_allclose(
                [float(n) for n in re.findall(r"-?[\d.]+", text)], numbers, atol=0.0051
            )

    def test_table_is_filtered_by_name_family_and_verdict(
        self, browser: Driver, lines: dict[str, dict[str, str]]
    ) -> None:
        search = browser.find_element("id", "search")
        search.send_keys("sphere")
        assert column(browser, "arm") == ["mlp-sphere"]
        search.clear()
        pick(browser, "search", "")
        pick(browser, "family", "stiefel")
        assert {*column(browser, "arm")} == {"stiefel", "stiefel-free"}
        pick(browser, "family", "")
        pick(browser, "verdict", "loses")
        assert {*column(browser, "arm")} == {
            arm for arm, line in lines.items() if line["verdict"] == "loses"
        }
        pick(browser, "verdict", "")
        word = browser.find_element("css selector", "#table abbr")
        assert len(word.get_attribute("title")) > 20

    def test_any_column_stands_beside_the_verdict(self, browser: Driver) -> None:
        pick(browser, "beside", "weight_norm_last")
        assert all("[" in text for text in column(browser, "weight_norm_last") if text)
        pick(browser, "beside", "")

    def test_point_that_is_clicked_shows_its_curves(
        self, browser: Driver, lines: dict[str, dict[str, str]]
    ) -> None:
        from selenium.webdriver import ActionChains

        pick(browser, "search", "free-brickwork")
        (points,) = traces(browser, "scatter")
        assert points["arms"] == ["free-brickwork"]
        np.testing.assert_allclose(points["x"], [100 * float(lines["free-brickwork"]["drop"])])
        plot = browser.find_element("css selector", "#scatter .scatterlayer .point")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
        ActionChains(browser).move_to_element(plot).pause(0.5).click().perform()
        wait(lambda: browser.execute_script("return first.value") == "free-brickwork")
        assert "free-brickwork, n = 4" in {t["name"] for t in traces(browser, "curves")}
        pick(browser, "search", "")

    def test_curves_are_means_intervals_and_seeds_of_the_records(
        self, browser: Driver, found: Numbers
    ) -> None:
        pick(browser, "first", "mlp")
        pick(browser, "second", "")
        pick(browser, "window", "1")
        recorded = 100 * found.columns["mlp"]["test_accuracy"].astype(float)
        low, high, *seeds, mean = traces(browser, "curves")
        np.testing.assert_allclose([t["y"] for t in seeds], recorded, rtol=1e-12)
        np.testing.assert_allclose(mean["y"], recorded.mean(0), rtol=1e-12)
        half = stats.t.ppf(0.975, 3) * stats.sem(recorded, axis=0)
        np.testing.assert_allclose(low["y"], recorded.mean(0) - half, rtol=1e-9)
        np.testing.assert_allclose(high["y"], recorded.mean(0) + half, rtol=1e-9)
        assert [t["name"] for t in seeds] == [f"mlp, seed {seed}" for seed in range(4)]
        pick(browser, "column", "weight_norm")
        expected = found.columns["mlp"]["weight_norm"].mean(0)
        np.testing.assert_allclose(traces(browser, "curves")[-1]["y"], expected, rtol=2**-11)
        pick(browser, "column", "test_accuracy")

    def test_two_arms_are_compared_seed_by_seed(self, browser: Driver, folder: Path) -> None:
        pick(browser, "first", "qnn")
        pick(browser, "second", "mlp")
        data = json.loads(part((folder / "report.html").read_text(), "data"))
        ours, theirs = (np.array(data["arms"][a]["of_seeds"]["drop"]) for a in ("qnn", "mlp"))
        rows = browser.find_elements("css selector", "#of-seeds tbody tr")
        cells = [row.find_elements("css selector", "td")[-1].text for row in rows]
        differences = 100 * (ours - theirs)
        np.testing.assert_allclose([float(cell) for cell in cells[:-1]], differences, atol=0.0051)
        low, high = stats.t.interval(0.95, 3, differences.mean(), stats.sem(differences))
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", cells[-1])]
        np.testing.assert_allclose(numbers, [differences.mean(), low, high], atol=0.0051)
        options = browser.find_element("id", "options").text
        assert "optimizer.learning-rate" in options

    def test_summary_is_downloaded_as_it_is(self, browser: Driver, folder: Path) -> None:
        browser.find_element("id", "csv").click()
        file = folder / "downloads" / "made-up-summary.csv"
        wait(file.exists)
        wait(lambda: file.read_bytes() == (folder / "summary.csv").read_bytes())

    def test_page_is_dark_or_light_and_the_figures_with_it(self, browser: Driver) -> None:
        def backs() -> tuple[str, str]:
            return browser.execute_script(
                "return [getComputedStyle(document.body).backgroundColor,"
                "getComputedStyle(document.querySelector('#curves .main-svg')).backgroundColor]"
            )

        page, figure = backs()
        assert page == figure
        browser.find_element("id", "theme").click()
        dark_page, dark_figure = backs()
        assert dark_page == dark_figure != page
        browser.find_element("id", "theme").click()
        assert backs() == [page, figure]

    @pytest.mark.parametrize("pixels", [400, 1280])
    def test_nothing_is_wider_than_the_window(self, browser: Driver, pixels: int) -> None:
        width(browser, pixels)
        wait(lambda: browser.execute_script("return innerWidth") == pixels)
        narrow = "return document.documentElement.scrollWidth <= innerWidth"
        assert wait(lambda: browser.execute_script(narrow))
        plot = "return document.querySelector('#curves .main-svg').clientWidth <= innerWidth"
        assert wait(lambda: browser.execute_script(plot))
        width(browser, 1280)

    def test_page_asks_for_nothing(self, browser: Driver) -> None:
        asked = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert all(name.startswith("blob:") for name in browser.execute_script(asked))

    def test_page_of_a_study_of_which_nothing_is_recorded_opens(
        self, browser: Driver, folder: Path, found: Numbers, tmp_path: Path
    ) -> None:
        nothing = {arm: np.zeros(4, bool) for arm in found.complete}
        report_on(dataclasses.replace(found, complete=nothing), tmp_path / "nothing")
        try:
            browser.get((tmp_path / "nothing/report.html").as_uri())
            wait(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
            assert browser.find_element("id", "count").text == "14 of 14 arms"
            assert "mlp seed 0 (60 of 60 tasks)" in browser.find_element("id", "provenance").text
        finally:
            browser.get((folder / "report.html").as_uri())
