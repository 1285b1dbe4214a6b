"""
What setup.cfg can't say: the description on a package index.

It is README.md without what only works beside the source: pictures, and links to other files of it.
"""

import re
from pathlib import Path

from setuptools import setup


def description(readme: str) -> str:
    """The README as it can stand alone."""
    text = re.sub(r"<picture>.*?</picture>\n*", "", readme, flags=re.DOTALL)
    text = re.sub(r"^\| !\[.*\n|^\| (\| )+\|\n|^\| (--- \| )+---.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)\n*", "", text)
    # A link to a file becomes its text, and the file's name where that is something else.
    return re.sub(r"\[`?([^]`]*)`?\]\((?!https?://)([^)#]*)[^)]*\)", _file, text)


def _file(link: re.Match[str]) -> str:
    text, path = link[1], link[2]
    return f"`{path}`" if text == path else f"{text} (`{path}` in the source)"


setup(
    long_description=description(Path(__file__).with_name("README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
)
