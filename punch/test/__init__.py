"""`trial punch`: unit tests, and the simulated internet they run on."""
