"""The SQL of the checks: each question counts the violations of one, over the tables that checks.py registers.

``part`` is the part with ``place``, the number of each row; ``pairs`` has a row for each item of each list (``list``
names the list), nulls included; ``seen``, ``catalogue``, ``suppressed_items``, ``suppressed_users`` hold raw ids.
"""

from __future__ import annotations

PAIRS = {
    "list": "CREATE TEMP TABLE pairs AS SELECT place AS list, user_id, unnest(item_ids) AS item_id FROM part",
    "long": "CREATE TEMP TABLE pairs AS SELECT user_id AS list, user_id, item_id FROM part",
}

_USER_NULL = "SELECT count(*) FROM part WHERE user_id IS NULL"

_WITH_USER_BEFORE = """
SELECT count(*)
FROM (SELECT user_id, lag(user_id IGNORE NULLS) OVER (ORDER BY place) AS user_before FROM part)
"""

_RANK_ORDER = """
SELECT count(*)
FROM (
    SELECT rank, CASE WHEN user_id IS NOT DISTINCT FROM lag(user_id) OVER by_place
                      THEN coalesce(lag(rank) OVER by_place, 0) + 1 ELSE 1 END AS next_rank
    FROM part WINDOW by_place AS (ORDER BY place)
)
WHERE rank IS DISTINCT FROM next_rank
"""

_LIST_LENGTH = """
SELECT count(*)
FROM (SELECT status, source, coalesce(len(item_ids), 0) AS items FROM part), wanted
WHERE CASE status
    WHEN 'ok' THEN items <> top_k
    WHEN 'short' THEN items >= top_k
    WHEN 'unknown' THEN items > 0
    WHEN 'failed' THEN items > 0
    WHEN 'degraded' THEN items > CASE source WHEN 'none' THEN 0 ELSE top_k END
    ELSE items > top_k
END
"""

_LONG_LENGTH = """
SELECT count(*) FROM (SELECT count(*) AS items FROM part GROUP BY user_id), wanted WHERE items > top_k
"""

_UNEQUAL_LENGTHS = """
SELECT count(*) FROM part
WHERE item_ids IS NULL OR scores IS NULL OR len(item_ids) <> len(scores)
"""

_UNEQUAL_PROPENSITIES = """
SELECT count(*) FROM part
WHERE item_ids IS NULL OR scores IS NULL OR propensities IS NULL
   OR len(item_ids) <> len(scores) OR len(item_ids) <> len(propensities)
"""

_STATUS_SOURCE = """
SELECT count(*)
FROM part SEMI JOIN statuses USING (status) SEMI JOIN sources USING (source) ANTI JOIN fitting USING (status, source)
"""

OF_LAYOUT = {
    "list": {
        "user_null": _USER_NULL,
        "user_order": _WITH_USER_BEFORE + "WHERE user_id <= user_before",
        "unequal_lengths": _UNEQUAL_LENGTHS,
        "status_word": "SELECT count(*) FROM part ANTI JOIN statuses USING (status)",
        "source_word": "SELECT count(*) FROM part ANTI JOIN sources USING (source)",
        "status_source": _STATUS_SOURCE,
        "list_length": _LIST_LENGTH,
        "score": "SELECT count(*) FROM (SELECT unnest(scores) AS score FROM part) "
        "WHERE NOT coalesce(isfinite(score), false)",
    },
    "long": {
        "user_null": _USER_NULL,
        "user_order": _WITH_USER_BEFORE + "WHERE user_id < user_before",
        "rank_order": _RANK_ORDER,
        "list_length": _LONG_LENGTH,
        "score": "SELECT count(*) FROM part WHERE NOT coalesce(isfinite(score), false)",
    },
}

OF_SAMPLED = {
    "list": {
        "unequal_lengths": _UNEQUAL_PROPENSITIES,
        # NaN is the largest of all numbers to DuckDB, hence not within.
        "propensity": "SELECT count(*) FROM (SELECT unnest(propensities) AS propensity FROM part) "
        "WHERE NOT coalesce(propensity > 0 AND propensity <= 1, false)",
    },
    "long": {
        "propensity": "SELECT count(*) FROM part WHERE NOT coalesce(propensity > 0 AND propensity <= 1, false)",
    },
}

OF_PAIRS = {
    "repeated_item": "SELECT coalesce(sum(times - 1), 0) FROM "
    "(SELECT count(*) AS times FROM pairs WHERE item_id IS NOT NULL GROUP BY list, item_id)",
    "not_in_catalogue": "SELECT count(*) FROM pairs ANTI JOIN catalogue USING (item_id)",
    "suppressed_item": "SELECT count(*) FROM pairs SEMI JOIN suppressed_items USING (item_id)",
    "suppressed_user": "SELECT count(*) FROM part SEMI JOIN suppressed_users USING (user_id)",
}

OF_SEEN = {
    "seen_item": "SELECT count(*) FROM pairs JOIN seen USING (user_id) WHERE list_contains(seen, item_id)",
    "seen_missing": "SELECT count(*) FROM (SELECT DISTINCT user_id FROM part WHERE user_id IS NOT NULL) "
    "ANTI JOIN seen USING (user_id)",
}

BY_STATUS = "SELECT coalesce(status, 'null'), count(*) FROM part GROUP BY 1 ORDER BY 1"
