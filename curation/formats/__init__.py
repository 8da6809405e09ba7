"""Files that others load: one module a format, each reads what it writes. Torch-free."""
