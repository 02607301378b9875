"""The documentation's own examples, as things to run.

    ```python title="net.py"      a file of that name is written into the page's folder; any language
    ```python                     is run; the blocks of a page share one namespace
    ```console                    lines with "$ " are run in the page's folder; what follows must be in the output, in
                                  this order, "..." standing for anything; "# exit code 1" says that it is not 0
    ```text, ```json, ```yaml     are only looked at, unless they have a title; so is what is indented by four spaces

What is only looked at holds no `isomorph` command that could be run, but synopses: with a placeholder in capitals, or
"[options]". A page's folder holds a copy of tests/docs/project/ at first, and `fixtures`, a link to the repository's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')
EXIT = re.compile(r"\s+# exit code (\d+)\s*$")
INDENTED = re.compile(r"^ {4,}(?:\$ )?(isomorph .*)$", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`(isomorph [^`]*)`(?!`)")
PLACEHOLDER = re.compile(r"(?<![\w$-])[A-Z]+\b|\[options\]")
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?: ?(?:s|kB|MB|x))?(?![\w.])")


@dataclass(frozen=True)
class Block:
    """One fenced block. title: the file it is, "" for none. line: of its fence in the page."""

    page: str
    line: int
    language: str
    title: str
    body: str


@dataclass(frozen=True)
class Command:
    """A shell command with what it must print."""

    words: tuple[str, ...]
    text: str
    code: int
    expected: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        info, indent = match["info"].strip(), match["indent"]
        body = "\n".join(line.removeprefix(indent) for line in match["body"].split("\n"))
        title = TITLE.search(info)
        language = info.split()[0] if info else ""
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page.name, line, language, title[1] if title else "", body))
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block. A line that ends in a backslash goes on."""
    body = block.body.replace("\\\n", " ")
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        text, _, output = part.partition("\n")
        code = EXIT.search(text)
        text = EXIT.sub("", text).strip()
        expected = tuple(line.strip() for line in output.splitlines() if line.strip())
        yield Command(tuple(shlex.split(text, comments=True)), text, int(code[1]) if code else 0, expected)


def looked_at(page: Path) -> Iterator[str]:
    """Each `isomorph` command of a page that the tests do not run: in indented text, and in blocks of no console."""
    text = page.read_text(encoding="utf-8")
    yield from (match[1] for match in INDENTED.finditer(FENCE.sub("", text)))
    for block in blocks(page):
        if block.language not in ("console", "python", "yaml") and not block.title:
            lines = block.body.replace("\\\n", " ").splitlines()
            yield from (line.strip() for line in lines if re.match(r"\s*(\$ )?isomorph ", line))


def inline(page: Path) -> Iterator[str]:
    """Each `isomorph` command in the text of a page, and in its YAML."""
    text = page.read_text(encoding="utf-8")
    yield from (" ".join(match[1].split()) for match in INLINE.finditer(FENCE.sub("", text)))
    yield from (
        match[1] for b in blocks(page) if b.language == "yaml" for match in re.finditer(r"(isomorph .*)", b.body)
    )


def missing(expected: tuple[str, ...], output: str) -> str | None:
    """The first expected line that is not in the output after the ones before; None where all are. Numbers need not be
    the same, as times and sizes differ; "..." stands for anything, also between lines."""
    lines = [_shape(line) for line in output.splitlines()]
    at = 0
    for line in expected:
        if line == "...":
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in _shape(line).split("...")))
        at = next((i + 1 for i in range(at, len(lines)) if pattern.search(lines[i])), -1)
        if at < 0:
            return line
    return None


def _shape(line: str) -> str:
    return " ".join(NUMBER.sub("0", line).split())
