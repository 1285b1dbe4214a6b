"""
What an operator sees of a running service.

`status` is what there is to see, also as a page for a browser; `metrics` is its form for Prometheus;
`service` takes the figures and serves them (`http`, `listener`).
"""
