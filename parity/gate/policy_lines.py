"""Where in a gate file a key stands: for messages, SARIF and pytest. TOML's parser does not say. Standard library
only."""

from __future__ import annotations

import re

__all__ = ["Lines"]

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\s\"'-]+?)\s*\]\]?\s*(#.*)?")
_KEY = re.compile(r"\s*([\w\"'-]+)\s*[.=]")


class Lines:
    """The lines of a text. prefix: of all sections, "tool.isomorph." in a pyproject.toml. Read with the eye, not
    parsed: a key that cannot be found is told the line of its section, and a section that cannot, the first line."""

    def __init__(self, text: str, prefix: str = "") -> None:
        self._sections: dict[tuple[str, int], int] = {}  # (section, how manieth) -> line
        self._keys: dict[tuple[str, int, str], int] = {}
        counts: dict[str, int] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            header = _HEADER.fullmatch(line)
            if header is not None:
                full = "".join(header[2].split()).replace('"', "").replace("'", "")
                name = full.removeprefix(prefix) if full.startswith(prefix) else ""
                section, _, table = name.partition(".")
                if header[1] == "[[" and not table:
                    counts[section] = counts.get(section, -1) + 1
                at = counts.get(section, 0)
                self._sections.setdefault((section, at), number)
                if table:
                    self._keys.setdefault((section, at, table), number)
                continue
            key = _KEY.match(line)
            if key is not None:
                name = key[1].strip("\"'")
                self._keys.setdefault((section, counts.get(section, 0), name), number)

    def of(self, section: str, key: str = "", at: int = 0) -> int:
        """The line of a key of the `at`th section of that name; of the section's header where no key is given."""
        here = self._sections.get((section, at), self._keys.get(("", 0, section), 1))
        return self._keys.get((section, at, key), here) if key else here
