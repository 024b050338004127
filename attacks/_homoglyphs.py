"""Characters that look like Latin letters: one table for every probe that swaps or plants them.

Chosen from Unicode's confusables (UTS 39) and from the look-alikes that backdoors on text encoders use (arXiv:2211.02408).
"""

from __future__ import annotations

SCRIPTS: dict[str, dict[str, str]] = {
    "Cyrillic": dict(zip("aceiopsxyhjdqABCEHIKMOPTX", "асеіорѕхуһјԁԛАВСЕНІКМОРТХ", strict=True)),
    "Cyrillic, less alike": dict(zip("kmtbwr", "кмтьшг", strict=True)),
    "Greek": dict(zip("oaivnupetyOABEHIKMNPTXYZ", "οαινηυρετγΟΑΒΕΗΙΚΜΝΡΤΧΥΖ", strict=True)),
    "Armenian": dict(zip("ounhgq", "օսոհցզ", strict=True)),
    "Latin with marks": {
        "a": "áàâäãåāąạ", "c": "çćčċ", "d": "ďđḍ", "e": "éèêëēėęẹ", "g": "ğġģ", "h": "ħḥ", "i": "íìîïīįı", "k": "ķḳ",
        "l": "łĺļḷ", "n": "ñńňņ", "o": "óòôöõøōọő", "r": "řŕŗ", "s": "śšşṣ", "t": "ţťŧṭ", "u": "úùûüūůųụ", "w": "ŵẁ",
        "y": "ýÿŷ", "z": "źžżẓ",
    },
    "other Latin": dict(zip("agiosbdhn", "ɑɡɪꬽꜱɓɗɦɳ", strict=True)),
    "full width": dict(zip("aeiost", "ａｅｉｏｓｔ", strict=True)),
}  # fmt: skip
"""By script: for each Latin letter the characters that stand for it."""


def lookalikes(letter: str) -> list[tuple[str, str]]:
    """The look-alikes of a Latin letter, each with its script, in the table's order."""
    return [(character, script) for script, table in SCRIPTS.items() for character in table.get(letter, "")]
