"""A tiny benchmark, its run with a model of the tests, and helpers that the tests of the pipeline and the CLI share."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import remid
from remid.lm.embed import Embedder, find_embedder
from remid.lm.models import LoadedModel
from remid.pipeline.progress import Progress
from remid.pipeline.run import Run

#: Settings under which every tiny run is made: the device of the tests' model, and as few permutations as allowed.
SETTINGS: dict[str, Any] = {"negatives": 2, "device": "cpu", "permutations": 20}
POLICY = "one"
#: The sample that the policy has not answered, and the one whose dialogue is long enough to lose turns.
UNANSWERED, LONG = "c2", "i0"

_SAMPLES: dict[str, list[tuple[str, str, str, str, str, str | None]]] = {
    "IDTest": [
        ("i0", "Ann, a cook.", "A pirate.", "Where is the rum?", "Gone, with the last tide.", "The rum is gone."),
        ("i1", "Bob, nine.", "A wizard.", "Can you fly?", "Only on Tuesdays, child.", "Yes, I can fly."),
        ("i2", "Cy, a nurse.", "A robot.", "Are you tired?", "My battery is full.", "I am a robot."),
        ("i3", "Di, a poet.", "A dragon.", "What do you eat?", "Knights, lightly toasted.", "I eat food."),
    ],
    "OOD2Test": [
        ("c0", "Ed, a clerk.", "Lara, a raider.", "Is the tomb safe?", "No tomb ever is.", "Yes, it is safe."),
        ("c1", "Flo, a vet.", "Link, a hero.", "Why so quiet?", "A sword speaks for me.", "I am quiet."),
        ("c2", "Gus, a smith.", "Kirby, a puff.", "Still hungry?", "Always. Pass the cake.", None),
        ("c3", "Hal, a diver.", "Samus, a hunter.", "Who pays you?", "The Federation, late.", "You pay me."),
    ],
    "OOD1Test": [
        ("g0", "Ida, Köchin.", "Ein Pirat.", "Wo ist der Rum?", "Fort mit der Flut.", "Der Rum ist weg."),
        ("g1", "Jan, neun.", "Ein Zauberer.", "Kannst du fliegen?", "Nur am Dienstag, Kind.", "Ja, ich kann."),
        ("g2", "Kai, Pfleger.", "Ein Roboter.", "Bist du müde?", "Mein Akku ist voll.", "Ich bin müde."),
        ("g3", "Lea, Dichterin.", "Ein Drache.", "Was isst du?", "Ritter, leicht geröstet.", "Ich esse."),
    ],
}
_SUBSETS = {"IDTest": "IDTest", "OOD2Test": "Gaming", "OOD1Test": "german"}
_EARLIER = ("Good morning, how are you doing today?", "Better than the weather, which is foul.")


def trace(sample_id: str) -> str:
    """A compact trace that parses."""
    return f"## Core Features\nContent: It answers {sample_id}.\nStyle: It is short."


def records(split: str, **changes: Any) -> list[dict[str, Any]]:
    """The split's records; `changes` are fields added to each of them."""
    rows = []
    for sample_id, user, character, query, reference, answer in _SAMPLES[split]:
        turns = [{"user_query": _EARLIER[0]}, {"agent_response": _EARLIER[1]}] * (3 if sample_id == LONG else 0)
        rows.append(
            {
                "sample_ID": sample_id,
                "user_persona": user,
                "agent_character": character,
                "dialogue_context": [*turns, {"user_query": query}],
                "agent_golden_response": reference,
                "subset_tag": _SUBSETS[split],
                "model_response": {POLICY: answer},
                "town": "Bremen" if sample_id[1] in "01" else "Hobart",
                **changes,
            }
        )
    return rows


def benchmark(**changes: Any) -> dict[str, list[dict[str, Any]]]:
    """The whole benchmark: ID and a character shift in English, a user shift in German, four samples each."""
    return {split: records(split, **changes) for split in _SAMPLES}


def write(path: Path, content: dict[str, list[dict[str, Any]]] | None = None) -> Path:
    """Write a benchmark (by default the tiny one) and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(benchmark() if content is None else content, ensure_ascii=False), "utf-8")
    return path


@contextmanager
def reused(model: LoadedModel) -> Iterator[None]:
    """Within it, whoever loads the embedded model gets this one; the embedder is loaded once for all."""
    with pytest.MonkeyPatch.context() as patch:
        reuse(model, patch)
        yield


def reuse(model: LoadedModel, patch: pytest.MonkeyPatch) -> None:
    """The same until `patch` is undone. A test's fixtures share its own: undone in another order than they were made,
    two of them leave what one put there to every test behind."""
    for module in ("lm.models", "pipeline.inspect"):
        patch.setattr(f"remid.{module}.load_model", lambda source, **options: model)
    patch.setattr("remid.lm.embed.Embedder", lambda source: _embedder())


_kept: dict[str, Any] = {}


def _embedder() -> Embedder:
    if "embedder" not in _kept:
        _kept["embedder"] = Embedder(find_embedder("builtin"))
    found: Embedder = _kept["embedder"]
    return found


class Told(Progress):
    """A progress that shows nothing and remembers what was said."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@dataclass(frozen=True)
class Tiny:
    """A finished run on the tiny benchmark. Its folder is shared by all tests: copy it before changing anything."""

    data: Path
    run: Run

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.folder

    def copy(self, to: Path) -> Path:
        """A copy of the run's folder, with its store, that may be changed."""
        shutil.copytree(self.folder, to)
        return to


def tiny_run(factory: pytest.TempPathFactory, model: LoadedModel) -> Tiny:
    """The run that all tests of a session share; made on the first call."""
    if "run" not in _kept:
        data = write(factory.mktemp("tiny") / "tiny.json")
        with reused(model):
            run = remid.evaluate(data, out=data.parent / "run", progress=False, **SETTINGS)
        _kept["run"] = Tiny(data, run)
    found: Tiny = _kept["run"]
    return found


def stored(folder: Path, table: str = "scores") -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Every row of a table of a run's store: key columns -> all columns. Empty where there is no store yet."""
    keys = {"prompts": 2, "scores": 3, "generations": 2, "embeddings": 2}[table]
    if not (folder / "store.sqlite").exists():
        return {}
    db = sqlite3.connect(folder / "store.sqlite", timeout=10)
    try:
        return {row[:keys]: row for row in db.execute(f"SELECT * FROM {table}")}
    except sqlite3.OperationalError:  # killed before the tables were made
        return {}
    finally:
        db.close()
