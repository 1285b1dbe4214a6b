"""`trial punch`: unit tests, and the simulated internet they run on."""

import os

# Hypothesis reads all of our modules for constants to try, and keeps them. In the directory that trial runs
# tests in they would be removed with it.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.abspath(".hypothesis"))
