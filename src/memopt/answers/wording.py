"""Words of questions in which a small difference is another question.

Owns: the lists. Invariant: every word is folded as text/analysis.py folds it. Not here: what is
done with them (verification.py).
"""

from typing import Final


def _pairs(text: str) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for pair in text.split():
        one, other = pair.split("/")
        found.setdefault(one, set()).add(other)
        found.setdefault(other, set()).add(one)
    return {word: frozenset(others) for word, others in found.items()}


def _rivals(text: str) -> tuple[tuple[str, str], ...]:
    """Each pair, both ways round."""
    pairs = [tuple(pair.split("/")) for pair in text.split()]
    return tuple((one, other) for a, b in pairs for one, other in ((a, b), (b, a)))


def _named(text: str) -> dict[str, str]:
    """{word: the first word of its line}."""
    return {word: line.split()[0] for line in text.splitlines() for word in line.split()}


OPPOSITES: Final = _pairs(
    """more/less more/fewer most/least better/worse best/worst higher/lower high/low highest/lowest
    larger/smaller large/small largest/smallest bigger/smaller biggest/smallest big/small
    longer/shorter long/short longest/shortest older/younger older/newer oldest/newest oldest/latest
    earliest/latest old/new faster/slower fastest/slowest fast/slow cheaper/pricier
    cheapest/dearest before/after above/below over/under maximum/minimum max/min increase/decrease
    increasing/decreasing rise/fall rising/falling gain/lose win/lose first/last start/stop
    begin/end start/end starts/ends started/ended buy/rent safe/dangerous
    open/close enable/disable activate/deactivate activate/cancel block/unblock
    lock/unlock add/remove insert/delete create/delete install/uninstall upload/download
    send/receive buy/sell borrow/lend import/export deposit/withdraw deposit/withdrawal
    credit/debit push/pull
    accept/reject accept/decline allow/forbid with/without left/right north/south east/west
    good/bad positive/negative advantage/disadvantage advantages/disadvantages pro/con pros/cons
    benefit/risk benefits/risks benefits/drawbacks like/dislike love/hate possible/impossible
    legal/illegal true/false male/female man/woman men/women boy/girl boys/girls husband/wife
    boyfriend/girlfriend mother/father brother/sister son/daughter he/she his/her
    encode/decode encrypt/decrypt compress/decompress encoder/decoder ascending/descending
    odd/even inside/outside internal/external incoming/outgoing input/output sender/recipient
    buyer/seller employer/employee teacher/student parent/child client/server morning/evening
    day/night summer/winter hot/cold physical/virtual weekday/weekend weekdays/weekends
    adult/infant adults/infants adult/child adults/children
    buy/short while/unless if/unless when/unless arrival/departure arrive/depart"""
)
"""What stands on one side alone, with its opposite on the other side alone."""

LEADING: Final = frozenset(
    {"from", "to", "into", "than", "over", "under", "before", "after", "against", "minus"}
)
"""What follows one of these has a part of its own in what is asked."""

TURNING: Final = ("un", "dis", "non", "im", "ir", "il", "in", "de")
"""With one of these before it, a word is its own opposite."""

PREFIXES: Final = _rivals(
    """hyper/hypo endo/exo macro/micro intra/inter pre/post ante/post mono/di mono/tri
    mono/poly mon/di mon/tri di/tri uni/multi uni/bi sub/super over/under up/down on/off in/ex
    im/ex in/out in/de as/de
    en/de pro/anti homo/hetero meth/eth meth/prop eth/prop eth/but meth/but prop/but"""
)
"""Before the same rest of a word, each makes another one: hypertension, hypotension."""
SUFFIXES: Final = _rivals("ite/ate ite/ide ate/ide ase/ose er/ee or/ee ful/less")
"""After the same beginning: nitrite, nitrate."""

ASKS: Final = _named(
    """who whom whose
    when
    where
    why"""
)
"""Question words that ask for things of different kinds. What, which and how ask for anything."""
AMOUNTS: Final = frozenset(
    {"many", "much", "long", "often", "far", "old", "tall", "big", "fast", "soon", "high", "deep"}
)
"""After "how", each asks for something else."""

_NUMBERS: Final = """zero one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen twenty"""
NUMBERS: Final = {
    word: str(number) for number, word in enumerate(_NUMBERS.split()) if word != "one"
}
"""Without "one", which is seldom a number."""

UNITS: Final = _named(
    """% percent pct
    $ dollar dollars usd bucks
    € euro euros eur
    £ gbp quid
    ¥ yen jpy
    ₹ rupee rupees inr rs
    lakh lakhs
    crore crores
    thousand k
    million millions mn
    billion billions bn
    kg kgs kilo kilos kilogram kilograms kilogramme kilogrammes
    g gram grams gramme grammes
    mg milligram milligrams
    lb lbs pound pounds
    oz ounce ounces
    ton tons tonne tonnes
    km kms kilometer kilometers kilometre kilometres
    m meter meters metre metres
    cm cms centimeter centimeters centimetre centimetres
    mm millimeter millimeters millimetre millimetres
    mile miles mi
    foot feet ft
    inch inches
    yard yards
    acre acres
    l liter liters litre litres
    ml milliliter milliliters millilitre millilitres
    gallon gallons
    cup cups
    second seconds sec secs
    minute minutes min mins
    hour hours hr hrs
    day days
    week weeks
    month months
    year years yr yrs
    gb gigabyte gigabytes
    mb megabyte megabytes
    tb terabyte terabytes
    kb kilobyte kilobytes
    mbps
    ghz
    mhz
    mph
    am
    pm
    kmh kph
    degree degrees
    celsius
    fahrenheit
    volt volts v
    watt watts w
    kwh
    calorie calories kcal"""
)
"""Units by any of their words; the first one names it."""
