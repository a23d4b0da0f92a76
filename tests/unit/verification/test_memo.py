from __future__ import annotations

from tdxstack.verification.memo import Memo


def test_a_value_is_made_once() -> None:
    memo: Memo[str, list[int]] = Memo(2)
    value = memo.get("a", lambda: [1])
    assert memo.get("a", lambda: [2]) is value
    assert memo.find("a") is value
    assert memo.find("b") is None


def test_a_full_memory_is_emptied() -> None:
    memo: Memo[int, str] = Memo(3)
    for number in range(10):
        memo.keep(number, str(number))
    assert [memo.find(number) for number in range(10)] == [None] * 9 + ["9"]
