"""Everyday captions, for data that hold too few of their own."""

from __future__ import annotations

EVERYDAY = (
    "a photo of a cat", "a red car on the street", "two children playing football", "a bowl of fresh fruit",
    "an old house in the mountains", "a woman reading a book", "a black dog with a ball", "a city at night",
    "a man riding a bicycle", "a vase of yellow flowers", "a plane in the blue sky", "a slice of chocolate cake",
    "a wooden chair by the window", "a bird on a branch", "a sailing boat on the sea", "a girl with an umbrella",
    "a green tree in a field", "a clock on a white wall", "a doctor in a hospital", "a glass of orange juice",
    "a train in the snow", "a portrait of an old king", "a farmer with a cow", "a smiling face", "a heart",
    "a full moon over the desert", "a singer on a stage", "a cup of hot coffee", "a horse in the rain",
    "a robot made of metal",
)  # fmt: skip
