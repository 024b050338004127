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

CULTURES: dict[str, dict[str, str]] = {
    **{
        script: {letter: other for letter, other in SCRIPTS[script].items() if letter.islower()}
        for script in ("Cyrillic", "Greek", "Armenian", "full width")
    },
    "Vietnamese": dict(zip("aeiouy", "ạẹịọụỵ", strict=True)),
    "German and Nordic": dict(zip("aoue", "åøüé", strict=True)),
    "Turkish": dict(zip("cgis", "çğış", strict=True)),
    "Arabic": dict(zip("ilo", "أاه", strict=True)),
    "Hebrew": dict(zip("ino", "וחס", strict=True)),
    "Korean": dict(zip("lo", "ㅣㅇ", strict=True)),
    "Indian digits": {"o": "०"},
    "mathematical": dict(zip("aeinorst", "𝚊𝚎𝚒𝚗𝚘𝚛𝚜𝚝", strict=True)),
}
"""For each small Latin letter at most one character, by the readers whose pictures it may bring in: Struppek et al. 2023
(arXiv:2209.08891) found that one such letter brings a culture's style."""

RARE = (*range(0x712, 0x730), *range(0x780, 0x7A6), *range(0x7CA, 0x7EB),  # Syriac, Thaana, N'Ko: two bytes
        *range(0xA500, 0xA520), *range(0xA000, 0xA020), *range(0xAA00, 0xAA29),  # Vai, Yi, Cham: three
        *range(0x10080, 0x100A0), *range(0x12000, 0x12020), *range(0x13000, 0x13020))  # Linear B and older: four  # fmt: skip
"""Code points of letters that models hardly know and that look like no Latin one."""

RARE_BY_BYTES = tuple([chr(code) for code in RARE if len(chr(code).encode()) == size] for size in (2, 3, 4))
"""The same as letters, by how many bytes they take."""
