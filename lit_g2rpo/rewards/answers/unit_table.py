"""A closed list of units by spelling, with their size in base units, and of words that scale a number.

A units library would read ``7 k`` as Boltzmann's constant and ``2 h`` as Planck's. Whatever it would add to this list
would only cause such misreadings.
"""

from fractions import Fraction

Entry = tuple[Fraction, dict[str, int]]
"""Size of a unit in base units, and the powers of the base units."""

_PREFIXES = {
    "p": (-12, "pico"), "n": (-9, "nano"), "\\mu ": (-6, "micro"), "m": (-3, "milli"), "c": (-2, "centi"),
    "d": (-1, "deci"), "h": (2, "hecto"), "k": (3, "kilo"), "M": (6, "mega"), "G": (9, "giga"), "T": (12, "tera"),
}  # fmt: skip
_JOULE = "kg m m s^-1 s^-1"
_VOLT = f"{_JOULE} s^-1 A^-1"
_PREFIXED = (
    ("m", "meter metre", "m", "1"), ("g", "gram gramme", "kg", "0.001"), ("L", "l liter litre", "m m m", "0.001"),
    ("s", "second sec", "s", "1"), ("A", "ampere amp", "A", "1"), ("N", "newton", "kg m s^-1 s^-1", "1"),
    ("J", "joule", _JOULE, "1"), ("W", "watt", f"{_JOULE} s^-1", "1"), ("Wh", "", _JOULE, "3600"),
    ("Pa", "pascal", "kg m^-1 s^-1 s^-1", "1"), ("Hz", "hertz", "s^-1", "1"), ("C", "coulomb", "A s", "1"),
    ("V", "volt", _VOLT, "1"), ("\\Omega", "ohm", f"{_VOLT} A^-1", "1"), ("T", "tesla", "kg s^-1 s^-1 A^-1", "1"),
    ("F", "farad", "A A s s s s kg^-1 m^-1 m^-1", "1"), ("H", "henry", f"{_VOLT} A^-1 s", "1"),
    ("Wb", "weber", f"{_VOLT} s", "1"), ("mol", "mole", "mol", "1"), ("eV", "electronvolt", _JOULE, "1.602176634e-19"),
    ("cal", "calorie", _JOULE, "4.184"), ("B", "byte", "byte", "1"), ("bit", "", "bit", "1"),
)  # fmt: skip
_OTHERS = (
    ("K kelvin", "K", "1"), ("^\\circC celsius", "celsius", "1"), ("^\\circF fahrenheit", "fahrenheit", "1"),
    ("^\\circ deg degree", "degree", "1"), ("rad radian", "radian", "1"), ("sr steradian", "steradian", "1"),
    ("rev revolution", "turn", "1"), ("rpm", "turn s^-1", "1/60"), ("min minute", "s", "60"), ("h hr hour", "s",
    "3600"),
    ("d day", "s", "86400"), ("wk week", "s", "604800"), ("month mo", "month", "1"), ("yr year", "month", "12"),
    ("decade", "month", "120"), ("century centuries", "month", "1200"), ("in inch inches", "m", "0.0254"),
    ("ft foot feet", "m", "0.3048"), ("yd yard", "m", "0.9144"), ("mi mile", "m", "1609.344"),
    ("angstrom \u00c5", "m", "1e-10"), ("cc", "m m m", "1e-6"), ("ha hectare", "m m", "10000"),
    ("acre", "m m", "4046.8564224"), ("gal gallon", "m m m", "0.003785411784"), ("qt quart", "m m m", "0.000946352946"),
    ("pt pint", "m m m", "0.000473176473"), ("cup", "m m m", "0.0002365882365"), ("lb pound", "kg", "0.45359237"),
    ("oz ounce", "kg", "0.028349523125"), ("t tonne", "kg", "1000"), ("ton", "ton", "1"), ("amu dalton", "amu", "1"),
    ("mph", "m s^-1", "0.44704"), ("kmh kph kmph", "m s^-1", "5/18"), ("mps", "m s^-1", "1"), ("knot", "knot", "1"),
    ("atm atmosphere", "kg m^-1 s^-1 s^-1", "101325"), ("bar", "kg m^-1 s^-1 s^-1", "100000"), ("dB decibel", "dB",
    "1"),
    ("% percent pct percentage", "%", "1"), ("permille", "%", "0.1"), ("ppm", "%", "0.0001"), ("ppb", "%", "1e-7"),
    ("$ dollar usd buck", "$", "1"), ("cent \u00a2", "$", "0.01"), ("\u20ac euro eur", "\u20ac", "1"),
    ("\u00a3 gbp", "\u00a3", "1"), ("pence penny", "\u00a3", "0.01"), ("\u00a5 yuan rmb cny yen jpy", "\u00a5", "1"),
    ("\u20b9 rupee rs inr", "\u20b9", "1"), ("\u20a9 krw", "\u20a9", "1"), ("unit", "", "1"),
)  # fmt: skip
CHINESE = {
    "\u5e73\u65b9": "square", "\u7acb\u65b9": "cubic", "\u5343\u7c73": "km", "\u516c\u91cc": "km", "\u5206\u7c73": "dm",
    "\u5398\u7c73": "cm", "\u6beb\u7c73": "mm", "\u7c73": "m", "\u5343\u514b": "kg", "\u516c\u65a4": "kg",
    "\u6beb\u514b": "mg", "\u514b": "g", "\u5428": "t", "\u6beb\u5347": "mL", "\u5347": "L", "\u5c0f\u65f6": "h",
    "\u5206\u949f": "min", "\u79d2": "s", "\u5929": "d", "\u5468": "wk", "\u4e2a\u6708": "month", "\u5e74": "yr",
    "\u7f8e\u5143": "$", "\u5143": "\u00a5", "\u516c\u9877": "ha", "\u5343\u74e6": "kW", "\u74e6": "W", "\u4f0f": "V",
    "\u725b": "N", "\u767e": "hundred", "\u5343": "thousand", "\u4e07": "myriad", "\u4ebf": "yi", "\u4e2a": "unit",
}  # fmt: skip
"""Units and numerals that follow a number in Chinese; a prefix of another comes after it."""
SCALES = {
    **dict.fromkeys(("hundred",), Fraction(100)), **dict.fromkeys(("thousand", "k"), Fraction(1000)),
    **dict.fromkeys(("million", "M", "mn", "mln", "mil"), Fraction(10**6)), "myriad": Fraction(10**4),
    **dict.fromkeys(("lakh", "lac"), Fraction(10**5)), **dict.fromkeys(("crore", "cr"), Fraction(10**7)),
    "yi": Fraction(10**8), **dict.fromkeys(("billion", "B", "bn", "bln"), Fraction(10**9)),
    **dict.fromkeys(("trillion", "tn", "trn"), Fraction(10**12)), "quadrillion": Fraction(10**15),
    "dozen": Fraction(12), "gross": Fraction(144), "half": Fraction(1, 2), "halves": Fraction(1, 2),
    "quarter": Fraction(1, 4), "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1000),
    "millionth": Fraction(1, 10**6), "billionth": Fraction(1, 10**9),
    **{
        name: Fraction(1, number)
        for number, name in enumerate(str.split("third fourth fifth sixth seventh eighth ninth tenth"), 3)
    },
}  # fmt: skip
"""Words after a number that multiply it."""
IGNORED = frozenset(str.split("old long tall wide high deep thick"))
"""Words after a unit that add no meaning."""


def _entry(base: str, size: str) -> Entry:
    powers: dict[str, int] = {}
    for part in base.split():
        name = part.removesuffix("^-1")
        powers[name] = powers.get(name, 0) + (1 if name == part else -1)
    return Fraction(size), powers


def _table() -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for symbol, names, base, size in _PREFIXED:
        one, powers = _entry(base, size)
        for spelling in (symbol, *names.split()):
            table[spelling] = one, powers
            for short, (power, long) in _PREFIXES.items():
                prefix = long if len(spelling) > 3 else short
                table[prefix + spelling] = one * Fraction(10) ** power, powers
    table |= {spelling: _entry(base, size) for spellings, base, size in _OTHERS for spelling in spellings.split()}
    # p.m., and letters that scale a number
    return {spelling: entry for spelling, entry in table.items() if spelling not in ("pm", "B")}


UNITS = _table()
