"""
What takes too long for `trial punch`: many calls, NATs and seeds, long links, floods.

Much of it is `InternetTestCase`, which pytest runs as trial does.
"""
