"""The protocols on the folders that people have; the formulas are ``regressor.protocols``."""
