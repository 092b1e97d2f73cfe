from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualselect.evaluation import exact_match, final_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7\n#### 7", 7),
        ("#### $1,234.50", Fraction(2469, 2)),
        ("####42.", 42),
        ("#### 12,345,678 people", 12345678),
        ("#### **18**", 18),
        ("#### \u22128", -8),
        ("#### -$5", -5),
        ("#### .5", Fraction(1, 2)),
        ("#### 3/4", Fraction(3, 4)),
        ("The answer is -3.", -3),
        ("the final answer is: $12.00 per week", 12),
        ("Answer: 18 apples\nI used 2 steps.", 18),
        ("The answer to question 3 is 12 apples", 12),
        ("So \\boxed{7} it is, not 8.", 7),
        ("\\boxed{\\frac{3}{4}}", Fraction(3, 4)),
        ("\\boxed{1{,}250\\text{ km}}", 1250),
        ("10-3=7 apples", 7),
        ("10 - 3", 3),
        ("It costs 50%", 50),
        ("There are 3, 4 or 5.", 5),
        ("5 apples.\n####", 5),
        ("#### five", None),
        ("", None),
    ],
)
def test_final_number_is_read_as_a_person_would(text: str, number: Fraction | int | None) -> None:
    assert final_number(text) == number


def test_the_last_marker_decides() -> None:
    assert final_number("#### 1\nno, wait\n#### 2") == 2


@given(number=st.integers(-(10**9), 10**9), cents=st.integers(0, 99), grouped=st.booleans())
def test_every_way_of_writing_a_number_is_the_same_number(number: int, cents: int, grouped: bool) -> None:
    written = f"{number:,}" if grouped else str(number)
    expected = Fraction(number) + (Fraction(cents, 100) if number >= 0 else -Fraction(cents, 100))
    for text in (
        f"#### {written}.{cents:02d}",
        f"The answer is {written}.{cents:02d}.",
        f"x = {written}.{cents:02d} m",
    ):
        assert final_number(text) == expected


def test_exact_match_compares_numbers_not_text() -> None:
    assert exact_match("The answer is $1,000.00.", "#### 1000")
    assert not exact_match("#### 10", "#### 100")
    assert not exact_match("I don't know", "#### 100")


def test_a_reference_without_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        exact_match("#### 1", "none")
