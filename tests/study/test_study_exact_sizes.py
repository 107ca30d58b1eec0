"""The bound against n where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from remid.data.worlds.discrete import DiscreteWorld, random_worlds
from remid.estimate.exact import emid
from remid.estimate.exact_bounds import paper_form
from remid.study.exact_sizes import QUANTITIES, bound_against_n_exact, table_quantities

WORLDS = random_worlds(30, (2, 3, 2, 3), 7)


def laws(w: DiscreteWorld) -> list[np.ndarray]:
    p, q = w.p_UAD[..., None], w.q_UAD[..., None]
    return [p * w.policy_UADY, p * w.reference_p_UADY, q * w.policy_UADY, q * w.reference_q_UADY]


def test_exact_tables_give_the_exact_bound_and_emid() -> None:
    found = table_quantities(*laws(WORLDS))
    wanted = paper_form(
        WORLDS.p_UAD, WORLDS.q_UAD, WORLDS.policy_UADY, WORLDS.reference_p_UADY, WORLDS.reference_q_UADY
    )
    assert found["bound"] == pytest.approx(wanted)
    assert found["emid"] == pytest.approx(emid(*WORLDS.flat()), abs=1e-12)
    assert sum(found[f"share_{z}"] for z in ("user", "character", "dialogue")) == pytest.approx(1.0)


def entropy(law: dict[object, float]) -> float:
    return -sum(p * np.log(p) for p in law.values() if p > 0)


def summed(table: np.ndarray, key: object) -> dict[object, float]:
    made: dict[object, float] = {}
    for index in np.ndindex(table.shape):
        name = key(index)  # type: ignore[operator]
        made[name] = made.get(name, 0.0) + float(table[index])
    return made


def js(a: dict[object, float], b: dict[object, float]) -> float:
    mean = {k: (a.get(k, 0) + b.get(k, 0)) / 2 for k in a | b}
    return entropy(mean) - (entropy(a) + entropy(b)) / 2


def test_empirical_tables_agree_with_a_readable_twin() -> None:
    rng = np.random.default_rng(1)
    tables = [rng.multinomial(25, np.full(36, 1 / 36)).reshape(2, 3, 2, 3) / 25 for _ in range(4)]
    for pair in ((0, 1), (2, 3)):  # policy and reference answer the same inputs
        same = tables[pair[0]].sum(-1, keepdims=True)
        tables[pair[1]] = np.concatenate([same, 0 * same, 0 * same], axis=-1)
    found = table_quantities(*tables)
    information = [
        entropy(summed(t, lambda i: i[:3])) + entropy(summed(t, lambda i: i[3])) - entropy(summed(t, lambda i: i))
        for t in tables
    ]
    assert found["emid"] == pytest.approx(information[0] - information[1] - information[2] + information[3])
    outputs = [summed(t, lambda i: i[3]) for t in tables]
    assert found["delta"] == pytest.approx(js(outputs[0], outputs[1]) + js(outputs[2], outputs[3]))
    assert found["output_entropy"] == pytest.approx(entropy(outputs[0]))
    assert found["conditional_max"] == pytest.approx(0.0)  # the reference always says the same
    for z, name in enumerate(("user", "character", "dialogue")):
        sides = [summed(tables[k], lambda i, z=z: i[z]) for k in (0, 2)]  # type: ignore[misc]
        assert found[f"js_{name}"] == pytest.approx(js(*sides), abs=1e-12)


def test_plug_ins_come_to_the_truth_and_their_biases_have_the_known_signs() -> None:
    rows = bound_against_n_exact(WORLDS, sizes=(10, 100, 100_000), draws=4, seed=1)
    assert [row["n"] for row in rows] == [10, 100, 100_000, None]
    for name in QUANTITIES:
        errors = [row[f"{name}_rmse"] for row in rows]
        assert errors[3] == 0
        assert errors[2] < 0.5 * errors[0] or errors[2] < 0.02, name
    few = rows[0]
    assert few["output_entropy"] < few["output_entropy_exact"]
    assert few["js_user"] > few["js_user_exact"]
    assert few["delta"] > few["delta_exact"]
    assert rows[2]["follows_bound"]["pearson"] > rows[0]["follows_bound"]["pearson"]
    assert rows[3]["follows_bound"]["pearson"] == pytest.approx(1.0)
    assert rows[2]["bound"] == pytest.approx(rows[3]["bound"], rel=0.05)


def test_the_same_seed_gives_the_same_rows_and_bad_settings_are_refused() -> None:
    once = bound_against_n_exact(WORLDS, sizes=(20,), draws=2, seed=3)
    assert once == bound_against_n_exact(WORLDS, sizes=(20,), draws=2, seed=3)
    assert once != bound_against_n_exact(WORLDS, sizes=(20,), draws=2, seed=4)
    for settings in ({"sizes": (0,)}, {"sizes": ()}, {"sizes": (5,), "draws": 0}):
        with pytest.raises(ValueError, match="at least"):
            bound_against_n_exact(WORLDS, **settings)  # type: ignore[arg-type]
