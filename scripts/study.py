"""Run a study: the same training with one thing changed at a time, over several seeds.

python scripts/study.py benchmarks/studies/NAME.yaml [--workers 2] [--folder runs/studies]

Each run is a `vitfw train` in a process of its own, with one thread and one core of its own, so
that speeds within a study compare. Runs that have ended are not run again: a study that was
stopped goes on when the same command is given; one whose runs would now be others is refused. It
writes benchmarks/results/study_NAME.json and prints a table.

The file has `common` overrides, `seeds`, a `metric` of metrics.json, `first` (runs that others
begin from) and `runs`: name → overrides, in which {folder} and {seed} stand for what they say. What
comes first under `runs` is what the others are compared with.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import torch
import yaml

from vitfw.benchmarks.record import store
from vitfw.config import compose, to_plain
from vitfw.start import differences

ROOT = Path(__file__).resolve().parents[1]
Job = tuple[str, int, list[str]]  # name of the run, seed, overrides


def jobs_of(study: dict[str, Any], stage: str) -> list[Job]:
    return [
        (name, seed, [*study["common"], *words])
        for seed in study["seeds"]
        for name, words in study.get(stage, {}).items()
    ]


def folder_of(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}-{seed}"


def run(job: Job, folder: Path, cores: "Queue[int]") -> dict[str, Any]:
    """The metrics of a run, which is made unless it has been."""
    name, seed, _ = job
    place = folder_of(folder, name, seed)
    if not (place / "metrics.json").exists():
        core = cores.get()
        command = [sys.executable, "-m", "vitfw", "train", *words_of(job, folder)]
        ended = subprocess.run(
            [*command, f"run_dir={place}"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            capture_output=True,
            text=True,
        )
        cores.put(core)
        if ended.returncode:
            raise SystemExit(f"{name}, seed {seed}: {ended.stderr[-2000:]}")
    return json.loads((place / "metrics.json").read_text(encoding="utf-8"))


def words_of(job: Job, folder: Path) -> list[str]:
    """What `vitfw train` is told."""
    _, seed, words = job
    return [*(word.format(folder=folder, seed=seed) for word in words), f"seed={seed}"]


def refuse_another(job: Job, folder: Path) -> None:
    """Raises SystemExit if the run that was kept is not the one that the job would make today."""
    place = folder_of(folder, *job[:2])
    if not (place / "metrics.json").exists():
        return
    saved = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
    now = to_plain(compose("train", words_of(job, folder)))
    if changed := differences(saved, now):
        raise SystemExit(
            f"{place} holds a run of another config: {'; '.join(changed)}. Give another --folder, "
            "or remove it"
        )


def summary(study: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Per run: the metric of each seed, mean, deviation; difference and speed beside the first."""
    rows, metric = {}, study["metric"]
    whole = next(iter(found.values()))
    for name, metrics in found.items():
        values = [one[metric] for one in metrics]
        differences = [a - b[metric] for a, b in zip(values, whole, strict=True)]
        speed = statistics.mean(one["train/images_per_second"] or 0 for one in metrics)
        usual = statistics.mean(one["train/images_per_second"] or 0 for one in whole)
        rows[name] = {
            "values": values,
            "mean": round(statistics.mean(values), 5),
            "deviation": round(statistics.stdev(values), 5) if len(values) > 1 else None,
            "difference": round(statistics.mean(differences), 5),
            "relative_speed": round(speed / usual, 3) if usual else None,
            "params": metrics[0]["params"],
            "params_trained": metrics[0].get("params_trained"),
            "git_commits": sorted({str(one.get("git_commit")) for one in metrics}),
        }
    return rows


def table(rows: dict[str, Any]) -> str:
    """The same as Markdown, accuracies in percent."""
    lines = ["| | accuracy, % | difference | images/s |", "|---|---|---|---|"]
    for name, row in rows.items():
        spread = "" if row["deviation"] is None else f" ± {100 * row['deviation']:.2f}"
        lines.append(
            f"| {name} | {100 * row['mean']:.2f}{spread} | {100 * row['difference']:+.2f} | "
            f"{row['relative_speed']:.2f} × |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "studies")
    asked = parser.parse_args()
    study = yaml.safe_load(asked.study.read_text(encoding="utf-8"))
    folder = (asked.folder / asked.study.stem).resolve()
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[: asked.workers]:
        cores.put(core)
    found: dict[str, list[dict[str, Any]]] = {}
    for stage in ("first", "runs"):
        jobs = jobs_of(study, stage)
        for job in jobs:
            refuse_another(job, folder)
        with ThreadPoolExecutor(asked.workers) as pool:
            results = pool.map(lambda job: run(job, folder, cores), jobs)
            for number, (job, metrics) in enumerate(zip(jobs, results, strict=True), start=1):
                print(f"{number}/{len(jobs)}  {job[0]}, seed {job[1]}", flush=True)
                if stage == "runs":
                    found.setdefault(job[0], []).append(metrics)
    rows = summary(study, found)
    path = ROOT / "benchmarks" / "results" / f"study_{asked.study.stem}.json"
    torch.set_num_threads(1)  # as each run has: what the file is to say
    store({"study": study, "runs": rows}, torch.device("cpu"), path)
    print(table(rows))


if __name__ == "__main__":
    main()
