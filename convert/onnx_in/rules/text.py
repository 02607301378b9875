"""Strings: numpy arrays of dtype object, at run time. Nothing here can be differentiated or traced."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ..operands import leaf
from ..registry import rule

__all__ = ["choose_text", "equal_text", "plain"]


def plain(x: Any) -> Any:
    """An operand as the recorded program can hold it: constant strings as nested lists."""
    return strings(x).tolist() if isinstance(x, np.ndarray) else x


def strings(x: Any) -> np.ndarray:
    """The reverse of `plain`; a value of the program as an array of str."""
    array = np.asarray(x, dtype=object)
    made = np.empty(array.size, dtype=object)
    made[:] = [i.decode() if isinstance(i, bytes) else str(i) for i in array.flat]
    return made.reshape(array.shape)


def equal_text(a: Any, b: Any) -> Any:
    return texts_equal(plain(a), plain(b))


def choose_text(condition: Any, a: Any, b: Any) -> Any:
    return texts_where(condition, plain(a), plain(b))


@leaf
def texts_equal(a: Any, b: Any) -> torch.Tensor:
    """Whether strings are equal."""
    return torch.as_tensor(np.asarray(strings(a) == strings(b), dtype=bool))


@leaf
def texts_where(condition: torch.Tensor, a: Any, b: Any) -> np.ndarray:
    """Strings of a where the condition holds, else of b."""
    return strings(np.where(condition.cpu().numpy(), strings(a), strings(b)))


@rule("StringConcat", since=20)
def string_concat(a: Any, b: Any) -> Any:
    return concat_texts(plain(a), plain(b))


@leaf
def concat_texts(a: Any, b: Any) -> np.ndarray:
    """a + b of strings."""
    return strings(strings(a) + strings(b))


@rule("StringSplit", since=20)
def string_split(x: Any, *, delimiter: str = "", maxsplit: int | None = None) -> Any:
    found = split_texts(plain(x), delimiter, -1 if maxsplit is None else maxsplit)
    return found[0], found[1]


@leaf
def split_texts(x: Any, delimiter: str, maxsplit: int) -> tuple[np.ndarray, torch.Tensor]:
    """The pieces of each string, filled up with "" to the same number, and how many they are. Without a delimiter:
    between runs of whitespace."""
    array = strings(x)
    pieces = [text.split(delimiter or None, maxsplit) for text in array.flat]
    longest = max(map(len, pieces), default=0)
    made = np.empty((len(pieces), longest), dtype=object)
    for row, found in zip(made, pieces, strict=True):
        row[:] = found + [""] * (longest - len(found))
    counts = torch.tensor([len(p) for p in pieces], dtype=torch.int64).reshape(array.shape)
    return made.reshape(*array.shape, longest), counts


@rule("StringNormalizer", since=10)
def string_normalizer(
    x: Any,
    *,
    case_change_action: str = "NONE",
    is_case_sensitive: int = 0,
    locale: str = "",
    stopwords: tuple[str, ...] = (),
) -> Any:
    """The locale has no effect: letters are those of Unicode."""
    return normalize_texts(plain(x), case_change_action, bool(is_case_sensitive), tuple(stopwords))


@leaf
def normalize_texts(x: Any, case: str, sensitive: bool, stopwords: tuple[str, ...]) -> np.ndarray:
    """Strings of shape (C) or (1, C) without the stop words, in lower or upper case; one "" if none is left."""
    array = strings(x)
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
        raise ValueError(f"StringNormalizer takes strings of shape (C) or (1, C), not {array.shape}")
    stop = set(stopwords if sensitive else map(str.lower, stopwords))
    kept = [t for t in array.flat if (t if sensitive else t.lower()) not in stop] or [""]
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(case, str)
    return strings([change(t) for t in kept]).reshape(*array.shape[:-1], -1)


@rule("RegexFullMatch", since=20)
def regex_full_match(x: Any, *, pattern: str) -> Any:
    """Raises ValueError on a pattern of RE2 that Python does not have."""
    python = pattern.replace("\\z", "\\Z")
    try:
        re.compile(python)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is not one of Python's: {error}") from error
    if _repeats_repeats(PARSER.parse(python)):
        raise ValueError(f"the pattern {pattern!r} repeats what is repeated: without RE2 that may take for ever")
    return texts_match(plain(x), python)


PARSER: Any = import_module("re._parser")


def _repeats_repeats(parsed: Any, inside: bool = False) -> bool:
    """Whether an unbounded repetition stands inside another one."""
    for name, arguments in parsed:
        unbounded = str(name) in ("MAX_REPEAT", "MIN_REPEAT") and arguments[1] == PARSER.MAXREPEAT
        if unbounded and inside:
            return True
        for inner in _patterns(arguments):
            if _repeats_repeats(inner, inside or unbounded):
                return True
    return False


def _patterns(arguments: Any) -> list[Any]:
    """The patterns that a parsed element is made of."""
    if isinstance(arguments, PARSER.SubPattern):
        return [arguments]
    return [p for each in arguments for p in _patterns(each)] if isinstance(arguments, (list, tuple)) else []


@leaf
def texts_match(x: Any, pattern: str) -> torch.Tensor:
    """Whether the whole of each string matches."""
    array = strings(x)
    whole = re.compile(pattern)
    return torch.tensor([whole.fullmatch(t) is not None for t in array.flat], dtype=torch.bool).reshape(array.shape)


# ------------------------------------------------------------------------------------------------------------- n-grams
@rule("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(
    x: Any,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: tuple[int, ...],
    ngram_indexes: tuple[int, ...],
    pool_int64s: tuple[int, ...] | None = None,
    pool_strings: tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
) -> Any:
    pool: tuple[Any, ...] = pool_strings if pool_int64s is None else pool_int64s  # type: ignore[assignment]
    ends = (*ngram_counts[1:], len(pool))
    grams: list[tuple[Any, ...]] = []
    lengths = {}
    for length, (start, end) in enumerate(zip(ngram_counts, ends, strict=True), start=1):
        made = [tuple(pool[i : i + length]) for i in range(start, end, length)]
        lengths.update({len(grams) + i: length for i in range(len(made))})
        grams += made
    scales = [1.0] * len(grams) if mode == "TF" or weights is None else list(weights)
    table = [
        (gram, column, scale)
        for i, (gram, column, scale) in enumerate(zip(grams, ngram_indexes, scales, strict=True))
        if min_gram_length <= lengths[i] <= max_gram_length
    ]
    return count_grams(plain(x), table, max(ngram_indexes) + 1, max_skip_count, mode == "IDF")


@leaf
def count_grams(x: Any, table: Any, columns: int, skips: int, once: bool) -> torch.Tensor:
    """How often each n-gram occurs in each row, with up to `skips` elements left out between two of its own, times its
    weight; float32 of shape (N, columns), without N for one row.

    table: (n-gram, its column, its weight). once: count one occurrence alone.
    """
    tokens = x.cpu().numpy() if isinstance(x, torch.Tensor) else strings(x)
    found = {tuple(gram): (column, scale) for gram, column, scale in table}
    lengths = sorted({len(gram) for gram in found})
    rows = tokens[None] if tokens.ndim < 2 else tokens
    result = np.zeros((len(rows), columns), dtype=np.float32)
    weight = np.zeros(columns, dtype=np.float32)
    for column, scale in found.values():
        weight[column] = scale
    for row, counts in zip(rows.tolist(), result, strict=True):
        for length in lengths:
            for step in range(1, skips + 2 if length > 1 else 2):
                for start in range(len(row) - step * (length - 1)):
                    gram = tuple(row[start : start + step * (length - 1) + 1 : step])
                    if gram in found:
                        counts[found[gram][0]] += 1
    result = np.minimum(result, 1) * weight if once else result * weight
    device = x.device if isinstance(x, torch.Tensor) else None
    return torch.as_tensor(result[0] if tokens.ndim < 2 else result, device=device)
