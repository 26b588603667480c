import pytest

from migrate import FOLDER
from passwords import hash_password, verify_password


def test_a_password_matches_its_own_hash_and_no_other():
    kept = hash_password("lapsang")
    assert verify_password("lapsang", kept)
    assert not verify_password("Lapsang", kept)


def test_the_same_password_is_kept_differently_each_time():
    assert hash_password("lapsang") != hash_password("lapsang")


def test_the_hash_does_not_show_the_password():
    assert "lapsang" not in hash_password("lapsang")


@pytest.mark.parametrize(
    "kept", ["", "lapsang", "md5$1$2$3$4$5", "scrypt$x$8$1$AAAA$AAAA", "scrypt$3$8$1$AAAA$AAAA"]
)
def test_a_text_that_is_no_hash_matches_nothing(kept):
    assert not verify_password("lapsang", kept)


def test_the_demo_user_of_the_migration_can_log_in():
    sql = (FOLDER / "002_first_stock.sql").read_text(encoding="utf-8")
    kept = next(part for part in sql.split("'") if part.startswith("scrypt$"))
    assert verify_password("guest", kept)
