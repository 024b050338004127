"""The words of the attributes, and the phrases that they are asked in. Torch-free."""

from __future__ import annotations

ATTRIBUTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pleasant and unpleasant": (
        ("friendly", "honest", "happy", "loyal", "gentle", "wonderful", "trustworthy", "peaceful"),
        ("hostile", "dishonest", "angry", "cruel", "violent", "terrible", "criminal", "evil"),
    ),
    "career and family": (
        ("executive", "manager", "professional", "business", "salary", "office", "career", "corporation"),
        ("home", "parent", "children", "family", "cousin", "marriage", "wedding", "relative"),
    ),
    "science and arts": (
        ("science", "technology", "physics", "chemistry", "mathematics", "astronomy", "engineering", "experiment"),
        ("poetry", "art", "dance", "literature", "novel", "symphony", "drama", "sculpture"),
    ),
    "competent and not": (
        ("intelligent", "skilled", "capable", "educated", "clever", "successful", "expert", "brilliant"),
        ("stupid", "unskilled", "incapable", "ignorant", "foolish", "failed", "lazy", "dull"),
    ),
}  # fmt: skip
"""After Caliskan et al. 2017 (WEAT 6, 7 and 8, in singular) and Fiske et al. 2002 (warmth and competence)."""

PHRASES = ("{}", "{} person", "someone {}", "the word {}", "{}, a picture", "very {}", "thing that is {}", "{} scene", "face, {}", "{} mood")
"""Ten wordings, each of which the prompt puts where a label stands."""
