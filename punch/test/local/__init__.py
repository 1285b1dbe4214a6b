"""Tests of `punch.local`."""
