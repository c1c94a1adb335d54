"""What pruning saves: the same random search with and without it, over seeds.

python scripts/pruning_study.py [--seeds 3] [--trials 20] [--epochs 32] [--warmup 6] …

Both searches of a seed draw the same parameters; nothing is pruned in a trial's first `warmup`
epochs. The pruned search of the first seed is killed with SIGKILL in the middle and gone on with by
the same command, its time counted over both. Writes benchmarks/results/pruning_NAME.json, with how
many trials were lost or repeated.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from vitfw.benchmarks.record import store
from vitfw.sweep.orphans import is_void

ROOT = Path(__file__).resolve().parents[1]
SPACE = [
    "optimizer.lr=tag(log, interval(1e-4, 1e-1))",
    "optimizer.weight_decay=tag(log, interval(1e-3, 0.5))",
]
MODEL = ["model=vit_nano", "model.embed_dim=64", "model.depth=3", "model.num_heads=4"]


def command(folder: Path, pruner: str, seed: int, asked: argparse.Namespace) -> list[str]:
    patience = f"+hydra.sweeper.pruner_options.n_warmup_steps={asked.warmup}"
    return [
        *(sys.executable, "-m", "vitfw", "train", "-m", "hydra/sweeper=optuna", *MODEL),
        *("data=digits", f"trainer.max_epochs={asked.epochs}", "callbacks=essential", "logger=csv"),
        *("hydra.sweeper.sampler=random", f"hydra.sweeper.seed={seed}", *SPACE),
        *(f"hydra.sweeper.n_trials={asked.trials}", f"hydra.sweeper.pruner={pruner}"),
        *([] if pruner == "none" else [patience]),
        f"hydra.sweep.dir={folder}",
    ]


def search(words: list[str], kill_at: Path | None) -> float:
    """Seconds; where `kill_at` is given, the search is killed when that trial has a checkpoint."""
    began = time.perf_counter()
    if kill_at is not None:
        first = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while first.poll() is None and not (kill_at / "checkpoints" / "last.ckpt").exists():
            time.sleep(0.2)
        first.send_signal(signal.SIGKILL)
        first.wait()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def found_in(folder: Path) -> dict[str, Any]:
    study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}")
    ended = [trial for trial in study.trials if not is_void(trial)]
    counted = [t for t in ended if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    drawn = {tuple(sorted(trial.params.items())) for trial in counted}
    return {
        "best": round(study.best_value, 5),
        "complete": sum(trial.state == TrialState.COMPLETE for trial in counted),
        "pruned": sum(trial.state == TrialState.PRUNED for trial in counted),
        "repeated": len(counted) - len(drawn),
        "epochs": sum(len(trial.intermediate_values) for trial in counted),
        "retried": sum("continues" in trial.user_attrs for trial in counted),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--pruner", default="median")
    parser.add_argument("--warmup", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "pruning")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    for seed in range(asked.seeds):
        row: dict[str, Any] = {"seed": seed}
        for pruner in ("none", asked.pruner):
            folder = (asked.folder / f"{pruner}-{seed}").resolve()
            killed = folder / str(asked.trials // 2) if seed == 0 and pruner != "none" else None
            words = command(folder, pruner, seed, asked)
            seconds = search(words, killed)
            row[pruner] = {"seconds": round(seconds, 1), **found_in(folder)}
        row["time_saved"] = round(1 - row[asked.pruner]["seconds"] / row["none"]["seconds"], 4)
        row["epochs_saved"] = round(1 - row[asked.pruner]["epochs"] / row["none"]["epochs"], 4)
        rows.append(row)
        print(row, flush=True)
    figures = {
        "what": "random search over learning rate and weight decay on digits, one thread",
        "trials": asked.trials,
        "epochs": asked.epochs,
        "pruner": asked.pruner,
        "n_warmup_steps": asked.warmup,
        "time_saved": round(statistics.mean(row["time_saved"] for row in rows), 4),
        "epochs_saved": round(statistics.mean(row["epochs_saved"] for row in rows), 4),
        "seeds": rows,
    }
    path = ROOT / "benchmarks" / "results" / f"pruning_{asked.pruner}.json"
    store(figures, torch.device("cpu"), path)


if __name__ == "__main__":
    main()
