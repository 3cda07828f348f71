"""What a sentence encoder's fine-tunes inherit: MiniLM, two classifiers made of it, tracked at one MLP.

    python examples/minilm.py DATA OUT

DATA is a folder of labelled texts (JSON Lines with "text" and "label") and of one plain text:
medical_abstracts.{train,test}.jsonl, cad_imdb.{train,test}.jsonl, and wikitext2_valid_test.jsonl in it or in
../text. OUT gets two fine-tunes, a family file, and a run with its page. Everything is done by the commands that
are printed; done parts are kept, so that the script can be called again after an interruption.

The model comes from a package archive (fetched once, known by its sha256). The features are compared on test texts
of both sets and on an encyclopedia: none of it was trained on. About 20 minutes on one core.
"""

import subprocess
import sys
from pathlib import Path

from heredity.checkpoint import Checkpoint
from heredity.corpora.packaged import MINILM
from heredity.family import Family, Member

SETS = {"abstracts": "medical_abstracts", "reviews": "cad_imdb"}
SITE = "encoder.layer.2.output.dense:input"
TUNING = ("epochs=2", "max_tokens=48", "learning_rate=5e-5", "head_learning_rate=1e-3")
TRACKING = (
    "text.context=64", "text.held_out=0.5", "text.shared_tokens=45_000", "sae.stream_tokens=120_000",
    "sae.latents=4096", "sae.k=32", "sae.tokens=600_000", "sae.evaluation_tokens=8_000", "explain=300",
)  # fmt: skip


def main(data: Path, out: Path) -> None:
    """Fine-tune, write the family file, track."""
    for name, texts in SETS.items():
        if not (out / name / "finetune.json").exists():
            run(
                "finetune", MINILM, "--data", data / f"{texts}.train.jsonl", "-o", out / name, "--limit", 2000,
                *(part for one in TUNING for part in ("--set", one)),
            )  # fmt: skip
    members = [Member(name="minilm", path=str(Checkpoint.open(MINILM).path))]
    members += [Member(name=n, path=n, parents=("minilm",), labels={"domain": n}) for n in SETS]
    Family("minilm", members).save(out / "family.toml")
    wiki = next(p for p in (data, data.parent / "text") if (p / "wikitext2_valid_test.jsonl").exists())
    text = [f"{name}=jsonl:{data / texts}.test.jsonl" for name, texts in SETS.items()]
    text.append(f"encyclopedia=jsonl:{wiki / 'wikitext2_valid_test.jsonl'}")
    resume = ["--resume"] if (out / "run" / "run.json").exists() else []
    run(
        "track", out / "family.toml", "--site", SITE, *(part for one in text for part in ("--data", one)),
        *(part for one in TRACKING for part in ("--set", one)), "-o", out / "run", *resume,
    )  # fmt: skip


def run(*arguments: object) -> None:
    """Print a heredity command and run it."""
    words = [str(one) for one in arguments]
    print("$ heredity", *words, flush=True)
    subprocess.run([sys.executable, "-m", "heredity", *words], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
