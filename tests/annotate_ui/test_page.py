"""The page in a real browser: what is pressed is what the database holds."""

import io

import numpy as np
import pytest
from PIL import Image

from curation.decisions import ALL_PARTS
from tests.review_store import fit_name

pytestmark = pytest.mark.slow

SHOWN = "() => FitReview.shownLease === FitReview.items[0]?.lease"


def lease(page):
    page.wait_for_function(SHOWN)
    return page.evaluate("FitReview.items[0].lease")


def press(page, *keys):
    """Press keys for the item that is shown; return its lease."""
    shown = lease(page)
    for key in keys:
        page.keyboard.press(key)
    return shown


def saved(page):
    page.wait_for_function("FitReview.outbox.length === 0 && !FitReview.sending")


def fits_by_lease(site, name):
    from curation.queue import ReviewQueue

    return {lease_id: d for d, lease_id in ReviewQueue(site.decisions).own_history(name, 1000)}


def test_a_session_by_keyboard_alone(site, open_page):
    """Ten items, one undone, reasons, parts, a comment, a reload in the middle."""
    page = open_page(site, "anna")
    meant = {}
    meant[press(page, "a")] = ("accept", ALL_PARTS, (), "")
    meant[press(page, "Enter")] = ("accept", ALL_PARTS, (), "")
    meant[press(page, "l", "f", "a")] = ("accept", ALL_PARTS - {"left_hand", "face"}, (), "")
    meant[press(page, "3", "Enter")] = ("reject", frozenset(), ("limb_off",), "")
    shown = press(page, "r", "1", "4", "8", "8", "Enter")
    meant[shown] = ("reject", frozenset(), ("global_orientation", "depth_off"), "")
    shown = lease(page)
    page.keyboard.press("c")
    page.keyboard.type("looks odd, <3 a r s 5")  # letters in the box are text, not keys
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    meant[shown] = ("unsure", ALL_PARTS, (), "looks odd, <3 a r s 5")

    # Undo: the item comes back with what was said, and is judged anew.
    undone = press(page, "a")
    saved(page)
    page.keyboard.press("u")
    page.wait_for_function(f"FitReview.items[0].lease === '{undone}'")
    assert press(page, "2", "Enter") == undone
    meant[undone] = ("reject", frozenset(), ("left_right_swap",), "")

    saved(page)
    waiting = lease(page)
    page.reload()
    page.wait_for_function("window.FitReview && FitReview.shownAt")
    assert lease(page) == waiting, "a reload shows another item"
    for _ in range(3):
        meant[press(page, "k", "a")] = ("accept", ALL_PARTS - {"right_hand"}, (), "")
    saved(page)

    assert len(meant) == 10
    found = fits_by_lease(site, "anna")
    assert {
        lease_id: (d.verdict, d.parts, d.reasons, d.comment) for lease_id, d in found.items()
    } == meant
    history = site.decisions.history(annotator="anna")
    assert [d.verdict for d in history].count("withdrawn") == 1
    assert len(history) == 12
    first = site.decisions.current()[0]
    assert 0 < first.seconds < 60
    assert first.guideline_version.startswith("built-in-") and len(first.overlay_version) == 16


def test_looking_back_and_thinking_again(site, open_page):
    page = open_page(site, "bert")
    before = [press(page, "a") for _ in range(3)]
    saved(page)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"FitReview.looking?.item.lease === '{before[2]}'")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"FitReview.shownLease === '{before[1]}'")
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    saved(page)
    found = fits_by_lease(site, "bert")
    assert [found[k].verdict for k in before] == ["accept", "reject", "accept"]
    assert found[before[1]].supersedes
    page.keyboard.press("h")
    page.wait_for_selector(".rv-row")
    assert page.locator(".rv-row").count() == 3
    page.keyboard.press("Escape")
    # Back in the queue, on the item that was waiting.
    assert press(page, "s") not in before


def test_space_shows_the_bare_photo(site, open_page):
    page = open_page(site, "carl")
    lease(page)

    def middle():
        picture = Image.open(io.BytesIO(page.locator(".rv-frame").screenshot()))
        colors = np.asarray(picture.convert("RGB"), float)
        return colors[colors.shape[0] // 2, colors.shape[1] // 2]

    fitted = middle()
    page.keyboard.down(" ")
    bare = middle()
    page.keyboard.up(" ")
    assert np.abs(fitted - bare).max() > 20, "the fit did not go away"
    assert np.abs(middle() - fitted).max() < 8, "the fit did not come back"
    page.locator(".rv-slide input").fill("50")
    half = middle()
    assert np.all(np.abs(half - (fitted + bare) / 2) < 12)
    page.keyboard.press("p")
    page.wait_for_selector(".rv-stack.on .rv-points circle", state="attached")


def test_touch_and_mouse_do_what_keys_do(site, open_page):
    page = open_page(site, "carl", width=390, height=844, has_touch=True, is_mobile=True)
    shown = lease(page)
    page.tap(".rv-flag[data-part=left_hand]")
    page.tap(".rv-row2 .rv-act.accept")
    page.wait_for_function(f"FitReview.items[0].lease !== '{shown}'")
    second = lease(page)
    page.tap(".rv-row2 .rv-act.reject")
    page.tap(".rv-reason[data-reason=image_bad]")
    page.tap(".rv-rejectend .rv-act.reject")
    saved(page)
    found = fits_by_lease(site, "carl")
    assert found[shown].parts == ALL_PARTS - {"left_hand"}
    assert found[second].reasons == ("image_bad",)


@pytest.mark.parametrize("width", [390, 820, 1360, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_on_every_screen(site, open_page, width, scheme):
    page = open_page(site, "dora", width=width, height=844 if width < 800 else 1000, scheme=scheme)
    lease(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("accept", "reject", "unsure", "undo"):
        box = page.locator(f".rv-row2 .rv-act.{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= page.viewport_size["height"]
        assert box["height"] >= 36 and box["width"] >= 44, "too small for a finger"
    menu = page.locator(".rv-menu summary").bounding_box()
    assert menu["x"] + menu["width"] <= width
    stage = page.locator(".rv-view").bounding_box()
    assert stage["height"] > 250
    page.keyboard.press("r")
    for node in (page.locator(".rv-reason").last, page.locator(".rv-rejectend .rv-act")):
        box = node.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.locator(".rv-view").bounding_box()["height"] > 250
    page.keyboard.press("r")
    background = page.evaluate("getComputedStyle(document.querySelector('.rv')).backgroundColor")
    bright = sum(int(v) for v in background[4:-1].split(",")[:3]) / 3
    assert (bright > 200) if scheme == "light" else (bright < 60)


def test_what_the_network_loses_is_sent_later(site, open_page):
    """Decisions made without a connection are kept over a reload, and arrive once."""
    page = open_page(site, "adele")
    lease(page)
    page.route("**/api/decide", lambda route: route.abort())
    lost = [press(page, "a") for _ in range(2)]
    page.wait_for_selector(".rv-saved.bad:has-text('2 kept here')")
    lost += [press(page, "a") for _ in range(page.evaluate("FitReview.items.length"))]
    page.wait_for_selector(".rv-empty:has-text('No connection.')")
    page.unroute("**/api/decide")
    page.reload()
    page.wait_for_function("window.FitReview && FitReview.me")
    saved(page)
    found = fits_by_lease(site, "adele")
    assert set(lost) <= set(found) and len(lost) >= 3
    assert len(site.decisions.history(annotator="adele")) == len(lost)


def test_a_comment_with_html_stays_text(site, open_page):
    """It is refused; and one that came in another way is shown, not run."""
    page = open_page(site, "adele")
    lease(page)
    page.keyboard.press("c")
    page.keyboard.type("<img src=x onerror='window.hacked=1'>")
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.wait_for_selector(".rv-toast.bad")
    assert "plain text" in page.inner_text(".rv-toast")
    assert site.decisions.events("script_refused")


@pytest.mark.parametrize("is_phone", [False, True])
def test_panels_are_closed_by_their_buttons(site, open_page, is_phone):
    """A phone has no Escape key."""
    options = {"width": 390, "height": 844, "has_touch": True, "is_mobile": True}
    page = open_page(site, "dora", **options if is_phone else {})
    lease(page)
    press_on = page.tap if is_phone else page.click
    press_on(".rv-link:has-text('Guidelines')")
    page.wait_for_selector("#guide-panel h1:has-text('How to judge a fit')")
    press_on("#guide-close")
    page.wait_for_selector("#guide-panel h1", state="hidden")
    press_on(".rv-link:has-text('History')")
    press_on(".rv-panel header button")
    page.wait_for_selector(".rv-panel", state="hidden")
    page.locator("button[title='3D']").tap() if is_phone else page.click("button[title='3D']")
    page.wait_for_selector("#mesh-close")
    press_on("#mesh-close")
    page.wait_for_selector("#mesh-close", state="hidden")


def test_guidelines_help_and_menu(site, open_page):
    page = open_page(site, "dora")
    lease(page)
    page.keyboard.press("g")
    page.wait_for_selector("#guide-panel h1:has-text('How to judge a fit')")
    pictures = page.locator("#guide-panel img")
    assert pictures.count() >= 5
    page.wait_for_function(
        "[...document.querySelectorAll('#guide-panel img')].every((i) => i.naturalWidth > 0)"
    )
    before = page.evaluate("FitReview.items[0].lease")
    page.keyboard.press("a")  # keys do not judge what is behind the panel
    assert page.evaluate("FitReview.items[0].lease") == before
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.wait_for_selector(".rv-keys")
    page.keyboard.press("Escape")
    page.click(".rv-menu summary")
    assert page.locator('.rv-menu a:has-text("Owner\'s page")').count() == 0
    page.click(".rv-menu button:has-text('Log out')")
    page.wait_for_selector("input[name=password]")


def test_the_owners_page(site, open_page):
    page = open_page(site, "olga")
    page.goto(f"{site.url}/owner/")
    page.wait_for_selector(".ow-cards b")
    page.get_by_role("tab", name="Gold").click()
    page.get_by_role("button", name="Fill the tutorial").click()
    page.wait_for_selector("text=/[0-9]+ new; the tutorial has [0-9]+ of 10/")
    page.get_by_role("tab", name="People").click()
    page.wait_for_selector("text=anna")
    page.get_by_role("textbox", name="Name").fill("eva")
    page.get_by_role("button", name="Make", exact=True).click()
    page.wait_for_function(
        "document.querySelector('#account-result textarea').value.startsWith('eva logs in')"
    )
    assert site.accounts.person("eva").must_change
    page.get_by_role("textbox", name="Name").fill("<script>alert(1)</script>")
    page.get_by_role("button", name="Make", exact=True).click()
    page.wait_for_function(
        "document.querySelector('#account-result textarea').value.startsWith('a name is')"
    )


def test_the_tutorial_teaches_newcomers(site, open_page):
    """The page's own items first, then the owner's."""
    from annotate_ui.tutorial import built_in_lessons
    from curation.gold import GoldItem, GoldItems

    golds = GoldItems(site.decisions)
    for gold in golds.tutorial():  # the owner's test may have filled it
        golds.remove(gold.fit_id)
    golds.add(
        GoldItem(fit_name(390 + k), "reject" if k else "accept", note=f"note {k}",
                 in_tutorial=True, created_by="olga")
        for k in range(2)
    )  # fmt: skip
    site.accounts.add("nora", "password-nora", "annotator")
    page = open_page(site, "nora")
    page.wait_for_selector("text=Welcome, nora.")
    page.wait_for_selector("text=10 items to practise on")
    page.keyboard.press("Enter")
    page.wait_for_selector("#guide-panel h1")
    page.click("#guide-close")
    answers = [lesson.gold.verdict for lesson in built_in_lessons()[:8]]
    titles = ["Right."] * 8 + ["Right.", "We would have said: reject."]
    for verdict, title in zip([*answers, "accept", "accept"], titles, strict=True):
        page.wait_for_function(
            "FitReview.tutorial && FitReview.shownLease === "
            "FitReview.tutorial.items[FitReview.tutorial.at]?.lease"
        )
        assert page.evaluate("document.querySelector('.rv-layer.on .rv-fit').naturalWidth") > 100
        for key in ("a",) if verdict == "accept" else ("r", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector(f"h3:has-text('{title}')")
        page.keyboard.press("Enter")
    page.wait_for_selector("text=9 of 10 as we would have said it")
    page.keyboard.press("Enter")
    assert press(page, "a")
    saved(page)
    assert len(site.decisions.history(annotator="nora")) == 1
    assert site.accounts.person("nora").tutorial_at


def test_two_tabs_of_one_person_lose_nothing(site, open_page):
    """What one tab could not send yet survives what the other does."""
    page = open_page(site, "adele")
    lease(page)
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_function("window.FitReview && FitReview.shownAt")
    before = len(site.decisions.history(annotator="adele"))
    page.route("**/api/decide", lambda route: route.abort())
    kept = press(page, "s")
    page.wait_for_selector(".rv-saved.bad")
    other.evaluate("FitReview.items.shift()")  # the same items wait in both tabs
    other.keyboard.press("Escape")
    other.reload()  # sends what it finds, the first tab's decision among it
    other.wait_for_function("window.FitReview && FitReview.me")
    saved(other)
    assert kept in fits_by_lease(site, "adele")
    page.unroute("**/api/decide")
    saved(page)
    assert len(site.decisions.history(annotator="adele")) == before + 1


def test_a_fit_whose_photo_is_gone_is_not_accepted(open_page, tmp_path):
    """It is told at once, without waiting; and judging goes on."""
    from types import SimpleNamespace

    from curation.accounts import Accounts
    from curation.decisions import DecisionStore
    from tests.review_server import Server
    from tests.review_store import make_store

    make_store(tmp_path, 3, pictures=False)
    url = f"sqlite:///{tmp_path}/decisions.sqlite"
    decisions = DecisionStore(url)
    accounts = Accounts(decisions)
    accounts.add("anna", "password-anna", "annotator")
    accounts.finish_tutorial("anna")
    with Server(tmp_path, url) as server:
        page = open_page(SimpleNamespace(url=server.url), "anna", shown=False)
        page.wait_for_selector(".rv-missing:has-text('There is no picture')", timeout=30000)
        shown = lease(page)
        page.keyboard.press("a")
        page.wait_for_selector(".rv-toast.bad:has-text('not to be seen')")
        page.keyboard.press("r")
        page.click(".rv-reason[data-reason=image_bad]")
        page.keyboard.press("Enter")
        saved(page)
    assert [(d.verdict, d.reasons) for d in decisions.current()] == [("reject", ("image_bad",))]
    assert shown
    decisions.close()
