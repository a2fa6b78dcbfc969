"""Symbols: the LaTeX for signs that people type, and alternative spellings of LaTeX commands."""

import unicodedata

DROPPED = frozenset(
    str.split(
        "left right mleft mright middle big Big bigg Bigg bigl bigr bigm Bigl Bigr Bigm biggl biggr Biggl Biggr "
        "displaystyle textstyle scriptstyle limits nolimits hline rm bf it sf mathstrut strut"
    )
)
"""Commands that set size, position or font."""
FONTS = frozenset(
    str.split(
        "text textrm textbf textit textsf texttt textnormal mathrm mathbf mathit mathsf mathtt mbox hbox operatorname "
        "bm boldsymbol mathnormal"
    )
)
"""Commands that set their argument in another font."""
BLANKS = frozenset([*str.split(", ; : > ~"), " ", "quad", "qquad", "enspace", "thinspace", "medspace", "thickspace"])
SPELLINGS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le", "geq": "ge",
    "leqslant": "le", "geqslant": "ge", "ne": "neq", "to": "rightarrow", "longrightarrow": "rightarrow",
    "gets": "leftarrow", "longleftarrow": "leftarrow", "varnothing": "emptyset", "lbrace": "{", "rbrace": "}",
    "bar": "overline", "cdotp": "cdot", "bullet": "cdot", "lvert": "vert", "rvert": "vert", "mid": "vert",
    "arctg": "arctan", "tg": "tan", "ctg": "cot", "varphi": "phi", "varepsilon": "epsilon", "land": "wedge",
    "lor": "vee",
    "iff": "Leftrightarrow", "implies": "Rightarrow", "Longrightarrow": "Rightarrow", "infin": "infty",
    "Reals": "mathbb{R}", "R": "mathbb{R}",
}  # fmt: skip
"""Commands by their alternative names."""
MARKS = {
    "lt": "<", "gt": ">", "%": "%", "$": "$", "degree": "^\\circ ", "textdegree": "^\\circ ", "vert": "|", "ast": "*",
    "lbrack": "[", "rbrack": "]", "colon": ":", "#": "#", "_": "_", "textdollar": "$", "euro": "\u20ac",
    "pounds": "\u00a3", "lparen": "(", "rparen": ")", "percent": "%", "prime": "'", "div": "/", "!": "", "/": "",
}  # fmt: skip
"""Commands that stand for a plain sign."""
FUNCTIONS = {
    **dict.fromkeys(str.split("sin cos tan cot sec csc sinh cosh tanh coth"), "trigonometric function"),
    **dict.fromkeys(str.split("arcsin arccos arctan arccot asin acos atan"), "inverse trigonometric function"),
    **dict.fromkeys(str.split("log ln lg"), "logarithm"),
    "exp": "power of a constant",
    **{
        name: name
        for name in str.split("gcd lcm max min sup inf det floor ceil round abs arg rank tr dim Re Im deg hcf")
    },
}
"""Kind of operator of each function, by name."""

_SIGNS = {
    "\u2212\u2010\u2011\ufe63": "-", "\u2014\u2015": "-", "\u00d7\u2715\u2a2f": "\\times ",
    "\u00b7\u22c5\u2219\u2022": "\\cdot ", "\u00f7\u2215\u2044": "/", "\u221a": "\\sqrt ", "\u221e": "\\infty ",
    "\u2264\u2a7d": "\\le ", "\u2265\u2a7e": "\\ge ", "\u2260": "\\neq ", "\u2248": "\\approx ", "\u00b1": "\\pm ",
    "\u222a": "\\cup ", "\u2229": "\\cap ", "\u2208": "\\in ", "\u2205": "\\emptyset ", "\u2216": "\\setminus ",
    "\u00b0\u00ba\u5ea6": "^\\circ ", "\u2103": "^\\circ C", "\u2109": "^\\circ F", "\u222b": "\\int ",
    "\u2211": "\\sum ", "\u220f": "\\prod ", "\u25b3\u2206": "\\triangle ", "\u2220": "\\angle ",
    "\u22a5": "\\perp ", "\u2225": "\\parallel ", "\u2192": "\\rightarrow ", "\u2190": "\\leftarrow ",
    "\u2194": "\\leftrightarrow ", "\u21d2": "\\Rightarrow ", "\u21d4": "\\Leftrightarrow ", "\u230a": "\\lfloor ",
    "\u230b": "\\rfloor ", "\u2308": "\\lceil ", "\u2309": "\\rceil ", "\u211d": "\\mathbb{R}", "\u2124": "\\mathbb{Z}",
    "\u2115": "\\mathbb{N}", "\u211a": "\\mathbb{Q}", "\u2032\u2019\u2018": "'", "\u2033": "''", "\u201c\u201d": '"',
    "\u3002": ".", "\u3001": ",", "\u301c\u223c": "~", "\u3010": "[", "\u3011": "]", "\u2030": " permille",
    "\u00b5": "\\mu ", "\u2202": "\\partial ", "\u2026": "\\ldots ", "\u2223": "|", "\u2236": ":",
    "\u2009\u2006\u2007\u2008\u200a": "\\,",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau upsilon "
    "phi chi psi omega"
)
TYPED: dict[int, str] = {ord(sign): latex for signs, latex in _SIGNS.items() for sign in signs}
"""LaTeX for non-ASCII signs, for ``str.translate``."""
for _at, _name in enumerate(_GREEK.split()):
    TYPED[0x3B1 + _at] = f"\\{_name} "
for _letter in str.split("Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"):
    TYPED[ord(unicodedata.lookup(f"GREEK CAPITAL LETTER {'LAMDA' if _letter == 'Lambda' else _letter}"))] = (
        f"\\{_letter} "
    )
for _at in (0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F)):
    _above, _below = unicodedata.normalize("NFKC", chr(_at)).split("\u2044")
    TYPED[_at] = f"\\frac{{{_above}}}{{{_below}}}"

RAISED = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f", "0123456789+-n"
)
LOWERED = str.maketrans("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789")
