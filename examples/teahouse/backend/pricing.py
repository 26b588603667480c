"""What an order costs. All amounts are whole cents."""

BULK_QUANTITY = 10
BULK_DISCOUNT_PERCENT = 10


def order_total(price_cents: int, quantity: int) -> int:
    """The price of `quantity` packs; from ten packs on, a tenth is taken off, rounded to the cent."""
    if price_cents < 0 or quantity < 1:
        raise ValueError(f"cannot price {quantity} packs at {price_cents} cents")
    full = price_cents * quantity
    if quantity < BULK_QUANTITY:
        return full
    return (full * (100 - BULK_DISCOUNT_PERCENT) + 50) // 100
