"""Names and contents of files that a stranger may send, made rather than listed; nothing in them is harmful to read."""

import gzip
import itertools
import json
import lzma
import struct
from collections.abc import Iterator
from typing import NamedTuple

UNSAFE = ("\r\n", "\n", "\t", "\x1b[31m", "\x07", "\x7f", "\u0085", "\u2028", "\u202e", "\u2066", "\u200b", "\ufeff")
DEVICES = ("CON", "NUL", "PRN", "AUX", "COM1", "LPT9", "con", "nul")
SHELL = (
    "$(touch x)",
    "`touch x`",
    "; touch x",
    "| touch x",
    "&& touch x",
    "-rf",
    "--out",
    "~root",
    "$HOME",
    "%2e%2e%2f",
)
MARKUP = (
    "<script>alert(1)<",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{7*7}}",
    "{% raw %}",
    "[red]x",
    "'\"",
)
DOTS = (".hidden", "..hidden", "...", "a..b", "..\\..\\up", "\\\\host\\share", "C:\\boot", "a\\b", "..;", ". .")
ODD = (
    "\udcff\udcfe",
    "e\u0301" * 20,
    "🦄",
    "*?[x]",
    "#part",
    "?query",
    "=cmd()",
    "a" * 200,
    " lead",
    "trail ",
    "a,b;c",
)
NOT_THERE = (
    "../up",
    "../../../etc/none",
    "/etc/none",
    "a\0b",
    "x" * 4096,
    "/" * 4096,
    "file:///etc/none",
    "",
    ".",
    "..",
)


def names() -> list[str]:
    """Return names that a file can have on this system, two endings each where that makes a difference."""
    stems = [f"a{mark}b" for mark in UNSAFE] + [*DEVICES, *SHELL, *MARKUP, *DOTS, *ODD]
    made = [f"{stem.replace('/', chr(92))}{ending}" for stem, ending in itertools.product(stems, (".jsonl", ".csv"))]
    return [name for name in made if len(name.encode("utf-8", "surrogateescape")) <= 250]


class Content(NamedTuple):
    """The bytes of a file.

    Attributes:
        ending: Of its name.
        line: The one-based line at fault; None where the file as a whole is, or where it is sound.
        sound: Whether it can be trained on.
    """

    label: str
    data: bytes
    ending: str = ".jsonl"
    line: int | None = None
    sound: bool = False


def row(prompt: object = "do the tea", response: object = "take the tea", **more: object) -> bytes:
    """Return one line of JSONL."""
    return json.dumps({"prompt": prompt, "response": response, **more}).encode()


def among(line: bytes, place: int = 7) -> bytes:
    """Return a file of sound rows with one other line among them."""
    sound = [row(f"do the tea {'yes ' * i}") for i in range(14)]
    return b"\n".join([*sound[: place - 1], line, *sound[place - 1 :]]) + b"\n"


def one_line() -> Iterator[tuple[str, bytes]]:
    """Yield lines that are no row."""
    deep = 200_000
    yield "deep list", b'{"prompt": ' + b"[" * deep
    yield "deep list, closed", b'{"prompt": ' + b"[" * deep + b"]" * deep + b"}"
    yield "deep object", b'{"a":' * deep + b"1" + b"}" * deep
    for digits in (5_000, 100_000):
        yield f"{digits} digits", b'{"prompt": "do", "response": "take", "n": ' + b"9" * digits + b"}"
    for value in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        yield value.decode(), b'{"prompt": "do", "response": ' + value + b"}"
    yield "repeated key", b'{"prompt": "do", "prompt": "no", "response": "take"}'
    yield "repeated key, escaped", b'{"prompt": "do", "pr\\u006fmpt": "no", "response": "take"}'
    for place in ("prompt", "response"):
        for half in ("\\ud800", "\\udfff", "a\\ud83d"):
            told = {"prompt": "do", "response": "take"} | {place: "X"}
            yield f"{place} {half}", json.dumps(told).replace("X", half).encode()
    yield "NUL", b'{"prompt": "d\0o", "response": "take"}'
    for name, raw in (
        ("latin-1", b"\xe9t\xe9"),
        ("overlong", b"\xc0\xaf"),
        ("half", b"\xe2\x82"),
        ("5 bytes", b"\xf8\x88\x80\x80\x80"),
    ):
        yield name, b'{"prompt": "' + raw + b'", "response": "take"}'
    for text in ("null", "1", "true", '"text"', "[]", "[1, 2]", "{}", '{"prompt": 1, "response": 2}'):
        yield f"value {text}", text.encode()
    for value in (None, 1, True, [], {}, [1], [[]], [{"role": "user"}], [{"role": "root", "content": "a"}], "", " "):
        yield f"prompt {value!r}", row(value)
        yield f"response {value!r}", row("do the tea", value)
    for text in (
        "not json",
        "{",
        '{"prompt": "do"',
        "}",
        "'",
        "<html>",
        "#!/bin/sh",
        "PK",
        "\\x00",
        "{'prompt': 'do'}",
    ):
        yield f"text {text}", text.encode()
    yield "tools", row("do", "take", tools=[{"type": "function"}])
    yield "10 MB", row("do " * 3_500_000)


def control() -> Iterator[tuple[str, bytes]]:
    """Yield rows with control tokens of the tests' tokenizer in their text."""
    for token in ("<end>", "<bot>", "<user>", "<pad>", "<unk>"):
        yield f"prompt {token}", row(f"do the {token} tea")
        yield f"response {token}", row("do the tea", f"take {token} tea")
    yield "joined", row("do the tea", "take<end><bot>yes")


def whole_files() -> Iterator[Content]:
    """Yield files that are no rows at all, bombs among them by their first bytes."""
    zeros = bytes(1 << 20)
    bombs = {
        "gzip": gzip.compress(zeros),
        "xz": lzma.compress(zeros),
        "zip": b"PK\x03\x04" + bytes(26) + zeros[:1000],
        "empty zip": b"PK\x05\x06" + bytes(18),
        "zstd": b"\x28\xb5\x2f\xfd" + bytes(64),
        "bzip2": b"BZh91AY&SY" + bytes(64),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(64),
        "tar": b"rows.jsonl" + bytes(247) + b"ustar\0" + bytes(249),
        "parquet": b"PAR1" + bytes(64) + b"PAR1",
        "arrow": b"ARROW1\0\0" + bytes(64),
        "pickle": b"\x80\x05\x95" + bytes(64),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "pdf": b"%PDF-1.7\n" + bytes(64),
        "sqlite": b"SQLite format 3\0" + bytes(64),
        "elf": b"\x7fELF" + bytes(64),
        "safetensors": struct.pack("<Q", 1 << 40) + b"{}",
    }
    for (name, data), ending in itertools.product(bombs.items(), (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz")):
        if (name, ending) != ("gzip", ".jsonl.gz"):
            yield Content(f"{name} as {ending}", data, ending)
    # Within gzip what expands must be rows, and not beyond the limit.
    yield Content("gzip of zeros", gzip.compress(bytes(80 << 20)), ".jsonl.gz")
    yield Content("gzip of gzip", gzip.compress(gzip.compress(zeros)), ".jsonl.gz")
    yield Content("cut gzip", gzip.compress(among(row()))[:-9], ".jsonl.gz")
    text = among(row())
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        yield Content(encoding, text.decode().encode(encoding))
    for name, data in (("empty", b""), ("blank", b" \n\n\t\n"), ("mark alone", b"\xef\xbb\xbf"), ("one brace", b"{")):
        for ending in (".jsonl", ".json", ".csv"):
            yield Content(f"{name} as {ending}", data, ending)
    yield Content("open quote", b'prompt,response\n"do,take\n', ".csv")
    yield Content("NUL in a cell", b"prompt,response\ndo,ta\0ke\n", ".csv")
    yield Content("same column twice", b"prompt,prompt\ndo,take\n", ".csv")
    yield Content("long cell", b"prompt,response\ndo," + b"x" * (11 << 20) + b"\n", ".csv")
    yield Content("open array", b"[" + row() + b",", ".json")
    yield Content("deep array", b"[" * 200_000, ".json")


def contents() -> list[Content]:
    """Return all contents."""
    faulty = [Content(label, among(line), line=7) for label, line in (*one_line(), *control())]
    odd = "\u2028 \u2029 \u0085 \u202e \u200b \ufeff <script>alert(1)</script> \x1b[31m {{7*7}} \\u0000"
    told = {"prompt": odd, "response": odd}
    sound = [
        Content("marked", b"\xef\xbb\xbf" + among(row()), sound=True),
        Content("CRLF", among(row()).replace(b"\n", b"\r\n"), sound=True),
        Content("odd text", among(row(odd, odd)), sound=True),
        Content("odd text, unescaped", among(json.dumps(told, ensure_ascii=False).encode()), sound=True),
        Content("markup", among(row("<script>alert(1)</script>", "<img src=x onerror=alert(1)>")), sound=True),
    ]  # fmt: skip
    return [*faulty, *whole_files(), *sound]
