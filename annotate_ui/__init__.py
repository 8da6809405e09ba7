"""The annotators' web page: look at fits, accept or reject."""
