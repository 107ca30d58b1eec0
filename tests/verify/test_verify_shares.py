"""The table of shares: what is claimed of the sparse shares, and that the others fall short somewhere."""

from __future__ import annotations

from remid.verify.shares import share_rows


def test_sparse_shares_name_the_shifted_component_whatever_mechanism_moved() -> None:
    rows = share_rows(300, 5)
    assert len(rows) == 18
    for row in rows:
        assert 200 < row.n <= 300
        if row.method == "sparse":
            assert row.attributed >= 0.9
            assert row.named >= 0.95
    assert min(row.attributed for row in rows if row.method == "Shapley") < 0.7
    assert min(row.attributed for row in rows if row.method == "paper") < 0.8
