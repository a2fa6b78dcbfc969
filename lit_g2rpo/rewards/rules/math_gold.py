"""Gold answers of mathematics: whether one is a value that another answer than its own text can meet."""

import re

from lit_g2rpo.rewards.answers.notation import is_balanced, is_explosive, is_words, normal_form
from lit_g2rpo.rewards.answers.quantities import quantity, value
from lit_g2rpo.rewards.rules.math import MAX_RESULT_CHARACTERS
from lit_g2rpo.rewards.running.pool import TimedOut, current_pool

MAX_NAME_WORDS = 6

_PLACEHOLDERS = {"n/a", "nan", "null", "tbd", "-", "--", "?", "{}", "[]"}
_VERBS = {
    "is", "are", "was", "were", "has", "have", "had", "equals", "equal", "gives", "give", "therefore", "thus",
}  # fmt: skip
_LEAD_IN = {
    "answer", "answers", "result", "solution", "total", "about", "approximately", "approx", "around", "roughly",
}  # fmt: skip
_PROSE = {
    "ans", "or", "and", "the", "is", "are", "see", "not", "for", "to", "of", "at", "if", "no", "per", "by", "than",
    "as", "so", "we", "it", "its", "be",
}  # fmt: skip
_FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "lg",
    "exp", "max", "min", "gcd", "lcm", "mod", "arg", "cis", "det", "deg", "dim", "rank", "sgn", "sqrt",
}  # fmt: skip
# 3 and 4, and x = 3 or x = 4, are sets of solutions, but 3 or 4 is not
_JOINED = re.compile(r"(?<==)([^=]*?)(?:\\text\{ ?or ?\}|\bor\b)(?=[^=]*=)|(?:\\text\{ ?and ?\}|\band\b)")
_OPTION = re.compile(r"(?:[A-H][.:)]|\([A-H]\)) \S|(?:[Oo]ption|[Cc]hoice|[Aa]nswer) ?\(?[A-H]\)?$|.*\d \([A-H]\)$")
_NO_NUMBER = re.compile(r"(?<![_\d])\d+ \d|\d\.\d+\.\d|\d[eE][+-]?\d{3}", re.ASCII)
# what math-verify leaves as text, and what is compared as text
_WRITTEN = re.compile(
    r"-?\d*\.\d*\\overline ?\{\d+\}|\\\{[^|]+(?:\||\\mid)[^|]+\\\}|(?:[^\\=]+=|\\\{)? ?\\begin\{.*\\end\{[a-z]+\}"
)
_MONEY = re.compile(r"^[\u20ac\xa3\xa5\uffe5\u20b9] ?|(?<=\d) ?(?:[\u20ac\xa3\xa5\uffe5\u20b9]|[\u4e00-\u9fff]{1,4})$")
_LABEL = re.compile(r"(?:[A-Z][a-z]+,? ){1,3}#?\d+|[\u2460-\u2473\u2160-\u216b,;\u3001 ]+")
_BEHIND = re.compile(
    r"(?:\\(?:text|mathrm|textrm|mbox) ?\{[A-Za-z ./]+\}|(?: [A-Za-z]+\.?){1,2})(?: ?\^ ?\{?[23]\}?)?$"
)
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d)? ?([ap]\.? ?m\.?)?", re.ASCII | re.IGNORECASE)
_COMMAND = re.compile(r"\\[A-Za-z]+")
# environments and their columns, and what is set upright: names, not words
_UPRIGHT = re.compile(r"\\(?:begin|end) ?\{[a-z*]+\}(?:\{[lcr|]+\})?|\\(?:mathbb|mathcal|operatorname) ?\{[A-Za-z]+\}")
_RUN = re.compile(r"[A-Za-z]{2,}")
# points, lines and shapes are written, and compared, as names
_FIGURE = re.compile(
    r"(?:\\(?:triangle|angle|parallel|perp|cong|sim|odot|overline|overset|frown|overrightarrow|widehat|square|text|mathrm|"
    r"cup|cap|setminus|subset|subseteq|to)|[A-Z{}\s'\u2220\u25b3\u2225\u22a5\u2299\u224c\u223d])*[A-Z]['}]*"
)

_STRUCTURE = {"\\frac": "F", "\\sqrt": "R", "\\cdot": "*", "\\times": "*", "\\div": "/", "\\pm": "+", "\\mp": "+"}
_STRUCTURE |= dict.fromkeys(("\\le", "\\leq", "\\ge", "\\geq", "\\lt", "\\gt", "\\ne", "\\neq", "<", ">"), "=")
_STRUCTURE[":"] = "/"
_SYMBOLS = "alpha beta gamma delta theta lambda mu pi rho sigma phi varphi omega infty circ sin cos tan log ln"
_STRUCTURE |= {f"\\{name}": "a" for name in _SYMBOLS.split()}
_TOKEN = re.compile(r"\\[A-Za-z]+|(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\.\d+|[A-Za-z]|[<>:]", re.ASCII)
_SUM = r"[+-]?a(?:[+\-*/]?a)*"
_REDUCED = (
    (re.compile(rf"\{{{_SUM}\}}"), "g"),
    (re.compile(rf"\({_SUM}\)"), "a"),
    (re.compile(r"F[ga][ga]|R(?:\[a\])?[ga]|a[\^_][ga]"), "a"),
)
_RESULT = re.compile(rf"{_SUM}(?:=-?{_SUM})*|[\[(]{_SUM}(?:,{_SUM})+[\])]|(?:\\\{{)?{_SUM}(?:,{_SUM})*(?:\\\}})?")


def math_gold(text: str) -> str | None:
    """Say why the gold answer of a mathematical question is no value, as the reader of answers reads it.

    Args:
        text: the gold answer, without tags and box.

    Returns:
        A few words, such as ``is a sentence``; None if it is a number, a name, or an expression that can be read.

    Raises:
        UserError: if algebra is needed, and its processes cannot be started.
    """
    if len(text) > MAX_RESULT_CHARACTERS:
        return f"has {len(text)} characters, more than {MAX_RESULT_CHARACTERS}"
    text = normal_form(text)
    if not text or text.casefold() in _PLACEHOLDERS:
        return "says that there is none"
    if _OPTION.match(text):
        return "names an option; give its letter and 'options', or the result alone"
    if is_words(text):
        return _words_error(text)
    if not is_balanced(text):
        return "has brackets or braces that do not close"
    text = _MONEY.sub("", text)
    if value(quantity(text).body) is not None or _CLOCK.fullmatch(text) or _FIGURE.fullmatch(text):
        return None
    if _LABEL.fullmatch(text) and (_LEAD_IN | _PROSE).isdisjoint(_RUN.findall(text.casefold())):
        return None
    if found := _prose(text):
        either = "; write {7, 8} for both, or a list of texts if any is right" if found == "or" else ""
        return f"has the word {found!r} beside the result{either}"
    if _NO_NUMBER.search(text) and "\\begin" not in text:
        return "holds a number that cannot be read"
    if is_explosive(text):
        return "is too large to compute"
    if _WRITTEN.fullmatch(text) or _is_expression(text):
        return None
    try:
        return None if current_pool().reads(text) else "is no mathematics that can be read"
    except TimedOut:
        return "takes too long to read"


def _words_error(text: str) -> str | None:
    words = re.findall(r"\w+", text.casefold())
    if "or" in words:
        return "has the word 'or'; give a list of texts if any is right"
    if len(words) > MAX_NAME_WORDS or not _VERBS.isdisjoint(words[1:]) or (len(words) > 1 and words[0] in _LEAD_IN):
        return "is a sentence"
    return None


def _prose(text: str) -> str | None:
    """Find a word that is no product of symbols, function or unit."""
    text = _JOINED.sub(r"\1,", text)
    # a unit, or what is counted
    if (behind := _BEHIND.search(text)) and (_PROSE | _VERBS).isdisjoint(_RUN.findall(behind[0].casefold())):
        text = text[: behind.start()]
    for run in _RUN.findall(_COMMAND.sub(" ", _UPRIGHT.sub(" ", text))):
        word = run.casefold()
        if word in _FUNCTIONS or (run.isupper() and len(run) <= 5):
            continue
        in_order = list(word) == sorted(word)
        if word in _PROSE or (len(word) > 3 and not in_order):
            return str(run)
    return None


def _is_expression(text: str) -> bool:
    """Tell a plain expression, equation or tuple of numbers, letters, roots, fractions and powers, without algebra.

    False says nothing.
    """
    unknown = False

    def reduced(token: re.Match[str]) -> str:
        nonlocal unknown
        name = token[0]
        found = _STRUCTURE.get(name, "?" if name.startswith("\\") else "a")
        unknown = unknown or found == "?"
        return found

    text = _TOKEN.sub(reduced, text).replace(" ", "")
    before = ""
    while text != before and not unknown:
        before = text
        for pattern, short in _REDUCED:
            text = pattern.sub(short, text)
    return not unknown and bool(_RESULT.fullmatch(text))
