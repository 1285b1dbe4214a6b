"""Tests of `punch.apps.pipe`."""
