"""Tests of `punch.apps.forward`."""
