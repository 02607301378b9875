"""Inputs as the third-party models meet them: speech-like sound, notes, text as bytes, and text as an image."""

from __future__ import annotations

import numpy as np

__all__ = ["chord", "line_of_text", "page", "speech", "tokens"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

# 5 x 7 points, a row each as a number whose highest bit is the leftmost point
FONT = {
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14), "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8), "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12), "A": (14, 17, 17, 31, 17, 17, 17), "E": (31, 16, 16, 30, 16, 16, 31),
    "H": (17, 17, 17, 31, 17, 17, 17), "L": (16, 16, 16, 16, 16, 16, 31), "O": (14, 17, 17, 17, 17, 17, 14),
    "T": (31, 4, 4, 4, 4, 4, 4), " ": (0,) * 7,
}  # fmt: skip


def speech(rate: int, seconds: float, seed: int = 0) -> Array:
    """Syllables of a voice, with a pause: harmonics of a moving pitch through two formants; [samples], -1 to 1."""
    t = np.arange(int(rate * seconds)) / rate
    pitch = 130 + 25 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    first, second = 550 + 200 * np.sin(2 * np.pi * 1.3 * t), 1500 + 500 * np.sin(2 * np.pi * 0.9 * t + 1)
    sound = np.zeros_like(t)
    for k in range(1, 26):
        frequency = k * pitch
        gain = np.exp(-(((frequency - first) / 150) ** 2)) + 0.5 * np.exp(-(((frequency - second) / 250) ** 2)) + 0.02
        sound += np.where(frequency < rate / 2, gain, 0) * np.sin(k * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3.5 * t), 0, 1) ** 0.5 * (np.sin(2 * np.pi * 0.4 * t) > -0.3)
    noise = np.random.default_rng(seed).standard_normal(t.size)
    return (0.25 * sound * syllables + 0.002 * noise).astype(np.float32).clip(-1, 1)


def chord(rate: int, samples: int, midi: tuple[int, ...]) -> Array:
    """Notes struck together, dying away; [samples]."""
    t = np.arange(samples) / rate
    sound = np.zeros_like(t)
    for note in midi:
        frequency = 440 * 2 ** ((note - 69) / 12)
        for k in range(1, 7):
            sound += np.sin(2 * np.pi * k * frequency * t) * np.exp(-t * (1 + k)) / k
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def tokens(content: bytes, half: int = 1024) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """The first and the last bytes of a file, padded with 256; [2 * half]."""
    stripped = content.strip()
    first, last = list(stripped[:half]), list(stripped[-half:])
    return np.array(first + [256] * (half - len(first)) + [256] * (half - len(last)) + last, np.int32)


def line_of_text(text: str, height: int = 48, scale: int = 5) -> Array:
    """Dark letters on white; [3, height, width], from -1 to 1."""
    rows = np.zeros((7, 6 * len(text) + 1))
    for at, letter in enumerate(text):
        for y, bits in enumerate(FONT[letter]):
            rows[y, 6 * at + 1 : 6 * at + 6] = [bits >> (4 - x) & 1 for x in range(5)]
    ink = np.kron(rows, np.ones((scale, scale)))
    margin = height - ink.shape[0]
    ink = np.pad(ink, ((margin // 2, margin - margin // 2), (2 * scale, 2 * scale)))
    for axis in (0, 1):  # as a scanner blurs
        ink = (np.roll(ink, 1, axis) + 2 * ink + np.roll(ink, -1, axis)) / 4
    return np.repeat((1 - 1.8 * ink)[None], 3, 0).astype(np.float32)


def page(lines: tuple[str, ...], height: int, width: int) -> Array:
    """Lines of text one below the other; [3, height, width], from -1 to 1."""
    sheet = np.ones((3, height, width), np.float32)
    for number, text in enumerate(lines):
        line = line_of_text(text, 48, 3)[:, :, : width - 20]
        top = 20 + 64 * number
        sheet[:, top : top + 48, 10 : 10 + line.shape[2]] = line
    return sheet
