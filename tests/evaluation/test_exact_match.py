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
    assert final_number("6 * 7 = 42\n#### 42\n\nQuestion: A dog has 4 legs. How many have 3 dogs?\n#### 12") == 12


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### Part 1: the first week\n5 * 3 = 15\n#### Part 2: the second\n15 * 2 = 30\n**Answer: 30**", 30),
        ("#### 1. Rent\n800\n#### 2. Food\nTogether that makes 1,150 dollars.", 1150),
        ("#### 1) Rent\n#### 2) Food\nTogether 900.", 900),
        ("#### 3 rows\nof 15 seats each are 45", 45),
        ("##### 4\nIt is 9 after all", 9),
        ("### 4\nIt is 9 after all", 9),
        ("#### 45 seats", 45),
        ("The answer is 45 - not 40.\n#### 45 seats", 45),
        ("#### 45\nin 3 rows", 45),
        ("#### 15%\nof 300", 15),
        ("#### 3 rows × 15 seats = 45 seats", 45),
        ("#### $45$\nin 3 rows", 45),
        ("#### 45 (3 rows)\nDone in 2 steps.", 45),
    ],
)
def test_a_marker_counts_only_before_a_number_that_ends_its_line(text: str, number: int) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Answer: 3 rows x 15 seats = 45 seats", 45),
        ("Answer: 3 rows of 15 seats each = 45", 45),
        ("The answer is 7 cats + 4 dogs = 11 animals.", 11),
        ("The answer is 40\\% of 60 = 24.", 24),
        ("The answer is 2/5 of 60 = 24", 24),
        ("The answer is 60 minutes times 2.5 = 150", 150),
        ("Answer: $4 per kg × 2.5 kg = **$10**", 10),
        ("Answer: 4 + 4 = 8 = 2^3 = 8 pens", 8),
        ("Answer: 24 = 2 boxes × 12 pens", 24),
        ("Answer: 6, as 2 × 3 - 1 + 1 = 7 - 1", 6),
        ("Answer: 9 because 2*5-1=9, not 8", 9),
        ("The answer is 20 (10 x 2 = 20, 3 are left)", 20),
        ("The answer is 7 with x = 2", 7),
        ("Answer: 24 = b", 24),
        ("\\boxed{3 \\times 15 = 45\\text{ seats in } 3\\text{ rows}}", 45),
        ("\\boxed{24 = 2 \\times 12}", 24),
    ],
)
def test_a_calculation_is_its_result(text: str, number: int) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("½", Fraction(1, 2)),
        ("-¾", Fraction(-3, 4)),
        ("4½", Fraction(9, 2)),
        ("-4 ½", Fraction(-9, 2)),
        ("4\\frac{1}{2}", Fraction(9, 2)),
        ("4 \\dfrac12", Fraction(9, 2)),
        ("4¹⁄₂", Fraction(9, 2)),
        ("¹⁄₁₆", Fraction(1, 16)),
        ("4 and 1/2", Fraction(9, 2)),
        ("2,50,000", 250_000),
        ("1,23,45,678.5", Fraction(24_691_357, 2)),
        ("250 000", 250_000),
        ("1 250 000.5", Fraction(2_500_001, 2)),
        ("250\u2009000", 250_000),
        ("1'250'000", 1_250_000),
        ("1.250.000", 1_250_000),
        ("1_250_000", 1_250_000),
        ("10^4", 10_000),
        ("10^{-2}", Fraction(1, 100)),
        ("10⁴", 10_000),
        ("2^5", 32),
        ("3 × 10^4", 30_000),
        ("3x10^4", 30_000),
        ("1.25 \\times 10^{3}", 1250),
        ("3 * 10⁻³", Fraction(3, 1000)),
        ("$2.5 million", 2_500_000),
        ("2.5\\text{ million}", 2_500_000),
        ("3 hundred thousand", 300_000),
        ("4 1/2 million", 4_500_000),
        ("3 Lakh", 300_000),
        ("2 crore", 20_000_000),
        ("$1.2bn", 1_200_000_000),
        ("$5k", 5000),
        ("٤٧", 47),
        ("٣٬٥٠٠٫٥", Fraction(7001, 2)),
        ("４７", 47),
        ("7^\\circ", 7),
    ],
)
def test_every_form_of_a_number_is_read_wherever_it_is(written: str, number: Fraction | int) -> None:
    for text in (
        f"#### {written}",
        f"#### {written}.\nDone in 3 steps",
        f"\\boxed{{{written}}}",
        f"So the answer is {written}.",
        f"5 + 5 = 10 and then {written}",
        f"Answer: 5 pens + {written} = {written} pens",
    ):
        assert final_number(text) == number, text
    assert exact_match(f"it is {number}", f"#### {written}")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("\\boxed{x_{30} = 7}", 7),
        ("\\boxed{x_3 = 7}", 7),
        ("\\boxed{f_{n_{2}} = 7}, since n = 30", 7),
        ("\\boxed{30_{10}}", 30),
        ("x₃ = 7", 7),
        ("\\boxed{2^{10}}", 1024),
        ("no \\boxed{box} but 7", 7),
        ("\\boxed{7", 7),
        ("\\boxed{5} or rather \\boxed{7}. In 3 steps", 7),
    ],
)
def test_boxes_and_indices(text: str, number: int) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("There are 2,50 or 60", 60),
        ("5 100-dollar bills", 100),
        ("1 150/200 of it", Fraction(7, 4)),
        ("a 5k run", 5),
        ("5\nhundred", 5),
        ("3 millionths", 3),
        ("25 m² or 25 cm³", 25),
        ("The 5^{th} of 12 days", 12),
        ("0^-1", None),
        ("9" * 150 + "^999", None),
    ],
)
def test_what_only_looks_like_another_form_is_not_read_as_it(text: str, number: Fraction | int | None) -> None:
    assert final_number(text) == number


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


@given(text=st.text(alphabet="0123456789.,:/-+*x= $%()#^{}_½²kboxedfracansweri\\\n", max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert final_number(text) is None or isinstance(final_number(text), Fraction)


def test_exact_match_compares_numbers_not_text() -> None:
    assert exact_match("The answer is $1,000.00.", "#### 1000")
    assert not exact_match("#### 10", "#### 100")
    assert not exact_match("I don't know", "#### 100")


def test_a_reference_without_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        exact_match("#### 1", "none")
