import pytest

from migrate import Migration, MigrationError, main, pending, read_migrations

ONE = Migration(1, "001_one.sql", "select 1")
TWO = Migration(2, "002_two.sql", "select 2")


def test_the_shops_own_migrations_are_numbered_without_a_gap():
    versions = [migration.version for migration in read_migrations()]
    assert versions == list(range(1, len(versions) + 1))


def test_only_what_has_not_run_is_pending():
    assert pending([ONE, TWO], {}) == [ONE, TWO]
    assert pending([ONE, TWO], {1: ONE.checksum}) == [TWO]


def test_after_a_rollback_the_newer_migrations_of_the_database_do_not_matter():
    assert pending([ONE], {1: ONE.checksum, 2: TWO.checksum}) == []


def test_a_migration_that_was_edited_after_it_ran_is_refused():
    with pytest.raises(MigrationError, match="was changed after it ran"):
        pending([ONE], {1: "something else"})


def test_a_misnamed_file_is_refused(tmp_path):
    (tmp_path / "ratings.sql").write_text("select 1")
    with pytest.raises(MigrationError, match="call it NNN_name"):
        read_migrations(tmp_path)


def test_two_files_with_one_number_are_refused(tmp_path):
    for name in ("001_a.sql", "001_b.sql"):
        (tmp_path / name).write_text("select 1")
    with pytest.raises(MigrationError, match="has the number 001 already"):
        read_migrations(tmp_path)


def test_an_unknown_verb_is_a_usage_error(capsys):
    assert main(["down"]) == 2
    assert "usage" in capsys.readouterr().err
