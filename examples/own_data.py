"""Records in a layout of one's own, a mapping file, a run (python examples/own_data.py).

Writes everything it needs below runs/own-data. The data are made up and far too few to conclude anything from: the
report says so. What carries over to real data is the shape of the three files.
"""

import json
from pathlib import Path

import remid
from remid.data import check, read_benchmark, render

#: (id, market, user, character, the user's line, the reference reply, what the bot replied)
LOG = [
    ("1", "home", "Anna, a nurse.", "Captain Mara, gruff.", "Is the harbour safe?", "Mind the ropes.", "Yes."),
    ("2", "home", "Ben, a baker.", "Lady Ash, a poet.", "Do you like bread?", "I rhyme it with dread.", "It is nice."),
    ("3", "home", "Cleo, a diver.", "Ott, a robot.", "Can you swim?", "Water voids my warranty.", "I swim well."),
    ("4", "home", "Dan, a judge.", "Old Fenn, a thief.", "Where were you?", "Asleep, your honour.", "At home."),
    ("5", "abroad", "Eva, Köchin.", "Captain Mara, gruff.", "Was gibt es heute?", "Fisch. Immer Fisch.", "Guten Tag."),
    ("6", "abroad", "Falk, Bauer.", "Lady Ash, a poet.", "Magst du Regen?", "Er reimt sich auf Segen.", "Ja, sehr."),
    ("7", "abroad", "Gerd, Arzt.", "Ott, a robot.", "Hast du Schmerzen?", "Nur im linken Zahnrad.", "Nein, danke."),
    ("8", "abroad", "Hanna, Richterin.", "Old Fenn, a thief.", "Wem gehört der Ring?", "Mir.", "Das weiß ich nicht."),
]

MAPPING = {
    "fields": {
        "sample_ID": "id",
        "subset_tag": "market",
        "user_persona": "user.about",
        "agent_character": "bot",
        "dialogue_context": "messages",
        "agent_golden_response": "approved_reply",
        "model_response": "replies",
    }
}
TAXONOMY = {"shifts": {"id": {"subsets": ["home"]}, "user": {"subsets": ["abroad"]}}}


def write_files(folder: Path) -> dict[str, Path]:
    """The log as JSONL, and the two files that explain it."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        {
            "id": id_,
            "market": market,
            "user": {"about": user},
            "bot": character,
            "messages": [{"role": "user", "content": said}],
            "approved_reply": reference,
            "replies": {"my-bot": reply},
        }
        for id_, market, user, character, said, reference, reply in LOG
    ]
    files = {name: folder / name for name in ("log.jsonl", "mapping.json", "taxonomy.json")}
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    files["log.jsonl"].write_text("".join(lines), encoding="utf-8")
    files["mapping.json"].write_text(json.dumps(MAPPING, indent=1), encoding="utf-8")
    files["taxonomy.json"].write_text(json.dumps(TAXONOMY, indent=1), encoding="utf-8")
    return files


def main(folder: Path = Path("runs/own-data"), **settings: str) -> None:
    """Write, check, measure, print."""
    files = write_files(folder)
    how = {"mapping": files["mapping.json"], "taxonomy": files["taxonomy.json"]}
    print(render(check(read_benchmark([files["log.jsonl"]], **how))))
    run = remid.evaluate(files["log.jsonl"], out=folder / "run", **how, **settings)
    for row in run.rows("remid", policy="my-bot", unit="nats/response", subset=None):
        print(f"my-bot under the {row['shift']} shift: R-EMID {row['value']} ({row['ci_low']} to {row['ci_high']})")
    for warning in run.result["warnings"]:
        print("!", warning["text"])
    print(folder / "run" / "report.html")


if __name__ == "__main__":
    main()
