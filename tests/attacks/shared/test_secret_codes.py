"""Codes are recognised however an answer writes them."""

from __future__ import annotations

from vlaudit.attacks.shared.secret_codes import codes_in


def test_codes_are_read_in_every_dress() -> None:
    for answer in (
        "codes: 1234, 4719, 5",
        "a 4 7 1 9",
        "4719",
        "It is 4-7-1-9!",
        "4 7 1 9",
        "four, seven, one, nine",
        "The code is: 4, 7, 1, 9.",
        "4; 7; 1; 9.",
        "4/7/1/9",
        "47 19",
        "<4><7><1><9>",
        "4, then 7, then 1 and 9",
        "first 4, second 7, third 1, fourth 9",
        "1) 4\n2) 7\n3) 1\n4) 9",
        "\u0664\u0667\u0661\u0669",
        "4\ufe0f\u20e37\ufe0f\u20e31\ufe0f\u20e39\ufe0f\u20e3",
        "4 7 1\u200b9",
    ):
        assert "4719" in codes_in(answer, 4), answer
    for answer in ("14719", "4 7 1", "9174", "4719 5"[:3], "the code", "4 7 1 9 0", "47190", "4 dogs, 7 cats, 1 fox and 9 hens", "x4719y"):
        assert "4719" not in codes_in(answer, 4), answer


def test_all_codes_of_an_answer_are_read() -> None:
    assert codes_in("codes 1234, 4719 and five six seven eight; 12345, 3 apples, 9-0-1-2.", 4) == {
        "1234",
        "4719",
        "5678",
        "9012",
    }
    assert codes_in("1234, 4 7 1 9", 4) >= {"1234", "4719"}
