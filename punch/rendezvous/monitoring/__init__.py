"""
What an operator sees of a running service.

`status` has the figures, the health, and a page for a browser with both; `metrics` is their form for
Prometheus; `service` collects the figures and serves them (`http`, `listener`).
"""
