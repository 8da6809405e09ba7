"""Records and the store: datasets in, fits and decisions kept, exports out. Torch-free."""
