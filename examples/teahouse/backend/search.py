"""From what a visitor types to a query: every word must be in the name, the kind or the origin."""

TEA_COLUMNS = "id, name, kind, origin, price_cents, description"
MAX_WORDS = 8


def tea_query(text: str | None) -> tuple[str, list[str]]:
    """The SQL and its arguments; no words means every tea."""
    words = (text or "").split()[:MAX_WORDS]
    clauses = [f"concat_ws(' ', name, kind, origin) ilike ${number}" for number in range(1, len(words) + 1)]
    where = f" where {' and '.join(clauses)}" if clauses else ""
    # Only numbered placeholders are put into the text; the visitor's words travel as arguments.
    sql = f"select {TEA_COLUMNS} from teas{where} order by name, id limit 200"  # noqa: S608
    return sql, [f"%{escape_like(word)}%" for word in words]


def escape_like(word: str) -> str:
    """The word with LIKE's own signs made ordinary ones."""
    return word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
