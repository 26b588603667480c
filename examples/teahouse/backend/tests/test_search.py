from search import MAX_WORDS, escape_like, tea_query


def test_no_words_find_every_tea():
    for text in (None, "", "   "):
        sql, words = tea_query(text)
        assert "where" not in sql
        assert words == []


def test_every_word_must_match_and_travels_as_an_argument():
    sql, words = tea_query("green japan")
    assert "ilike $1 and" in sql
    assert "ilike $2" in sql
    assert words == ["%green%", "%japan%"]


def test_what_a_visitor_types_never_gets_into_the_sql():
    sql, words = tea_query("'; drop table teas; --")
    assert "drop" not in sql
    assert "%drop%" in words


def test_signs_of_like_are_ordinary_signs():
    assert escape_like(r"50%_\ ") == r"50\%\_\\ "


def test_a_novel_is_cut_to_a_few_words():
    assert len(tea_query("tea " * 50)[1]) == MAX_WORDS
