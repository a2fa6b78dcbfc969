"""Notation of mathematical results: unify it, and reject what should not be read."""

import math
import re

from lit_g2rpo.rewards.answers.latex import DOLLAR, NARROW, TIGHT, rewritten
from lit_g2rpo.rewards.answers.symbols import FUNCTIONS, LOWERED, RAISED, TYPED
from lit_g2rpo.rewards.answers.text import fold

MAX_DEPTH = 16
MAX_DIGITS = 5
"""Most digits of a power, or of the argument of a factorial, that is computed."""

_TYPED_NAMES = {
    name: name for name in str.split("sin cos tan cot csc log ln gcd lcm arcsin arccos arctan sqrt pi theta")
}
_TYPED_NAMES["infinity"] = "infty"
_TYPED_CALLS = {name: name for name in str.split("max min abs floor ceil round det sec sinh cosh tanh")}
_LETTERS = re.compile(r"\\(?:text|math|mbox|operatorname|begin|end)[a-z]{0,6} ?\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]+\(?")
_EMPHASIS = re.compile(r"(?<![\w)}\]])\*\*([^*]+)\*\*(?![\w({\\])")
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207b\u207f]+")
_LOWERED = re.compile("[\u2080-\u2089]+")
_ROW_GAP = re.compile(r"(\\\\) ?\[-?[\d.]{1,8}[a-z]{2}\]")
_BRACED_COMMA = re.compile(r"\d+(?:\{, ?\} ?\d+)+", re.ASCII)
_NARROW_GROUP = re.compile(rf"(?<=\d)(?:{NARROW}+|,{TIGHT}[{TIGHT} ]*)(?=\d{{3}}(?!\d))", re.ASCII)
_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
_SPACED = re.compile(r"([-+]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?)(?! ?[\d/]| ?\\frac)", re.ASCII)
_TEXT = re.compile(r"(?<![\d}\ue000 ])\\text\{ ?([A-Za-z]) ?\}|\\text\{([^{}\\]*)\}")
_ONE_LETTER = re.compile(r"(?<![\^_}\]\w])\{(\w)\}")
_RANGE = re.compile(r"(?<=[\d}$%]) ?(?:\u2013|~|\uff5e) ?(?=[\d$])")
_INSIDE_BRACES = re.compile(r" +(?=[}^_]|(?<!\\)\{)|(?<=[{^_]) +")
_BLANK = re.compile(r"(\\[A-Za-z]+ (?=[A-Za-z])|\d (?=\d))| ", re.ASCII)
_MONEY = re.compile(r"\$(?= ?[-+]?[\d.])", re.ASCII)
_TIME = re.compile(
    r"(?<![\d.:])(\d{1,2})(:\d\d(?::\d\d)?)? ?(?:\\text\{ ?)?([AaPp])\.? ?[Mm](?:\.|(?![A-Za-z]))\}?", re.ASCII
)
_LONE = re.compile(r"(?<![\^_}])\{(:|=|\\times|\\cdot|\+|-)\}")
_OLD_FONT = re.compile(r"(?<![}A-Za-z])\{ ?\\(?:rm|bf|it|sf|tt)(?![A-Za-z]) ?([^{}\\]*)\}")
_OVER = re.compile(r"((?:[^{}]|\{[^{}]*\})*?)\\over(?![A-Za-z])((?:[^{}]|\{[^{}]*\})*)")
_OLD_FRACTION = re.compile(rf"\{{{_OVER.pattern}\}}")
_POWER = re.compile(r"\^[{( -]{0,8}(\d{1,400})", re.ASCII)
_TOWER = re.compile(r"\^[{( -]{0,8}(\d{1,18})[)} ]{0,8}\^[{( -]{0,8}(\d{1,18})", re.ASCII)
_FACTORIAL = re.compile(rf"\d{{{MAX_DIGITS},400}}[)}} ]{{0,8}}!|![)}} ]{{0,8}}!", re.ASCII)
_NESTED = re.compile(r"[({\[][^{}]*[)}\]]")
_WORD = re.compile(r"[^\W\d_]{3}")


def normal_form(text: str) -> str:
    r"""Unify how a result is written: wrappers, fonts, blanks, signs, digit groups, braces, a final period.

    ``1{,}000``, ``1\,000`` and ``11,\! 111`` are whole numbers, ``0{,}5`` is a decimal comma.
    """
    text = fold(text)
    if not text.isascii():
        text = _RAISED.sub(lambda m: f"^{{{m[0].translate(RAISED)}}}", text)
        text = _LOWERED.sub(lambda m: f"_{{{m[0].translate(LOWERED)}}}", text).translate(TYPED)
    if text.endswith("\\") and not text.endswith("\\\\"):
        text = text[:-1].strip()
    text = _RANGE.sub("\u2013", _without_stop(_without_emphasis(text)))
    if is_words(text) and text not in _TYPED_NAMES:
        return text
    if "{" in text or "\\over" in text:
        text = _old_style(text)
    text = _unboxed(rewritten(_LETTERS.sub(_typed_name, _TIME.sub(_time, text)).replace("**", "^")))
    text = _ROW_GAP.sub(r"\1", _without_delimiters(text))
    text = _BRACED_COMMA.sub(_decimal, _INSIDE_BRACES.sub("", text))
    text = _NARROW_GROUP.sub("", text).replace(NARROW, " ").replace(TIGHT, "").replace("^{\\circ}", "^\\circ")
    for _ in range(3):
        text = _TEXT.sub(_of_text, text)
    text = _ONE_LETTER.sub(r"\1", " ".join(text.split()))
    if "(" not in text and "[" not in text and "\\{" not in text:
        text = _SPACED.sub(_joined_groups, _GROUPS.sub(_joined_groups, text))
    text = _without_stop(_without_braces(text))
    return _only_text(text)


def compact(form: str) -> str:
    """Drop meaningless blanks from a normal form; ``3 1/2`` keeps its blank."""
    return _BLANK.sub(r"\1", form) if " " in form else form


def is_words(text: str) -> bool:
    """Return whether a result in normal form is a name or words, whose letters are not symbols to multiply.

    Returns:
        True for letters alone, and for words of three letters or more with punctuation between them.
    """
    if text.replace(" ", "").isalpha():
        return True
    return bool(_WORD.search(text)) and all(mark.isalpha() or mark in " ,.;:'\"-()" for mark in text)


def is_balanced(text: str) -> bool:
    """Return whether braces close in order and brackets match in number; ``[0, 1)`` is balanced.

    Returns:
        False for a result that would break out of its box, and for one nested beyond ``MAX_DEPTH``.
    """
    braces = brackets = 0
    for mark in text.replace("\\{", "").replace("\\}", ""):
        braces += (mark == "{") - (mark == "}")
        brackets += (mark in "([") - (mark in ")]")
        if braces < 0 or brackets < 0 or braces + brackets > MAX_DEPTH:
            return False
    return braces == brackets == 0


def is_explosive(text: str) -> bool:
    """Return whether computing a result needs numbers too long for a final result, as ``9^9^9`` or ``99999999!`` does.

    Returns:
        True if an exponent, written out or as a power itself, or the argument of a factorial has more than
        ``MAX_DIGITS - 1`` digits.
    """
    if _FACTORIAL.search(text) or any(len(power) >= MAX_DIGITS for power in _POWER.findall(text)):
        return True
    towers = ((int(base), int(power)) for base, power in _TOWER.findall(text))
    return any(base > 1 and power * math.log10(base) >= MAX_DIGITS for base, power in towers)


def _without_emphasis(text: str) -> str:
    text = _EMPHASIS.sub(r"\1", text).strip("`").strip()
    return text[1:-1] if text[:1] == text[-1:] == "*" and text.count("*") == 2 else text


def _without_stop(text: str) -> str:
    return text if text.endswith("..") else text.removesuffix(".").strip()


def _time(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2] or ':00'} {found[3].lower()}m"


def _upright(found: re.Match[str]) -> str:
    text = f"\\text{{{found[1]}}}"
    return f"{{{text}}}" if found.string[: found.start()].endswith(("^", "_")) else text


def _old_style(text: str) -> str:
    r"""Rewrite commands that stand inside braces: ``{\rm cm}``, ``{1 \over 2}``, ``6{\times}10^5``."""
    text = _OLD_FONT.sub(_upright, _LONE.sub(r"\1", text))
    if "\\over" not in text:
        return text
    whole = _OVER.fullmatch(text.replace("$", ""))
    return _OLD_FRACTION.sub(r"\\frac{\1}{\2}", f"\\frac{{{whole[1]}}}{{{whole[2]}}}" if whole else text)


def _typed_name(found: re.Match[str]) -> str:
    word = found[0]
    if word[0] == "\\":
        return word
    if word[-1] == "(" and word[:-1] in _TYPED_CALLS:
        return f"\\{word}"
    name = _TYPED_NAMES.get(word.rstrip("("))
    return f"\\{name} {'(' if word[-1] == '(' else ''}" if name else word


def _unboxed(text: str) -> str:
    while True:
        opener = next((name for name in ("\\boxed{", "\\fbox{", "\\text{") if text.startswith(name)), "")
        if not opener or _closing(text, len(opener)) != len(text) - 1:
            break
        text = text[len(opener) : -1].strip()
    start, end = text.find("\\boxed{"), -1
    if start >= 0 and text.count("\\boxed{") == 1:
        end = _closing(text, start + len("\\boxed{"))
    if end < 0 or text[:start][-1:].isalnum() or text[end + 1 :].lstrip()[:1].isdigit():
        return text
    return text[:start] + text[start + len("\\boxed{") : end] + text[end + 1 :]


def _closing(text: str, start: int) -> int:
    """Return the index of the brace that closes the one before ``start``; -1 if there is none."""
    depth = 1
    for at in range(start, len(text)):
        if text[at] in "{}" and text[at - 1] != "\\":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return at
    return -1


def _without_delimiters(text: str) -> str:
    """Remove the dollar signs around formulas; a single one before a number is money."""
    if text.count("$") % 2:
        text = _MONEY.sub(DOLLAR, text, count=1)
    return text.replace("$", "").replace(DOLLAR, "$").strip()


def _decimal(found: re.Match[str]) -> str:
    first, *groups = re.split(r"\{, ?\} ?", found[0])
    if len(groups) == 1 and (len(groups[0]) != 3 or first == "0"):
        return f"{first}.{groups[0]}"
    return first + "".join(groups) if all(len(group) == 3 for group in groups) else found[0]


def _joined_groups(found: re.Match[str]) -> str:
    return found[0].replace(",", "").replace(" ", "")


def _of_text(found: re.Match[str]) -> str:
    r"""Unwrap text that is not a unit or word from its command: ``\mathrm{e}``, ``\text{or 8}``."""
    if found[1]:
        return found[1]
    words = " ".join(found[2].split())
    if words in FUNCTIONS:
        return f"\\{words} "
    if words in ("e", "i") or any(mark.isdigit() for mark in words) or not words:
        return f" {words} "
    return f"\\text{{{words}}}"


def _without_braces(text: str) -> str:
    while text[:1] == "{" and _closing(text, 1) == len(text) - 1:
        text = text[1:-1].strip()
        if "," in _NESTED.sub("", text):
            # a set as people type it
            return f"\\{{{text}\\}}"
    return text


def _only_text(text: str) -> str:
    found = _TEXT.fullmatch(text)
    return (found[1] or found[2]).strip() if found else text
