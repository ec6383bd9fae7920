"""A shell's text to the words and operators that it is made of, as far as naming commands needs it.

Not a shell: nothing is expanded, and what only a shell could know (aliases, what a substitution
yields) is left out. No text makes it fail. What the words mean stands in `signatures`.
"""

from __future__ import annotations

import re

OPERATORS = "();<>|&\n"
"""A token of these alone separates or redirects; a word has none of them outside quotes."""

NESTED_MAX = 4
"""Substitutions within substitutions that are taken out whole."""

_TOKEN = re.compile(
    r"""[();<>|&\n]+|(?:[^\s();<>|&'"\\]+|\\.|'[^']*'|"(?:[^"\\]|\\.)*"|['"\\])+""", re.DOTALL
)
_QUOTES = re.compile(r"""['"\\]""")
_PIECE = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|['"\\]""", re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\$`])')
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)([A-Za-z_]\w*)\1")
_SUBSTITUTION = re.compile(r"[$<>]\([^()]*\)|`[^`]*`")
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*")


def tokens(text: str) -> list[str]:
    """Words without their quotes, and runs of operators, in order; no comments, no here-documents,
    and `_` for what a command substitution would yield. A quote that does not close is a letter.

    (The standard library's shlex takes four times as long, knows no here-documents, and refuses
    quotes that do not close.)
    """
    found = _TOKEN.findall(_without_bodies(text))
    return [_word(token) if _QUOTES.search(token) else token for token in found]


def _without_bodies(text: str) -> str:
    """The text without comments, substitutions, and the bodies of here-documents."""
    lines: list[str] = []
    end = ""
    for line in text.replace("\\\n", " ").split("\n"):
        if end:
            end = "" if line.strip() == end else end
            continue
        if found := _HEREDOC.search(line):
            end = found[2]
            line = _HEREDOC.sub("", line)
        lines.append(line)
    kept = "\n".join(lines)
    for _ in range(NESTED_MAX):
        kept, count = _SUBSTITUTION.subn("_", kept)
        if not count:
            break
    return _COMMENT.sub("", kept)


def _word(token: str) -> str:
    """A token without its quotes. What would look like an operator then is not told apart."""
    word = _PIECE.sub(_unquoted, token)
    return word if word.strip(OPERATORS) or not word else "_"


def _unquoted(piece: re.Match[str]) -> str:
    single, double, escaped = piece.groups()
    if double is not None:
        return _ESCAPED.sub(r"\1", double)
    return single or escaped or ""
