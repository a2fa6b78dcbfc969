"""Gold answers of math questions: whether any answer other than the same text can match one."""

import re

from lit_g2rpo.rewards.answers.cost import slow_to_read
from lit_g2rpo.rewards.answers.notation import is_balanced, is_explosive, is_words, normal_form
from lit_g2rpo.rewards.answers.quantities import NO_NOUNS, Quantity, quantity, values_agree
from lit_g2rpo.rewards.answers.results import MAX_RESULT_CHARACTERS, Result, result
from lit_g2rpo.rewards.answers.terms import Term, TooDeep, term
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
_NO_NAMES = _LEAD_IN | _PROSE
_FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "lg",
    "exp", "max", "min", "gcd", "lcm", "mod", "arg", "cis", "det", "deg", "dim", "rank", "sgn", "sqrt",
}  # fmt: skip
_OPTION = re.compile(r"(?:[A-H][.:)]|\([A-H]\)) \S|(?:[Oo]ption|[Cc]hoice|[Aa]nswer) ?\(?[A-H]\)?$|.*\d \([A-H]\)$")
_NO_NUMBER = re.compile(r"(?<![_\d])\d+ \d|\d\.\d+\.\d|\d[eE][+-]?\d{3}", re.ASCII)
_SET_BUILDER = re.compile(r"\\\{[^|]+\|[^|]+\\\}")
_LABEL = re.compile(
    r"\d{1,4}(?:st|nd|rd|th)(?: [A-Za-z]+){0,3}|(?:[A-Z][a-z]+,? ){1,3}#?\d+|[\u2460-\u2473\u2160-\u216b,;\u3001 ]+"
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
# environments and their columns, and upright text: names, not words
_UPRIGHT = re.compile(r"\\(?:begin|end) ?\{[a-z*]+\}(?:\{[lcr|]+\})?|\\(?:mathbb|mathcal|text) ?\{[A-Za-z]+\}")
_RUN = re.compile(r"[A-Za-z]{2,}")
# points, lines and shapes are written and compared as names
_FIGURE = re.compile(
    r"(?:\\(?:triangle|angle|parallel|perp|cong|sim|odot|overline|overset|frown|overrightarrow|widehat|square|text|"
    r"cup|cap|setminus|subset|subseteq|rightarrow)|[A-Z{}\s'\u2220\u25b3\u2225\u22a5\u2299\u224c\u223d])*[A-Z]['}]*"
)

_SIDE = re.compile(r"[=<>]|\\(?:[A-Za-z]*arrow|le|ge|neq|in|approx|equiv)(?![A-Za-z])")
_FIELD = re.compile(r"\\mathbb\{([A-Z])\}")
_NAMES = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|phi|omega|Omega|Delta|infty|emptyset"
_SYMBOL = re.compile(rf"(?:[A-Za-z]|\\(?:{_NAMES}))(?:_.*)?")


def math_gold(text: str) -> str | None:
    """Say why the reader of answers gets no value from the gold answer of a math question.

    Args:
        text: the gold answer, without tags and box.

    Returns:
        A few words, such as ``is a sentence``; None if it is a number, a name, or an expression that can be read.

    Raises:
        UserError: if algebra is needed, and its processes cannot be started.
    """
    if len(text) > MAX_RESULT_CHARACTERS:
        return f"has {len(text)} characters, more than {MAX_RESULT_CHARACTERS}"
    form = normal_form(text)
    if not form or form.casefold() in _PLACEHOLDERS:
        return "says that there is none"
    if _OPTION.match(form):
        return "names an option; give its letter and 'options', or the result alone"
    if is_words(form):
        return _words_error(form)
    if not is_balanced(form):
        return "has brackets or braces that do not close"
    found = result(text)
    if found is not None and found.either and not all(item.name or _SIDE.search(item.body) for item in found.items):
        return "has the word 'or' beside the result; write {7, 8} for both, or a list of texts if any is right"
    if _FIGURE.fullmatch(form) or (_LABEL.fullmatch(form) and _NO_NAMES.isdisjoint(_RUN.findall(form.casefold()))):
        return None
    if word := _prose(form, found):
        return f"has the word {word!r} beside the result"
    if found is not None and found.items and all(item.value is not None for item in found.items):
        return None if all(map(_is_true, found.items)) else "has sides that are not equal"
    if _NO_NUMBER.search(form) and "\\begin" not in form:
        return "holds a number that cannot be read"
    if is_explosive(form) or slow_to_read(form):
        return "is too large to compute"
    if found is None:
        return "is no mathematics that can be read"
    if _SET_BUILDER.fullmatch(form) or all(map(_is_plain, _sides(found))):
        return None
    try:
        return None if current_pool().reads(_body(found)) else "is no mathematics that can be read"
    except TimedOut:
        return "takes too long to read"


def _words_error(text: str) -> str | None:
    words = re.findall(r"\w+", text.casefold())
    if "or" in words:
        return "has the word 'or'; give a list of texts if any is right"
    if len(words) > MAX_NAME_WORDS or not _VERBS.isdisjoint(words[1:]) or (len(words) > 1 and words[0] in _LEAD_IN):
        return "is a sentence"
    return None


def _is_true(item: Quantity) -> bool:
    """Return whether this is a chain whose numeric sides are all equal: ``3+4=7``."""
    sides = [quantity(side) for side in item.sides]
    return all(side is None or side.value is None or values_agree(side, item) for side in sides)


def _prose(form: str, found: Result | None) -> str | None:
    """Find a word that is not a product of symbols, a function, a unit, a name or a counted noun."""
    items = found.items if found else ()
    for item in items:
        if counted := sorted((NO_NOUNS | _PROSE | _VERBS) & set(_RUN.findall(item.words.casefold()))):
            return counted[0]
    words = [word for part in _sides(found) for word in _prose_words(part)] if found else _prose_words(form)
    # as written: the split parts have no blanks
    return next(iter(_prose_words(form) or words)) if words else None


def _prose_words(form: str) -> list[str]:
    runs = _RUN.findall(_COMMAND.sub(" ", _UPRIGHT.sub(" ", form)))
    return [
        run
        for run in runs
        if not (run.casefold() in _FUNCTIONS or (run.isupper() and len(run) <= 5))
        and (run.casefold() in _PROSE or (len(run) > 3 and list(run.casefold()) != sorted(run.casefold())))
    ]


def _sides(found: Result) -> list[str]:
    """List the formulas of a result: the sides of its items, or of a relation."""
    parts = [part for item in found.items for part in (*item.sides, item.body)] or [found.form]
    return [_FIELD.sub(r"\1", side) for part in parts for side in _SIDE.split(part)]


def _body(found: Result) -> str:
    """Return the part of a result that algebra compares: one formula without its name and unit, else all of it."""
    return found.items[0].body if found.kind == "one" and not found.items[0].sides else found.form


def _is_plain(form: str) -> bool:
    """Return True for a complete formula of numbers, letters, roots, fractions, powers and functions, else unknown."""
    try:
        return _all_plain(term(form))
    except TooDeep:
        return False


def _all_plain(tree: Term) -> bool:
    if tree.kind in ("number", "mixed", "repeating"):
        return True
    if tree.kind == "symbol":
        return _SYMBOL.fullmatch(tree.text) is not None
    return bool(tree.parts) and tree.text != "derivative" and all(map(_all_plain, tree.parts))
