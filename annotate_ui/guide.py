"""The guidelines: the text that comes with the page, until the owner writes another."""

import hashlib
from functools import cache
from importlib import resources

from annotate_ui.review import Review

__all__ = ["built_in_text", "built_in_version", "guideline_text"]


@cache
def built_in_text() -> str:
    """Return the built-in guidelines, Markdown; pictures are named ``guide/NAME.jpg``."""
    return resources.files("annotate_ui").joinpath("data", "guidelines.md").read_text("utf-8")


@cache
def built_in_version() -> str:
    """Return a name for the built-in guidelines that changes with them."""
    digest = hashlib.blake2b(built_in_text().encode(), digest_size=4).hexdigest()
    return f"built-in-{digest}"


def guideline_text(review: Review, base: str) -> str:
    """Return the current guidelines with addresses of their pictures."""
    current = review.guidelines.current()
    text = built_in_text() if current is None else current.text
    return text.replace("](guide/", f"]({base}/static/guide-")
