"""
What an operator sees of a running service.

`figures` and `health` are what there is to see, without Twisted; `metrics`, `page` and `json_log` are its
forms; `service` takes the figures and serves them (`http`, `listener`).
"""
