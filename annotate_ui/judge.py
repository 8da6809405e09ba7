"""The judging page: Gradio's frame round the loop of data/judge.js."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate_ui.guide import guideline_text
from annotate_ui.review import Review
from curation.decisions import DecisionError

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["judge_page"]

_START = """
const begin = () => window.FitReview
  ? window.FitReview.start(element.querySelector('#review-root'), trigger)
  : setTimeout(begin, 20);
begin();
// Gradio binds the events that it finds named here: trigger('mesh')
"""


def judge_page(review: Review, base: str) -> "gr.Blocks":
    """Return the page.

    Args:
        review: What is judged.
        base: Public path of the review.
    """
    import gradio as gr

    folder = Path(tempfile.mkdtemp(prefix="fit-review-"))

    async def mesh_of(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        """Return the mesh of a lease of whoever asks, as a file named by the lease."""
        lease_id = str((event._data or {}).get("lease", ""))[:64]
        try:
            lease = await asyncio.to_thread(review.queue.lease, lease_id, request.username)
            item = review.index.items[lease.fit_id]
        except (DecisionError, KeyError):
            raise gr.Error("This item is not yours.") from None
        path = review.pictures.path(item.run_id, item.fit_id, "mesh.glb")
        if not path.exists():
            work = await asyncio.to_thread(
                review.pictures.want, item.run_id, item.fit_id, mesh=True
            )
            if work is not None:
                await asyncio.wait([asyncio.wrap_future(work)], timeout=30)
        if not path.exists():
            raise gr.Error(review.pictures.problem(item.fit_id) or "The mesh could not be made.")
        # The guard lets a person have the file of this name if the lease in it is theirs.
        copy = folder / f"{lease.lease_id}.glb"
        await asyncio.to_thread(shutil.copyfile, path, copy)
        return gr.Model3D(value=str(copy))

    with gr.Blocks(
        title="Fit review", fill_width=True, fill_height=True, analytics_enabled=False,
        delete_cache=(3600, 3600),
    ) as page:  # fmt: skip
        review_html = gr.HTML(
            value="",
            html_template='<div id="review-root"></div>',
            js_on_load=_START,
            apply_default_css=False,
            elem_id="review",
        )
        with gr.Column(elem_id="guide-panel"):
            gr.Button("Close", elem_id="guide-close", size="sm")
            # A function: evaluated when a page is loaded, so that a new version is seen.
            gr.Markdown(lambda: guideline_text(review, base), elem_id="guide-text")
        with gr.Column(elem_id="mesh-panel"):
            gr.Button("Close", elem_id="mesh-close", size="sm")
            mesh = gr.Model3D(
                label="Drag to turn", interactive=False, height="100%", buttons=[],
                clear_color=(0.5, 0.5, 0.5, 1.0),
            )  # fmt: skip
        review_html.mesh(
            mesh_of, None, mesh, show_progress="minimal", queue=True,
            concurrency_limit=None, api_visibility="private",
        )  # fmt: skip
    page.queue(default_concurrency_limit=None, api_open=False)
    return page
