"""The owner's page: how the review goes, who does how well, accounts, gold items, guidelines, log.

The guard lets owners only to any address of this page, its events among them; every handler that
changes something asks once more. What people wrote is shown as text.
"""

import datetime as dt
import functools
import html
import json
import math
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from annotate_ui.guide import built_in_text
from annotate_ui.review import Review
from curation.accounts import ROLES, AccountError
from curation.intervals import Interval
from curation.review_numbers import ReviewNumbers, review_numbers

if TYPE_CHECKING:
    import gradio as gr
    import pandas as pd

__all__ = ["owner_page"]

_STAGE_NAMES = {
    "fresh": "not looked at yet",
    "half": "somebody has voted or holds it",
    "full": "in somebody's hands",
    "done": "agreed on",
    "disagree": "disagreement, to be settled",
    "off": "gold, or decided by a rule",
}


def owner_page(review: Review, base: str) -> "gr.Blocks":
    """Return the page.

    Args:
        review: Whose.
        base: Public path of the review.
    """
    import gradio as gr

    with gr.Blocks(title="Fit review: owner", fill_width=True, analytics_enabled=False) as page:
        gr.HTML(_header(base), apply_default_css=False)
        with gr.Tab("Progress"):
            cards = gr.HTML()
            with gr.Row():
                per_day = gr.BarPlot(x="day", y="decisions", title="Decisions by day", height=260)
                verdicts = gr.BarPlot(
                    x="dataset", y="votes", color="verdict", height=260,
                    title="Votes by dataset", color_map=_COLORS,
                )  # fmt: skip
            with gr.Row():
                reasons = gr.BarPlot(
                    x="reason",
                    y="rejections",
                    title="Why fits are rejected",
                    height=300,
                    sort="-y",
                    x_label_angle=-40,
                )
                acceptance = _table("Acceptance, from the uniform audit", 8)
        with gr.Tab("People"):
            people = _table("Everybody's work", 14)
            with gr.Row():
                seconds = gr.BarPlot(
                    x="name", y="seconds an item", title="Time an item", height=240
                )
                gold_plot = gr.BarPlot(
                    x="name", y="gold right, %", title="Right on gold items", height=240
                )
            with gr.Row(equal_height=True):
                with gr.Column():
                    gr.Markdown("### New account")
                    new_name = gr.Textbox(label="Name", max_length=40)
                    new_role = gr.Radio(list(ROLES), value="annotator", label="Role")
                    new_button = gr.Button("Make", variant="primary")
                with gr.Column():
                    gr.Markdown("### Change an account")
                    old_name = gr.Dropdown([], label="Name")
                    old_role = gr.Radio(list(ROLES), label="Role")
                    with gr.Row():
                        role_button = gr.Button("Give this role")
                        password_button = gr.Button("New first password")
                        disable_button = gr.Button("Disable or enable", variant="stop")
            said = gr.Textbox(label="Result", interactive=False, elem_id="account-result")
            gr.HTML(f'<a href="{base}/api/annotators.csv" download>Everybody\'s numbers as CSV</a>')
        with gr.Tab("Agreement"):
            agreement = _table("Where two or more judged the same fit", 8)
            gr.Markdown(
                "Read *agreement on reject* first: if one rejects, how often does the other? "
                "Where it is low, the guideline does not say clearly what is wrong enough."
            )
            gr.Markdown(
                f"[Settle disagreements]({base}/judge/?mode=adjudicate) · the votes of all are "
                "shown there, and yours decides."
            )
        with gr.Tab("Gold"):
            gr.Markdown(
                "Judge a fit, open it in your history (H), write why as its comment, and press "
                "*Make gold* or *To the tutorial*. Gold items are mixed with the others and look "
                "like them; newcomers practise on those of the tutorial, ten at most."
            )
            golds = _table("Gold items", 12)
            fill = gr.Button("Fill the tutorial with fits that people agreed on")
            filled = gr.Markdown()
            with gr.Row():
                gold_id = gr.Textbox(label="fit_id", max_length=64)
                gold_button = gr.Button("Not gold any more", variant="stop")
        with gr.Tab("Guidelines"):
            version = gr.Markdown()
            text = gr.Textbox(label="Markdown", lines=22, max_lines=40)
            save = gr.Button("Save as a new version", variant="primary")
            gr.Markdown("Everybody is told of a new version; each decision names the one it had.")
        with gr.Tab("Log") as log_tab:
            kind = gr.Dropdown(
                ["", "login_failed", "login_blocked", "login", "lease_refused", "file_refused",
                 "page_refused", "path_refused", "forged_name", "script_refused", "huge_body",
                 "session_expired", "account_added", "account_changed", "lease_expired"],
                value="", label="Only",
            )  # fmt: skip
            log = _table("What happened, the newest first", 18)

        shown = [cards, per_day, verdicts, reasons, acceptance, people, seconds, gold_plot,
                 agreement, golds, old_name]  # fmt: skip
        show = functools.partial(_show, review)
        for event in (page.load, gr.Timer(60).tick):
            event(show, None, shown, show_progress="hidden", api_visibility="private")

        def on(button: Any, work: Callable[..., Any], inputs: Any, outputs: Any) -> Any:
            return button(
                _checked(review, work), inputs, outputs,
                show_progress="hidden", api_visibility="private",
            )  # fmt: skip

        on(new_button.click, _add_account, [new_name, new_role], said).then(show, None, shown)
        on(role_button.click, _give_role, [old_name, old_role], said).then(show, None, shown)
        on(password_button.click, _new_password, [old_name], said)
        on(disable_button.click, _toggle, [old_name], said).then(show, None, shown)
        on(gold_button.click, _remove_gold, [gold_id], gold_id).then(show, None, shown)
        on(fill.click, _fill_tutorial, None, filled).then(show, None, shown)
        on(page.load, _guideline, None, [version, text])
        on(save.click, _save_guideline, [text], [version, text])
        on(page.load, _log, [kind], log)
        on(log_tab.select, _log, [kind], log)
        on(kind.change, _log, [kind], log)
    page.queue(default_concurrency_limit=None, api_open=False)
    return page


_COLORS = {"accept": "#2fae6b", "reject": "#e0503f", "unsure": "#e0a21b"}


def _header(base: str) -> str:
    return (
        f'<div class="ow-top"><img src="{base}/static/icon.svg" alt="" width="26" height="26">'
        f'<b>Fit review</b><span class="ow-grow"></span><a href="{base}/judge/">Judge</a>'
        f'<a href="{base}/judge/?mode=adjudicate">Disagreements</a>'
        f'<form method="post" action="{base}/logout"><button>Log out</button></form></div>'
    )


def _table(label: str, rows: int) -> Any:
    import gradio as gr

    # datatype "str": Markdown or HTML in a cell would be shown as such.
    return gr.Dataframe(
        label=label, interactive=False, datatype="str", max_height=34 * rows, wrap=True,
        static_columns=[], show_row_numbers=False, line_breaks=False,
    )  # fmt: skip


# --- reading -------------------------------------------------------------------------------------


def _show(review: Review) -> list[Any]:
    import gradio as gr
    import pandas as pd

    review.queue.heed()
    numbers = review_numbers(review.decisions)
    days = pd.DataFrame(numbers.per_day[-30:], columns=["day", "decisions"])
    votes = pd.DataFrame(
        [
            (dataset, verdict, count)
            for dataset, counts in numbers.verdicts_by_dataset.items()
            for verdict, count in counts.items()
        ],
        columns=["dataset", "verdict", "votes"],
    )
    reasons = pd.DataFrame(
        [(name.replace("_", " "), count) for name, count in numbers.reasons],
        columns=["reason", "rejections"],
    )
    seconds = pd.DataFrame(
        [(p.name, p.median_seconds) for p in numbers.people if p.median_seconds > 0],
        columns=["name", "seconds an item"],
    )
    gold = pd.DataFrame(
        [(p.name, 100 * p.gold_right.value) for p in numbers.people if p.gold],
        columns=["name", "gold right, %"],
    )
    names = [p.name for p in numbers.people]
    return [
        _cards(numbers), _bars(days), votes, _bars(reasons), _acceptance_table(numbers),
        _people_table(numbers), _bars(seconds), _bars(gold, 100), _agreement_table(numbers),
        _gold_table(review), gr.Dropdown(choices=names),
    ]  # fmt: skip


def _bars(table: "pd.DataFrame", top: float | None = None) -> Any:
    """A plot of a table whose last column is the height: bars begin at 0."""
    import gradio as gr

    highest = float(table.iloc[:, -1].max()) if len(table) else 1.0
    return gr.BarPlot(value=table, y_lim=[0, top or max(1.0, 1.1 * highest)])


def _cards(numbers: ReviewNumbers) -> str:
    left = numbers.items - numbers.done
    share = 100 * numbers.done / max(1, numbers.items)
    facts = [
        (f"{numbers.done:,} of {numbers.items:,}", f"items done ({share:.1f} %)"),
        (f"{numbers.last_hour:,}", "decisions in the last hour"),
        (_number(numbers.median_seconds, "{:.1f} s"), "an item, median"),
        (_share(numbers.acceptance), "accepted, from the uniform audit"),
        (f"{numbers.stages.get('disagree', 0):,}", "disagreements wait"),
        (_hours(left, numbers.median_seconds), f"of work for the {left:,} items left, one vote"),
    ]
    cards = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>"
        for value, label in facts
    )
    stages = " · ".join(
        f"{numbers.stages[stage]:,} {name}"
        for stage, name in _STAGE_NAMES.items()
        if numbers.stages.get(stage)
    )
    rules = ", ".join(f"{name} {count:,}" for name, count in sorted(numbers.by_rule.items()))
    note = f"{stages}{'; by rules: ' + rules if rules else ''}"
    bar = f'<div class="ow-bar"><i style="width:{share:.2f}%"></i></div>'
    return f'<div class="ow-cards">{cards}</div>{bar}<p class="ow-note">{html.escape(note)}</p>'


def _acceptance_table(numbers: ReviewNumbers) -> "pd.DataFrame":
    import pandas as pd

    rows = [("all", _share(numbers.acceptance))]
    rows += [(name, _share(found)) for name, found in numbers.acceptance_by_dataset.items()]
    return pd.DataFrame(rows, columns=["dataset", "accepted (95 % interval)"])


def _people_table(numbers: ReviewNumbers) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        (
            p.name, p.role, f"{p.decided:,}", f"{p.today:,}", _number(p.median_seconds, "{:.1f} s"),
            _number(100 * p.accepted, "{:.0f} %"), f"{p.gold}", _share(p.gold_right), f"{p.undone}",
            _moment(p.last_at),
        )
        for p in numbers.people
    ]  # fmt: skip
    names = ["name", "role", "decided", "last 24 h", "time", "accepts", "gold", "right on gold",
             "changed", "last decision (UTC)"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def _agreement_table(numbers: ReviewNumbers) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    if numbers.agreement is not None:
        rows = [
            (name, _number(found.value, "{:.3f}"), f"{found.low:.3f} to {found.high:.3f}")
            for name, found in numbers.agreement.rows()
        ]
        rows.append(("fits judged twice or more", str(numbers.agreement.items_twice), ""))
    return pd.DataFrame(rows, columns=["", "estimate", "95 % interval"])


def _gold_table(review: Review) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        (g.fit_id, "tutorial" if g.in_tutorial else "measures", g.verdict,
         ", ".join(g.reasons), g.note, g.created_by)
        for g in review.gold.all()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["fit_id", "use", "verdict", "reasons", "note", "by"])


def _number(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "-"


def _share(found: Interval) -> str:
    if not math.isfinite(found.value):
        return "-"
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _hours(items: int, seconds: float) -> str:
    return f"{items * seconds / 3600:,.1f} h" if math.isfinite(seconds) else "-"


def _moment(at: float) -> str:
    if not math.isfinite(at):
        return "-"
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M")


# --- changing ------------------------------------------------------------------------------------


def _checked(review: Review, work: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler: it gets the review and the owner's name, and nobody else gets anywhere."""
    import gradio as gr

    def handler(request: gr.Request, *values: Any) -> Any:
        try:
            person = review.accounts.person(request.username or "")
        except AccountError:
            raise gr.Error("Log in again.") from None
        if person.disabled or not person.may("owner"):
            review.decisions.log("page_refused", person.name, path="owner event")
            raise gr.Error("This is the owner's.")
        return work(review, person.name, *values)

    # Gradio looks at the parameters to know what to pass; *values alone would hide the request.
    import inspect

    count = len(inspect.signature(work).parameters) - 2
    names = [f"value_{k}" for k in range(count)]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("request", kind, annotation=gr.Request)]
    parameters += [inspect.Parameter(name, kind) for name in names]
    reordered = [*parameters[1:], parameters[0]]

    def call(*arguments: Any) -> Any:
        return handler(arguments[-1], *arguments[:-1])

    call.__signature__ = inspect.Signature(reordered)
    call.__annotations__ = {"request": gr.Request}
    return call


def _add_account(review: Review, by: str, name: str, role: str) -> str:
    password = secrets.token_urlsafe(9)
    try:
        review.accounts.add(str(name).strip(), password, role, must_change=True, by=by)
    except AccountError as error:
        return str(error)
    return f"{name.strip()} logs in with the password {password} and is asked for another at once."


def _give_role(review: Review, by: str, name: str, role: str) -> str:
    try:
        review.accounts.change(name or "", by, role=role or "")
    except AccountError as error:
        return str(error)
    return f"{name} is {role} from the next log-in on."


def _new_password(review: Review, by: str, name: str) -> str:
    password = secrets.token_urlsafe(9)
    try:
        review.accounts.change(name or "", by, password=password, must_change=True)
    except AccountError as error:
        return str(error)
    return f"{name} logs in with the password {password} and is asked for another at once."


def _toggle(review: Review, by: str, name: str) -> str:
    try:
        disabled = not review.accounts.person(name or "").disabled
        review.accounts.change(name, by, disabled=disabled)
    except AccountError as error:
        return str(error)
    return f"{name} is {'disabled and logged out' if disabled else 'enabled'}."


def _remove_gold(review: Review, by: str, fit_id: str) -> str:
    review.gold.remove(str(fit_id).strip(), by)
    return ""


def _fill_tutorial(review: Review, by: str) -> str:
    count = review.gold.add(review.gold.propose_tutorial(by))
    return f"{count} new; the tutorial has {len(review.gold.tutorial())} of 10."


def _guideline(review: Review, by: str) -> tuple[str, str]:
    current = review.guidelines.current()
    if current is None:
        return "The built-in text is shown.", built_in_text()
    return f"Version {current.version}, by {current.created_by}.", current.text


def _save_guideline(review: Review, by: str, text: str) -> tuple[str, str]:
    import gradio as gr

    try:
        review.guidelines.save(text, by)
    except ValueError as error:
        raise gr.Error(str(error)) from None
    return _guideline(review, by)


def _log(review: Review, by: str, kind: str) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        (_moment(e["at"]), e["kind"], e["who"], e["address"], json.dumps(e["detail"])[:300])
        for e in review.decisions.events(kind or "", 300)
    ]
    return pd.DataFrame(rows, columns=["at (UTC)", "what", "who", "from", "detail"])
