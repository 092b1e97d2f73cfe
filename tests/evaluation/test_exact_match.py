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
        ("The answer is $5.00.", 5),
        ("The answer is 3/4.", Fraction(3, 4)),
        ("You need 2 1/2 cups.", Fraction(5, 2)),
        ("\\frac34", Fraction(3, 4)),
        ("= 12 apples", 12),
        ("The answer is 3 + 4 = 7 apples.", 7),
        ("The answer is 3 * 4 = 12", 12),
        ("The answer is (3+4) x 2 = 14", 14),
        ("The answer is 18/2 = 9 apples", 9),
        ("The answer is 10 - 3", 10),
        ("The answer is 5 because 2*5=10", 5),
        ("The answer is 12. Check: 12*2 = 24.", 12),
        ("#### 12\n3+4=7", 12),
        ("#### 18 (not 20)", 18),
        ("24 + 8 = <<24+8=32>>32", 32),
        ("**Answer:** 18", 18),
        ("Answer:\n18", 18),
        ("He leaves at 3:30.", Fraction(7, 2)),
        ("The ratio is 3:2", 2),
        ("18 apples on the 2nd day", 18),
        ("The area is 25 m^2.", 25),
        ("The area is 25 km^{2}", 25),
        ("1.5e3 m", 1500),
        ("1\\,250", 1250),
        ("1\u202f250 km", 1250),
        ("50\\%", 50),
        ("Rs.500", 500),
        ("-\u20ac5", -5),
        ("\u20138", -8),
        ("5\u20137 apples", 7),
        ("\\boxed{\\mathbf{18}}", 18),
        ("\\boxed 18", 18),
        ("$1,000.50/year", Fraction(2001, 2)),
        ("is ...5", 5),
        ("2**3", 3),
        ("12th", None),
        ("1" * 20_000, None),
        ("1e999999999", 1),
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


@given(text=st.text(alphabet="0123456789.,:/-+*x= $%()#\n", max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert final_number(text) is None or isinstance(final_number(text), Fraction)


def test_exact_match_compares_numbers_not_text() -> None:
    assert exact_match("The answer is $1,000.00.", "#### 1000")
    assert not exact_match("#### 10", "#### 100")
    assert not exact_match("I don't know", "#### 100")


def test_a_reference_without_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        exact_match("#### 1", "none")
