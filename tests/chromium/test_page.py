"""The report's page in a real browser: sorts, filters, opens a run; keyboard, phone, barriers, hostile names, size."""

import itertools
import json
import re
import time

import pytest

from cilmp.experiments import page, pictures, report
from cilmp.experiments.collect import records

from ..experiments import made_up


def made(folder, hostile):
    with pytest.MonkeyPatch.context() as patch:
        made_up.make(folder / "out", patch, 84, seeds=(1, 2))
        if hostile:
            made_up.change(folder / "out", made_up.hostile)
        drawn = pictures._pictures
        patch.setattr(pictures, "_pictures", lambda *words: itertools.islice(drawn(*words), 2))  # for time
        report.main([folder / "out"], folder / "report")
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def path(chromium, tmp_path_factory):
    """The page of made-up runs: few_shot, base2new, full and some of cross_dataset, four methods, two seeds."""
    return made(tmp_path_factory.mktemp("a report"), hostile=False)


@pytest.fixture(scope="module")
def hostile(chromium, tmp_path_factory):
    return made(tmp_path_factory.mktemp("hostile"), hostile=True)


@pytest.fixture(scope="module")
def results(path):
    return records(path.parents[1] / "out")


RUNS = "section[aria-labelledby=runs-title]"
COLUMN = f"return [...document.querySelectorAll('{RUNS} tbody tr')].map(r => r.children[arguments[0]].textContent)"
COUNT = f"return document.querySelector('{RUNS} [role=status]').textContent"


def head(browser, title):
    """(button, its column) of a column of the table of runs."""
    heads = browser.all(f"{RUNS} thead th")
    column = next(i for i, h in enumerate(heads) if h.text.strip(" ▲▼") == title)
    return heads[column].find_element("css selector", "button"), column


def choose(browser, label, text):
    script = f"""const labels = [...document.querySelectorAll('{RUNS} label')];
    const label = labels.find(l => l.firstChild.textContent === arguments[0]);
    const select = label.querySelector('select');
    select.value = [...select.options].find(o => o.textContent === arguments[1]).value;
    select.dispatchEvent(new Event('change'));"""
    browser.do(script, label, text)


def test_the_answer_stands_first_and_pictures_come(browser, path):
    browser.open(path)
    assert browser.find("h1").text == "Which method is best?" and "4 methods" in browser.find("#summary").text
    sections = [s.get_attribute("aria-labelledby") for s in browser.all("main > section")]
    assert sections[0] == "answer-title" and sections[-1] == "runs-title"
    words = browser.find(".verdict").text
    assert "told apart" in words or "highest" in words
    browser.do("document.querySelector('figure').scrollIntoView()")
    assert browser.until("const i = document.querySelector('figure img'); return i.complete && i.naturalWidth > 300")


def test_nothing_is_asked_of_the_network(browser, path):
    browser.open(path)
    browser.do("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    time.sleep(0.3)
    logged = [json.loads(e["message"])["message"] for e in browser.driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in logged if m["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:", "about:")) for url in asked)
    text = path.read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", text)


def test_a_click_on_a_head_sorts_all_runs(browser, path, results):
    browser.open(path)
    button, column = head(browser, "accuracy")
    values = sorted(r["metrics"]["accuracy"] for r in results)
    for order, wanted in (("descending", values[::-1]), ("ascending", values)):
        browser.do("arguments[0].click()", button)
        assert browser.do(COLUMN, column) == [f"{v:.1f}" for v in wanted[:50]]
        assert browser.do("return arguments[0].parentNode.ariaSort", button) == order
    browser.do(f"document.querySelector('{RUNS} .pager button:nth-of-type(2)').click()")
    assert browser.do(COLUMN, column) == [f"{v:.1f}" for v in values[50:]]
    assert browser.do(COUNT) == f"51–{len(values)} of {len(values)}"


def test_filters_and_words_leave_what_fits(browser, path, results):
    browser.open(path)
    method = results[0]["method"]
    own = [r for r in results if r["method"] == method and r["spec"]["protocol"] == "few_shot"]
    choose(browser, "Method", method)
    choose(browser, "Protocol", "few_shot")
    assert browser.do(COUNT) == f"1–{len(own)} of {len(own)}"
    choose(browser, "Shots", "16")
    browser.find(f"{RUNS} input[type=search]").send_keys(f"{method.upper()} seed set01")
    browser.until(f"return document.querySelector('{RUNS} [role=status]').textContent === '1–2 of 2'")
    browser.find(f"{RUNS} input[type=search]").send_keys(" nothing like it")
    browser.until(f"return document.querySelector('{RUNS} [role=status]').textContent === 'no rows'")
    browser.do(f"[...document.querySelectorAll('{RUNS} button')].find(b => b.textContent === 'Clear').click()")
    assert browser.do(COUNT) == f"1–50 of {len(results)}"


def open_first(browser):
    browser.do(f"document.querySelector('{RUNS} button[data-run]').focus()")
    from selenium.webdriver.common.keys import Keys

    browser.keys(Keys.ENTER)
    browser.until("return document.querySelector('dialog').open")


def texts(browser, css, empty=""):
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent || arguments[1])"
    return browser.do(script, css, empty)


def test_a_run_opens_with_all_that_is_known_of_it(browser, path, results):
    browser.open(path)
    open_first(browser)
    order = lambda r: (r["spec"]["protocol"], r["spec"]["dataset"], r["method"], r["seed"], r["spec"]["part"])  # noqa: E731
    run = min(results, key=order)
    words = browser.find("dialog").text
    assert run["method"] in words and f"seed {run['seed']}" in words and "Configuration" in words
    assert list(map(int, texts(browser, "dialog table.matrix td", "0"))) == [n for row in run["confusion"] for n in row]
    recall = [f"{c['recall']:.1f}" for c in run["per_class"].values()]
    assert texts(browser, "dialog .grid tbody td:nth-child(3)") == recall
    wrong = sum(map(sum, run["confusion"])) - sum(row[i] for i, row in enumerate(run["confusion"]))
    assert len(browser.all("dialog .wrong li")) == min(8, wrong)
    assert "Images are not shown" in words and not browser.all("dialog .wrong img")
    assert "DATASET.NUM_SHOTS" in browser.do("return document.querySelector('dialog').textContent")


def test_a_link_to_a_run_opens_it(browser, path, results):
    run = results[-1]
    browser.open(path, fragment=f"#run={run['key'][:10]}-{run['seed']}")
    browser.until("return document.querySelector('dialog').open")
    assert run["method"] in browser.find("#run-title").text


def test_all_by_keyboard(browser, path):
    """Skip link, a head, a run, back: focus comes in and goes back where it was."""
    from selenium.webdriver.common.keys import Keys

    browser.open(path)
    browser.keys(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Skip to the answer"
    browser.keys(Keys.ENTER)
    assert browser.driver.switch_to.active_element.get_attribute("id") == "main"
    for _ in range(12):  # to the first head of a table
        browser.keys(Keys.TAB)
        if browser.do("return document.activeElement.closest('th') !== null"):
            break
    browser.keys(Keys.SPACE)
    assert browser.do("return document.activeElement.closest('th').ariaSort") == "ascending"
    open_first(browser)
    assert browser.until("return document.activeElement.id === 'run-title'")
    for _ in range(40):
        browser.keys(Keys.TAB)
        assert browser.do("return [document.body, null].includes(document.activeElement) || "
                          "document.activeElement.closest('dialog') !== null")  # fmt: skip
    browser.keys(Keys.ESCAPE)
    assert browser.until("return !document.querySelector('dialog').open")
    assert browser.do("return document.activeElement.dataset.run") is not None
    assert "#run" not in browser.driver.current_url


def test_a_phone_shows_it_without_scrolling_sideways(browser, path, hostile):
    for file in (path, hostile):
        browser.open(file, width=390)
        assert browser.do("return document.documentElement.scrollWidth") == 390
        browser.do("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        open_first(browser)
        assert browser.do("return document.documentElement.scrollWidth") == 390
        assert browser.do("const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_axe_finds_no_barrier(browser, path, width, dark):
    browser.open(path, width, dark)
    browser.do("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.barriers() == []
    open_first(browser)
    browser.do("document.querySelectorAll('dialog details').forEach(d => { d.open = true; })")
    assert browser.barriers() == []


def test_axe_would_find_one(browser, path):
    browser.open(path)
    browser.do("document.querySelector('main').append(document.createElement('input'))")
    assert [rule for rule, *_ in browser.barriers()] == ["label"]


def test_names_are_text_whatever_they_hold(browser, hostile):
    from selenium.common.exceptions import NoAlertPresentException

    browser.open(hostile)
    browser.do("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    open_first(browser)
    with pytest.raises(NoAlertPresentException):
        browser.driver.switch_to.alert.accept()
    text = browser.do("return document.body.textContent")
    assert made_up.NAMES[0] in text and made_up.NAMES[1] in text
    assert not browser.all("img[src=x]") and len(browser.all("script")) == 3
    markup = '<img src="data:," onerror="window.ran = 1">'
    browser.do("document.body.append(document.createElement('div'))")
    browser.do("document.body.lastChild.innerHTML = arguments[0]", markup)
    time.sleep(0.2)
    assert browser.do("return window.ran") is None  # even markup that got in would run nothing
    assert any("Content Security Policy" in c for c in browser.complaints())


def test_ten_thousand_runs_do_not_freeze_it(browser, tmp_path, results):
    """Made of in-memory records; benchmarks and docs/results.md have the report of true files."""
    many = []
    for i in range(10_000):
        one = results[i % len(results)]
        many.append(one | {"key": f"{i:010d}", "group": str(i // 5), "seed": i % 5,
                           "metrics": one["metrics"] | {"accuracy": i / 100}})  # fmt: skip
        many[-1].pop("folder")
    listed, details = page.runs.listed(many, {}, page.mistakes.Worst())
    content = {"tables": [], "methods": 4, "runs": listed, "over": [], "left": []}
    details |= {"said": {}, "images": {"names": [], "pictures": {}, "licences": {}}}
    file = tmp_path / "index.html"
    file.write_text(page.html(content, details))
    assert file.stat().st_size < 6_000_000
    start = time.perf_counter()
    browser.open(file)
    assert browser.do(COUNT) == "1–50 of 10,000"
    loaded = time.perf_counter() - start
    button, column = head(browser, "accuracy")
    timed = "const t = performance.now(); arguments[0].click(); document.body.offsetHeight; "
    sorted_in = browser.do(timed + "return performance.now() - t", button)
    assert browser.do(COLUMN, column)[0] == "100.0"
    assert loaded < 10 and sorted_in < 2000, (loaded, sorted_in)
    assert len(browser.all("tr")) < 60
