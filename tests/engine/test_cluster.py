"""The Ray engine on a local cluster of two nodes: same numbers, everything once, and what is lost when workers are."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import cluster_engines as ce
from cluster_engines import Arithmetic, Diary, Tiny, arithmetic

from remid.engine.cluster import ClusterEngine, ClusterSettings
from remid.engine.cluster_ray import RayCluster
from remid.engine.cluster_tasks import cut_works
from remid.engine.cluster_worker import ModelRecipe, name_everywhere
from remid.engine.local import LocalEngine
from remid.engine.work import Chat, Scored, Work
from remid.errors import EngineError
from remid.lm.chat import Message

ray = pytest.importorskip("ray", reason="the Ray engine is an extra: pip install remid[ray]")

SECRET = "sk-this-is-nobodys-key"
#: One Work per task, so that what is lost can be counted.
SMALL = ClusterSettings(workers=2, task_tokens=1)


@pytest.fixture(scope="module")
def nodes() -> Iterator[object]:
    """Two nodes with two processors each, as far as Ray is concerned; a dead node is noticed within a second."""
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)  # workers import this folder's engines
        patch.setenv("REMID_API_KEY", SECRET)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else workers wait for tests that run beside these
        quick = {"health_check_period_ms": 300, "health_check_failure_threshold": 2, "health_check_initial_delay_ms": 0}
        small = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
        cluster = Cluster(True, head_node_args={**small, "include_dashboard": False, "_system_config": quick})
        cluster.add_node(**small)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(nodes: object) -> Iterator[RayCluster]:
    with RayCluster(nodes.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def shared(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ClusterEngine, Path]]:
    """Two workers for tests that leave them alive or replaced, and the folder of their diary."""
    folder = tmp_path_factory.mktemp("shared")
    with ClusterEngine(cluster, Arithmetic(Diary(folder / "diary")), SMALL) as engine:
        yield engine, folder


@pytest.fixture
def engine(shared: tuple[ClusterEngine, Path]) -> ClusterEngine:
    return shared[0]


@pytest.fixture
def diary(shared: tuple[ClusterEngine, Path]) -> Diary:
    """The workers' diary, empty."""
    for path in shared[1].iterdir():
        path.unlink()
    return Diary(shared[1] / "diary")


def orders(*kinds: int, continuations: int = 3) -> list[Work]:
    """Works whose prompts differ and begin with these orders."""
    parts = tuple((7, 8, c) for c in range(continuations))
    return [Work((kind, 10 + place), parts) for place, kind in enumerate(kinds)]


def expected(work: Sequence[Work]) -> dict[tuple[int, int], bytes]:
    return {
        (w, c): arithmetic(each.prompt, each.continuations[c]).tobytes()
        for w, each in enumerate(work)
        for c in range(len(each.continuations))
    }


def numbers(results: Sequence[Scored]) -> dict[tuple[int, int], bytes | None]:
    """What was scored, by place; nothing may come twice."""
    places = Counter((r.work, r.continuation) for r in results)
    assert set(places.values()) <= {1}
    return {(r.work, r.continuation): None if r.logp_T is None else r.logp_T.tobytes() for r in results}


def score(engine: ClusterEngine, work: Sequence[Work]) -> list[Scored]:
    return [one for batch in engine.score(work) for one in batch]


def wait_until(condition: Callable[[], bool]) -> None:
    """For threads that watch a diary; a test that waits for ever is ended by its own failure after a minute."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


@contextmanager
def meanwhile(diary: Diary, act: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while the consumer waits for results, then let what is held go on."""

    def whole() -> None:
        try:
            act()
        finally:
            diary.gate.touch()

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(whole)
        yield
        future.result()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def random_work(kind: str = "llama") -> list[Work]:
    from tiny_models import conversations, ids

    system = ids(20, 1)
    return [
        Work(tuple(system + ids(5 + k, 100 + k)), tuple(map(tuple, conversations([3, 1, 9, 5], seed=k))))
        for k in range(6)
    ]


def test_two_workers_give_the_bytes_of_one_process(cluster: RayCluster, tmp_path: Path) -> None:
    recipe, work = Tiny("llama", Diary(tmp_path / "diary")), random_work()
    with ClusterEngine(cluster, recipe, ClusterSettings(2, task_tokens=80)) as engine:
        assert engine.wait() == 2
        # Threads of each worker, and how they wait.
        assert len(recipe.diary.read("threads 1 1 PASSIVE")) == 2
        found = numbers(score(engine, work))
        assert engine.name == "ray, 2 workers: tiny"
    assert len(found) == 24
    assert found == numbers([one for batch in Tiny("llama")().score(work) for one in batch])


def test_every_continuation_comes_once_and_every_work_is_computed_once(engine: ClusterEngine, diary: Diary) -> None:
    # One worker takes two of what is held at most, so another must come for the third.
    work = orders(*[ce.FINE] * 20, *[ce.HOLD] * 4)
    with meanwhile(diary, lambda: wait_until(lambda: len({entry["pid"] for entry in diary.read("held")}) == 2)):
        assert numbers(score(engine, work)) == expected(work)
    assert Counter(diary.computed()) == Counter(each.prompt for each in work)


def test_a_work_split_between_workers_comes_back_in_place(cluster: RayCluster, tmp_path: Path) -> None:
    (work,) = orders(ce.FINE, continuations=100)
    with ClusterEngine(cluster, Arithmetic(Diary(tmp_path / "diary")), SMALL) as engine:
        assert numbers(score(engine, [work])) == expected([work])
    assert len(Diary(tmp_path / "diary").computed()) > 5


def test_texts_come_back_in_place(engine: ClusterEngine) -> None:
    chats = [Chat((Message("user", f"text {k}"),)) for k in range(20)]
    written = [one for batch in engine.write(chats) for one in batch]
    assert {w.chat: w.text for w in written} == {k: f"text {k}"[::-1] for k in range(20)}
    assert len(written) == 20


def test_nothing_to_do_is_done_at_once(engine: ClusterEngine) -> None:
    assert list(engine.score([])) == []
    assert list(engine.write([])) == []


def test_a_killed_worker_costs_what_it_had_not_finished(engine: ClusterEngine, diary: Diary) -> None:
    work = orders(*[ce.FINE] * 6, ce.HOLD, *[ce.FINE] * 6)

    def kill() -> None:
        wait_until(lambda: bool(diary.read("held")))
        os.kill(diary.read("held")[0]["pid"], signal.SIGKILL)

    with meanwhile(diary, kill):
        assert numbers(score(engine, work)) == expected(work)
    assert Counter(diary.computed()) == Counter(each.prompt for each in work)
    assert len({entry["pid"] for entry in diary.read("done")}) >= 2


def test_a_whole_node_may_go(
    nodes: object, cluster: RayCluster, shared: tuple[ClusterEngine, Path], tmp_path: Path
) -> None:
    diary, said = Diary(tmp_path / "diary"), []
    node = nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    wait_until(lambda: cluster.room({"CPU": 1}) == 5)  # two are taken by the engine that tests share
    work = orders(*[ce.FINE] * 6, *[ce.HOLD] * 8, *[ce.FINE] * 6)

    def remove() -> None:
        wait_until(lambda: any(entry["node"] == node.node_id for entry in diary.read("held")))
        (pid,) = {entry["pid"] for entry in diary.read("held") if entry["node"] == node.node_id}
        nodes.remove_node(node, allow_graceful=False)
        wait_until(lambda: gone(pid))

    settings = ClusterSettings(workers=3, task_tokens=1)
    with ClusterEngine(cluster, Arithmetic(diary), settings, say=said.append) as engine, meanwhile(diary, remove):
        assert numbers(score(engine, work)) == expected(work)
    assert Counter(diary.computed()) == Counter(each.prompt for each in work)
    assert "lost a worker" in said[0]


def test_a_task_that_kills_every_worker_is_missing_and_its_neighbours_are_not(
    cluster: RayCluster, tmp_path: Path
) -> None:
    diary, said = Diary(tmp_path / "diary"), []
    work = orders(ce.FINE, ce.KILL, *[ce.FINE] * 7)
    settings = ClusterSettings(workers=2, task_tokens=33)
    together = next(task.items for task in cut_works(work, 33) if 1 in {p.work for p in task.items})
    assert len(together) == 3
    with ClusterEngine(cluster, Arithmetic(diary), settings, say=said.append) as engine:
        results = score(engine, work)
    found = numbers(results)
    assert {place for place, value in found.items() if value is None} == {(1, c) for c in range(3)}
    assert {place: value for place, value in found.items() if value is not None} == {
        place: value for place, value in expected(work).items() if place[0] != 1
    }
    reasons = {r.missing for r in results if r.logp_T is None}
    assert all(r.again for r in results if r.missing)
    assert reasons == {"3 workers died one after the other while they computed it (its process died)"}
    assert len(diary.read("killed")) == 3
    assert len(said) == 3


def test_a_chat_that_kills_every_worker_is_missing(engine: ClusterEngine) -> None:
    chats = [Chat((Message("user", text),)) for text in ("one", "kill", "two")]
    written = {one.chat: one for batch in engine.write(chats) for one in batch}
    assert {k: w.text for k, w in written.items()} == {0: "eno", 1: None, 2: "owt"}
    assert "3 workers died" in str(written[1].missing)
    assert not written[1].finished


def test_what_an_engine_cannot_score_is_missing_and_nothing_else(engine: ClusterEngine, diary: Diary) -> None:
    work = orders(ce.FINE, ce.NO_MODEL, ce.NO_MEMORY, ce.FINE)
    results = score(engine, work)
    assert {r.work: r.missing for r in results} == {
        0: None,
        1: "the prompt does not fit",
        2: "not enough memory on the worker: CUDA out of memory. Tried to allocate 20 GiB",
        3: None,
    }
    assert len(numbers(results)) == 12
    assert len(diary.computed()) == 2


def test_what_was_scored_before_memory_ran_out_is_kept(cluster: RayCluster, tmp_path: Path) -> None:
    work = orders(ce.FINE, ce.NO_MEMORY)
    with ClusterEngine(cluster, Arithmetic(Diary(tmp_path / "diary")), ClusterSettings(1)) as engine:
        (batch,) = engine.score(work)
    assert {r.work: r.logp_T is None for r in batch} == {0: False, 1: True}


def test_a_bug_keeps_its_type_and_the_engine_can_go_on(engine: ClusterEngine, diary: Diary) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        score(engine, orders(ce.BUG))
    work = orders(ce.FINE, ce.FINE)
    assert numbers(score(engine, work)) == expected(work)


def test_an_engine_that_can_do_nothing_more_ends_the_run(engine: ClusterEngine, diary: Diary) -> None:
    with pytest.raises(EngineError, match=r"nothing can be scored any more \(worker on .+\)"):
        score(engine, orders(ce.ENGINE_BROKEN))


@pytest.mark.parametrize(("order", "fault"), [(ce.TWICE, "twice or unasked"), (ce.SILENT, "1 of a task unanswered")])
def test_an_engine_that_miscounts_is_a_bug(engine: ClusterEngine, diary: Diary, order: int, fault: str) -> None:
    with pytest.raises(RuntimeError, match=fault):
        score(engine, orders(order))


def test_a_worker_whose_device_failed_is_replaced(engine: ClusterEngine, diary: Diary) -> None:
    work = orders(ce.CUDA_ONCE, ce.FINE)
    assert numbers(score(engine, work)) == expected(work)


def test_a_slow_consumer_bounds_what_waits_for_it(engine: ClusterEngine, diary: Diary) -> None:
    work, taken, most = orders(*[ce.FINE] * 40, continuations=1), 0, 0
    for batch in engine.score(work):
        if taken in (5, 20):  # long enough for workers to run as far ahead as they may
            before = -1
            while before != (before := len(diary.computed())):
                time.sleep(0.3)
        taken += len(batch)
        most = max(most, len(diary.computed()) - taken)
    assert taken == 40
    assert 0 < most <= 2 * 2


def test_who_stops_reading_can_ask_again(engine: ClusterEngine, diary: Diary) -> None:
    results = engine.score(orders(*[ce.FINE] * 10))
    next(results)
    with pytest.raises(RuntimeError, match="one call at a time"):
        next(engine.score(orders(ce.FINE)))
    results.close()
    work = orders(ce.FINE, ce.FINE)
    assert numbers(score(engine, work)) == expected(work)


def test_workers_that_all_die_end_the_run_with_what_is_finished_kept(cluster: RayCluster, tmp_path: Path) -> None:
    settings, diary = ClusterSettings(workers=1, task_tokens=1, retries=0), Diary(tmp_path / "diary")
    work = orders(ce.FINE, continuations=9) + orders(*[ce.KILL_LATER] * 8)
    kept: list[Scored] = []

    def consume(engine: ClusterEngine) -> None:
        for batch in engine.score(work):
            kept.extend(batch)
            diary.gate.touch()  # a worker that dies takes along answers that it has not sent yet: this one was sent

    with (
        ClusterEngine(cluster, Arithmetic(diary), settings) as engine,
        pytest.raises(EngineError, match="4 workers died and finished nothing in between; the last one died on"),
    ):
        consume(engine)
    assert [value for place, value in numbers(kept).items() if place[0] == 0] == list(expected(work[:1]).values())


def test_workers_that_die_while_loading_are_not_started_for_ever(cluster: RayCluster, tmp_path: Path) -> None:
    diary = Diary(tmp_path / "diary")
    with pytest.raises(EngineError, match=r"no worker is left .*3 workers died while loading the model"):
        ClusterEngine(cluster, Arithmetic(diary, die=True), ClusterSettings(1))
    assert len(diary.read("start")) == 3


def test_a_node_without_the_model_is_named(cluster: RayCluster, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"node .+ \([0-9a-f]{8}\): no such folder"):
        ClusterEngine(cluster, Arithmetic(Diary(tmp_path / "diary"), refuse="no such folder"), SMALL)


def test_nodes_with_different_engines_are_refused(cluster: RayCluster, tmp_path: Path) -> None:
    recipe = Arithmetic(Diary(tmp_path / "diary"), name="by process")
    with (
        pytest.raises(
            EngineError, match=r"would not compute the same numbers: .+ has number \d+, remid .+, torch .+; "
        ),
        ClusterEngine(cluster, recipe, SMALL) as engine,
    ):
        list(itertools.chain.from_iterable(score(engine, orders(ce.FINE)) for _ in itertools.count()))


def test_one_worker_gives_the_bytes_of_one_process_and_another_model_is_refused(
    cluster: RayCluster, tmp_path: Path
) -> None:
    from tiny_models import tiny
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tiny("llama").model.save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    from remid.lm.models import find_model

    source, work = find_model(str(tmp_path)), random_work()
    recipe = ModelRecipe(name_everywhere(source), source.fingerprint, "cpu", "float32", LocalEngine)
    with ClusterEngine(cluster, recipe, ClusterSettings(1)) as engine:
        found = numbers(score(engine, work))
    assert found == numbers([one for batch in Tiny("llama")().score(work) for one in batch])
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    with pytest.raises(EngineError, match=r"node .* is another model here"):
        ClusterEngine(cluster, recipe, ClusterSettings(1))


def test_a_recipe_that_a_node_cannot_import_is_refused_with_advice(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def engine():\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    with pytest.raises(EngineError, match="No module named 'only_here'; every node needs the same remid"):
        ClusterEngine(cluster, only_here.engine, ClusterSettings(1))


def test_a_cluster_without_room_says_what_there_is(cluster: RayCluster, tmp_path: Path) -> None:
    recipe = Arithmetic(Diary(tmp_path / "diary"))
    with pytest.raises(EngineError, match="no room for a worker with CPU=64; there are 2 nodes: CPU=2 memory="):
        ClusterEngine(cluster, recipe, ClusterSettings(threads=64))
    with pytest.raises(EngineError, match=r"no worker could be had .* for 0.1 s: each needs CPU=64"):
        ClusterEngine(cluster, recipe, ClusterSettings(workers=1, threads=64, patience=0.1))


def test_room_is_counted_node_by_node_and_by_the_scarcest(cluster: RayCluster) -> None:
    assert cluster.room({"CPU": 1}) == 4
    assert cluster.room({"CPU": 2}) == 2
    assert cluster.room({"CPU": 1, "GPU": 1}) == 0
    assert cluster.room({"CPU": 1, "memory": 1e15}) == 0
    assert cluster.resolve_device("auto") == "cpu"
    assert cluster.resolve_device("cuda:1") == "cuda"


def test_no_key_is_in_ray_s_files(engine: ClusterEngine, diary: Diary, nodes: object) -> None:
    score(engine, orders(ce.FINE))
    logs = [path for path in Path(nodes.head_node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert len(logs) > 5
    assert not [path for path in logs if SECRET.encode() in path.read_bytes()]


_LOCAL = """
import sys
from pathlib import Path
from cluster_engines import Arithmetic, Diary, arithmetic
from remid.engine.cluster import ClusterEngine, ClusterSettings
from remid.engine.cluster_ray import RayCluster
from remid.engine.work import Work
from remid.errors import EngineError

for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"):
    try:
        RayCluster(address)
    except EngineError as error:
        print(error)
with RayCluster(cpus=2) as cluster, ClusterEngine(cluster, Arithmetic(Diary(Path(sys.argv[1])))) as engine:
    ((one,),) = engine.score([Work((1, 2), ((3, 4),))])
    print(engine.name, one.logp_T.tobytes() == arithmetic((1, 2), (3, 4)).tobytes())
    print(*sorted({entry["pid"] for entry in Diary(Path(sys.argv[1])).read("done")}))
"""


def test_a_ray_of_our_own_is_quiet_and_ends_with_us(tmp_path: Path) -> None:
    # A process of its own: Ray connects once per process, and this one is connected.
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    # A home of its own as well, since Ray leaves a token there.
    environment |= {"PYTHONPATH": str(Path(__file__).parent), "HOME": str(tmp_path)}
    environment["RAY_worker_niceness"] = "0"
    command = [sys.executable, "-c", _LOCAL, str(tmp_path / "diary")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    first, second, third, engine, pid = done.stdout.splitlines()
    assert first.startswith("Ray on 127.0.0.1:9: nobody answers there")
    assert second.startswith("Ray on ray://127.0.0.1:9: nobody answers there")
    assert third.startswith("Ray on nonsense: ValueError: Invalid address format: nonsense; is it running there")
    assert engine == "ray, 2 workers: arithmetic True"
    assert done.stderr == ""
    assert gone(int(pid))


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install remid\[ray\]"):
        RayCluster()
