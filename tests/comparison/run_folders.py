"""Folders as `vitfw train` and a sweep leave them, written by hand."""

import json

import optuna
import yaml

optuna.logging.set_verbosity(optuna.logging.WARNING)


def write_run(folder, config=None, typed=(), metrics=None, accuracies=()):
    """A run of the config with dotted keys; without metrics it has not finished."""
    folder.mkdir(parents=True)
    tree = {"run_dir": str(folder), "callbacks": {"best": {"dirpath": f"{folder}/checkpoints"}}}
    for key, value in (config or {}).items():
        *above, last = key.split(".")
        node = tree
        for word in above:
            node = node.setdefault(word, {})
        node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([*typed, f"run_dir={folder}"]))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [f"{10 * i},{y},\n{10 * i + 5},,0.5\n" for i, y in enumerate(accuracies, 1)]
    (folder / "metrics.csv").write_text("step,val/accuracy,train/loss\n" + "".join(rows))
    return folder


def new_study(folder, directions=("maximize",), metrics=("val/accuracy_best",), journal=True):
    """A journal unless SQLite is asked for, whose tables take a second to make."""
    folder.mkdir(parents=True, exist_ok=True)
    if journal:
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
        storage = optuna.storages.JournalStorage(backend)
    else:
        storage = f"sqlite:///{folder}/study.db"
    study = optuna.create_study(study_name=folder.name, storage=storage, directions=directions)
    study.set_metric_names(list(metrics))
    return study


def add_trial(study, params, distributions, values=None, state="COMPLETE", **attributes):
    study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState[state],
            params=params,
            distributions=distributions,
            values=values,
            user_attrs=attributes,
        )
    )
