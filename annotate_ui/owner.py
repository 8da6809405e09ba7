"""The owner's page."""

from typing import TYPE_CHECKING

from annotate_ui.review import Review

if TYPE_CHECKING:
    import gradio as gr


def owner_page(review: Review, base: str) -> "gr.Blocks":
    """Return the page."""
    import gradio as gr

    with gr.Blocks(title="Fit review", analytics_enabled=False) as page:
        gr.Markdown("# Owner")
    return page
