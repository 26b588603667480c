import pytest

from pricing import order_total


def test_a_few_packs_cost_their_price_each():
    assert order_total(890, 1) == 890
    assert order_total(890, 9) == 8010


def test_from_ten_packs_on_a_tenth_is_taken_off():
    assert order_total(890, 10) == 8010
    assert order_total(1000, 20) == 18000


def test_the_discount_is_rounded_to_the_cent_and_halves_go_up():
    assert order_total(1, 15) == 14  # 13.5
    assert order_total(1, 11) == 10  # 9.9


def test_more_packs_never_cost_less_than_one_pack_fewer_below_the_discount():
    assert all(order_total(490, n) > order_total(490, n - 1) for n in range(2, 10))


@pytest.mark.parametrize(("price", "quantity"), [(890, 0), (890, -1), (-1, 1)])
def test_what_cannot_be_priced_is_refused(price, quantity):
    with pytest.raises(ValueError, match="cannot price"):
        order_total(price, quantity)
