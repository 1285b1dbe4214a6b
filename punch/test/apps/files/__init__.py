"""Tests of files that are sent."""
